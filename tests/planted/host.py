"""Programs that wait for Python, for values, for data or for a compiler (H01 to H16, E11), and such as do not."""

from __future__ import annotations

import io
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from planted.program import Fed, Step, clean, planted


def net(width: int = 128, layers: int = 4) -> nn.Sequential:
    blocks = [m for _ in range(layers) for m in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*blocks)


def training(model: nn.Module, x: Tensor) -> Step:
    """One step of training with a fused optimizer."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, fused=True)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


# H01: more time to start operators than to run them


@planted("H01", also=("F01", "F11", "F12", "F20", "F21"))
def recurrence_by_hand() -> Step:
    x, h0 = torch.randn(48, 4, 16), torch.zeros(4, 16)
    gates, hidden = nn.Linear(16, 48), nn.Linear(16, 48)

    def step() -> Tensor:
        h = h0
        with torch.no_grad():
            for t in range(x.shape[0]):
                a, b = gates(x[t]), hidden(h)
                reset, update, new = a.chunk(3, -1)
                r, z, n = b.chunk(3, -1)
                keep = torch.sigmoid(update + z)
                h = torch.tanh(new + torch.sigmoid(reset + r) * n) * (1 - keep) + keep * h
        return h

    return step


@planted("H01", also=("F01", "F20", "F21"))
def physics_of_few_bodies() -> Step:
    position, velocity = torch.randn(8, 3), torch.zeros(8, 3)

    def step() -> Tensor:
        p, v = position, velocity
        for _ in range(40):
            apart = p[None] - p[:, None]
            inverse = (apart.square().sum(-1) + 1e-3).rsqrt()
            force = (apart * inverse.pow(3)[..., None]).sum(1)
            v = v + 1e-3 * force
            p = p + 1e-3 * v
        return p

    return step


# H02: tensors read element by element


@planted("H02")
def accuracy_by_item() -> Step:
    model, x, y = net(64, 2), torch.randn(256, 64), torch.randint(0, 64, (256,))

    def step() -> float:
        predicted = model(x).argmax(-1)
        correct = 0
        for i in range(len(predicted)):
            if predicted[i].item() == y[i].item():
                correct += 1
        return correct / len(y)

    return step


@planted("H02")
def threshold_by_bool() -> Step:
    model, x = net(64, 2), torch.randn(512, 64)

    def step() -> int:
        scores = torch.sigmoid(model(x).mean(-1))
        kept = 0
        for score in scores:
            if score > 0.5:
                kept += 1
        return kept

    return step


@planted("H02")
def histogram_by_int() -> Step:
    values = torch.randint(0, 16, (1000,))

    def step() -> list[int]:
        counts = [0] * 16
        for value in values:
            counts[int(value)] += 1
        return counts

    return step


@planted("H02")
def products_by_float() -> Step:
    x, w = torch.randn(200), torch.randn(200)
    return lambda: sum(float(x[i] * w[i]) for i in range(200))


@clean
def values_by_tolist() -> Step:
    model, x, y = net(128, 4), torch.randn(512, 128), torch.randint(0, 128, (512,))

    def step() -> int:
        predicted = model(x).argmax(-1)
        return sum(int(a == b) for a, b in zip(predicted.tolist(), y.tolist(), strict=True))

    return step


@clean
def one_item_per_step() -> Step:
    run = training(net(256, 4), torch.randn(256, 256))
    return lambda: run().item()


# H03: sizes that depend on values


@planted("H03")
def masked_loss() -> Step:
    predicted = torch.randn(64, 4096, requires_grad=True)
    target = torch.randn(64, 4096)
    mask = torch.rand(64, 4096) > 0.3

    def step() -> None:
        predicted.grad = None
        (predicted - target).abs()[mask].mean().backward()

    return step


@planted("H03")
def positives_selected() -> Step:
    x = torch.randn(1024, 512)
    return lambda: torch.masked_select(x, x > 0).sum()


@planted("H03")
def negatives_gathered() -> Step:
    x, y = torch.randn(1024, 512), torch.randn(1024, 512)
    return lambda: (x[y > 0].sum(), y[y > 0].sum())


@clean
def loss_times_mask() -> Step:
    predicted = torch.randn(256, 4096, requires_grad=True)
    mask = (torch.rand(256, 4096) > 0.3).float()
    target = torch.randn(256, 4096) * mask

    def step() -> None:
        predicted.grad = None
        (functional.mse_loss(predicted * mask, target, reduction="sum") / mask.sum()).backward()

    return step


@clean
def rows_kept_by_score() -> Step:
    """A compact result of whole rows: the work that follows is less for it."""
    model, x, scores = net(256, 4), torch.randn(512, 256), torch.rand(512)
    return lambda: model(x[scores > 0.5])


# H06: tensors of Python objects


@planted("H06", also=("H09",))
def batch_of_lists() -> Step:
    model = net(64, 2)
    rows = [[math.sin(i * j) for j in range(64)] for i in range(200)]
    return lambda: model(torch.tensor(rows))


@planted("H06", also=("H09",))
def rows_made_one_by_one() -> Step:
    model = net(64, 2)
    rows = [[math.sin(i * j) for j in range(64)] for i in range(200)]
    return lambda: model(torch.stack([torch.tensor(row, dtype=torch.float32) for row in rows]))


@planted("H06", also=("H09",))
def tokens_as_tensor() -> Step:
    table = nn.Embedding(1000, 32)
    tokens = [[(i * j) % 1000 for j in range(1024)] for i in range(64)]
    return lambda: table(torch.as_tensor(tokens)[:, :64]).mean()


@clean
def batch_of_numpy() -> Step:
    model = net(128, 4)
    rows = np.random.default_rng(0).standard_normal((256, 128)).astype(np.float32)
    return lambda: model(torch.from_numpy(rows))


# H07, H08: data


class Slow(Dataset[tuple[Tensor, int]]):
    """Items that take some time to come."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        time.sleep(self.seconds)
        return torch.full((64,), float(index)), index % 10


class Augmented(Dataset[Tensor]):
    """Items that Python works on."""

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, index: int) -> Tensor:
        values = [math.tanh(0.01 * i + index) for i in range(2000)]
        return torch.tensor(values[:64])


def looping(loader: DataLoader[Any]) -> Step:
    """A step that fetches its own batch."""
    model, batches = net(64, 2), iter(loader)

    def step() -> None:
        batch = next(batches)
        model(batch[0] if isinstance(batch, list) else batch).sum().backward()

    return step


@planted("H07")
def loader_of_slow_items() -> Step:
    return looping(DataLoader(Slow(2e-4), batch_size=16))


@planted("H08", also=("H06",))
def loader_that_augments() -> Step:
    return looping(DataLoader(Augmented(), batch_size=16))


@planted("H07")
def generator_through_the_session() -> Fed:
    model = net(64, 2)

    def batches() -> Iterator[Tensor]:
        while True:
            time.sleep(3e-3)
            yield torch.ones(16, 64)

    return Fed(batches(), lambda batch: model(batch).sum().backward())


@clean
def loader_of_quick_items() -> Step:
    model, loader = net(1024, 6), DataLoader(list(torch.randn(1024, 1024)), batch_size=16)
    batches = iter(loader)

    def step() -> None:
        model(next(batches)).sum().backward()

    return step


@clean
def tensors_through_the_session() -> Fed:
    model, data = net(256, 4), torch.randn(64, 128, 256)
    return Fed(data, lambda batch: model(batch).sum().backward())


# H09: Python


@planted("H09")
def features_in_python() -> Step:
    model, x = net(64, 2), torch.randn(16, 64)

    def step() -> None:
        weight = sum(math.sin(i) * math.cos(i) for i in range(20_000))
        (model(x).sum() * weight).backward()

    return step


@planted("H09")
def words_in_the_middle() -> Step:
    model, head, x = net(64, 2), nn.Linear(64, 64), torch.randn(16, 64)
    words = [f"word{i % 97}" for i in range(20_000)]

    def step() -> None:
        hidden = model(x)
        counts: dict[str, int] = {}
        for word in words:
            counts[word] = counts.get(word, 0) + 1
        head(hidden).mul(float(len(counts))).sum().backward()

    return step


@planted("H09")
def numpy_between() -> Step:
    model, x = net(64, 2), torch.randn(64, 64)
    rng = np.random.default_rng(0)

    def step() -> None:
        out = model(x)
        noise = np.sort(rng.standard_normal(200_000))
        (out * float(noise[0])).sum().backward()

    return step


@clean
def little_python() -> Step:
    return training(net(256, 6), torch.randn(256, 256))


@clean
def modules_and_hooks() -> Step:
    layer = nn.TransformerEncoderLayer(256, 4, 512, batch_first=True)
    x = torch.randn(4, 128, 256)
    return lambda: layer(x).sum().backward()


# H15: between the last operator and the next step


@planted("H15")
def checkpoint_in_every_step() -> Step:
    model = net(256, 6)
    run = training(model, torch.randn(16, 256))
    file = Path(tempfile.mkdtemp()) / "model.pt"

    def step() -> None:
        run()
        torch.save(model.state_dict(), file)

    return step


@planted("H15")
def log_in_every_step() -> Step:
    run = training(net(64, 2), torch.randn(16, 64))
    history: list[float] = []

    def step() -> str:
        history.append(run().item())
        return json.dumps([{"step": i, "loss": history[-1]} for i in range(3000)], indent=1)

    return step


@planted("H15")
def report_in_every_step() -> Step:
    run = training(net(64, 2), torch.randn(16, 64))

    def step() -> None:
        run()
        time.sleep(5e-3)

    return step


@clean
def log_in_memory() -> Step:
    run = training(net(256, 6), torch.randn(256, 256))
    log = io.StringIO()

    def step() -> None:
        log.write(f"{run().item():.3f}\n")

    return step


# H12: settings for finding errors


@planted("H12")
def anomaly_around_the_step() -> Step:
    run = training(net(32, 8), torch.randn(8, 32))

    def step() -> None:
        with torch.autograd.detect_anomaly(check_nan=True):
            run()

    return quiet(step)


@planted("H12")
def anomaly_around_the_loss() -> Step:
    model, x = net(64, 6), torch.randn(16, 64)

    def step() -> None:
        with torch.autograd.set_detect_anomaly(True):
            functional.cross_entropy(model(x), torch.zeros(16, dtype=torch.long)).backward()

    return quiet(step)


def quiet(step: Step) -> Step:
    """The step without torch's warning that anomaly detection is on."""
    import warnings

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            step()

    return run


@clean
def nan_looked_for_once() -> Step:
    run = training(net(256, 6), torch.randn(256, 256))
    return lambda: bool(torch.isnan(run()).any())


# H16, E11: torch.compile; compiled without generating code, so that it is quick everywhere


def without_grad(forward: Callable[[Tensor], Tensor], x: Tensor) -> Step:
    def step() -> Tensor:
        with torch.no_grad():
            return forward(x)

    return step


@planted("H16", also=("H01",))
def graph_broken_by_breaks() -> Step:
    torch._dynamo.reset()
    model, x = net(32, 1), torch.randn(8, 32)

    def forward(x: Tensor) -> Tensor:
        x = model(x)
        torch._dynamo.graph_break()
        x = model(x)
        torch._dynamo.graph_break()
        x = model(x)
        torch._dynamo.graph_break()
        return model(x).sum()

    return without_grad(torch.compile(forward, backend="eager"), x)


@planted("H16", also=("H01",))
def graph_broken_by_values() -> Step:
    torch._dynamo.reset()
    model, x = net(32, 1), torch.randn(8, 32)

    def forward(x: Tensor) -> Tensor:
        x = model(x)
        if x.sum() > 1e9:
            x = x / 2
        x = model(x)
        if x.mean() > 1e9:
            x = x / 3
        return model(x).sum()

    return without_grad(torch.compile(forward, backend="eager"), x)


@clean
def one_graph() -> Step:
    torch._dynamo.reset()
    model, x = net(256, 6), torch.randn(256, 256)
    return without_grad(torch.compile(model, backend="eager", fullgraph=True), x)


@clean
def layers_compiled_one_by_one() -> Step:
    torch._dynamo.reset()
    layers = [torch.compile(nn.Linear(256, 256), backend="eager") for _ in range(4)]
    x = torch.randn(256, 256)

    def forward(y: Tensor) -> Tensor:
        for layer in layers:
            y = layer(y)
        return y

    return without_grad(forward, x)


@planted("E11")
def shapes_that_change() -> Step:
    torch._dynamo.reset()
    model = net(32, 1)
    compiled = torch.compile(lambda x: model(x).sum(), backend="eager", dynamic=False)
    sizes = iter(range(8, 10_000))
    return without_grad(lambda _: compiled(torch.randn(next(sizes), 32)), torch.zeros(1))


@planted("E11")
def numbers_that_change() -> Step:
    torch._dynamo.reset()
    model, x = net(32, 1), torch.randn(8, 32)
    compiled = torch.compile(lambda x, scale: (model(x) * len(scale)).sum(), backend="eager")
    counts = iter(range(2, 10_000))
    return without_grad(lambda x: compiled(x, "x" * next(counts)), x)
