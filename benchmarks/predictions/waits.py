"""Programs that Python, single values, data or settings hold up (H01 to H15), and the same without that."""

from __future__ import annotations

import io
import math
import time

import numpy as np
import torch
from pair import Step, compiled, inferred, mean_square, pair, trained, without_grad
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


def net(width: int = 256, layers: int = 4) -> nn.Sequential:
    return nn.Sequential(*(m for _ in range(layers) for m in (nn.Linear(width, width), nn.ReLU())))


@pair("H01", quick=True)
def physics_of_few_bodies() -> tuple[Step, Step]:
    position, velocity = torch.randn(8, 3), torch.zeros(8, 3)

    def moved(p: Tensor, v: Tensor) -> Tensor:
        for _ in range(40):
            apart = p[None] - p[:, None]
            force = (apart * (apart.square().sum(-1) + 1e-3).rsqrt().pow(3)[..., None]).sum(1)
            v = v + 1e-3 * force
            p = p + 1e-3 * v
        return p

    quick = compiled(moved)
    return without_grad(lambda: moved(position, velocity)), without_grad(lambda: quick(position, velocity))


@pair("H02", quick=True)
def accuracy_by_item() -> tuple[Step, Step]:
    model, x, y = net(), torch.randn(1024, 256), torch.randint(0, 256, (1024,))

    def old() -> Tensor:
        predicted = model(x).argmax(-1)
        return torch.tensor(float(sum(int(predicted[i].item() == y[i].item()) for i in range(len(y)))))

    return without_grad(old), without_grad(lambda: (model(x).argmax(-1) == y).sum().float())


@pair("H02")
def numbers_read_before_a_loop() -> tuple[Step, Step]:
    model, x = net(), torch.randn(2048, 256)

    def old() -> Tensor:
        return torch.tensor(float(sum(1 for score in torch.sigmoid(model(x).mean(-1)) if score > 0.5)))

    def new() -> Tensor:
        return torch.tensor(float(sum(1 for score in torch.sigmoid(model(x).mean(-1)).tolist() if score > 0.5)))

    return without_grad(old), without_grad(new)


@pair("H03", quick=True)
def loss_of_a_mask_trained() -> tuple[Step, Step]:
    model, x, y, mask = nn.Linear(64, 512), torch.randn(2048, 64), torch.randn(2048, 512), torch.rand(2048, 512) > 0.3
    weights = mask.float()
    return (
        trained(model, x, loss=lambda out: (out - y).abs()[mask].mean()),
        trained(model, x, loss=lambda out: ((out - y).abs() * weights).sum() / weights.sum()),
    )


@pair("H03")
def positives_selected() -> tuple[Step, Step]:
    x = torch.randn(2048, 512)
    return without_grad(lambda: x[x > 0].sum()), without_grad(lambda: torch.where(x > 0, x, 0.0).sum())


@pair("H06", quick=True)
def batch_of_lists() -> tuple[Step, Step]:
    model, rows = net(), [[math.sin(i * j) for j in range(256)] for i in range(256)]
    array = np.asarray(rows, np.float32)
    return inferred(_Made(model, lambda: torch.tensor(rows))), inferred(_Made(model, lambda: torch.from_numpy(array)))


class _Made(nn.Module):
    """A model whose input is made in the step."""

    def __init__(self, model: nn.Module, make: object) -> None:
        super().__init__()
        self.model, self.make = model, make

    def forward(self) -> Tensor:
        return self.model(self.make())


class Slow(Dataset[Tensor]):
    """Items that storage takes its time for."""

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> Tensor:
        time.sleep(3e-4)
        return torch.full((256,), index / 1e6)


class Augmented(Slow):
    """Items that Python works on."""

    def __getitem__(self, index: int) -> Tensor:
        values = [math.tanh(0.01 * i + index) for i in range(2000)]
        return torch.tensor(values[:256])


def _fed(data: Dataset[Tensor], workers: int, layers: int) -> Step:
    torch.manual_seed(0)
    model = net(256, layers)
    loader = DataLoader(
        data, 32, num_workers=workers, prefetch_factor=4 if workers else None, persistent_workers=workers > 0
    )
    batches = iter(loader)

    def step() -> list[Tensor]:
        model.zero_grad()
        loss = mean_square(model(next(batches)))
        loss.backward()
        return [loss.detach()]

    return step


@pair("H07", quick=True)
def loader_of_slow_items() -> tuple[Step, Step]:
    return _fed(Slow(), 0, 24), _fed(Slow(), 4, 24)


@pair("H08", quick=True, told_by="H07")
def loader_that_augments() -> tuple[Step, Step]:
    return _fed(Augmented(), 0, 24), _fed(Augmented(), 4, 24)


@pair("H09")
def features_in_python() -> tuple[Step, Step]:
    model, x = net(), torch.randn(64, 256)
    at = np.arange(20_000)

    def weighted(weight: object) -> Step:
        return without_grad(lambda: model(x) * weight())

    return (
        weighted(lambda: sum(math.sin(i) * math.cos(i) for i in range(20_000))),
        weighted(lambda: float((np.sin(at) * np.cos(at)).sum())),  # np.dot has threads of its own
    )


@pair("H12", quick=True)
def anomaly_detection() -> tuple[Step, Step]:
    model, x = net(128, 24), torch.randn(64, 128)
    run = trained(model, x)

    def old() -> object:
        with torch.autograd.detect_anomaly(check_nan=True):
            return run()

    return old, run


@pair("H14", quick=True)
def inference_that_records_a_graph() -> tuple[Step, Step]:
    model, x = net(64, 60).eval(), torch.randn(8, 64)
    return lambda: model(x), inferred(model, x)


@pair("H15", quick=True)
def weights_saved_in_every_step() -> tuple[Step, Step]:
    """Left out of the second program: it saves every thousandth step."""
    model, x = net(256, 12), torch.randn(256, 256)
    run = trained(model, x)

    def old() -> object:
        result = run()
        torch.save(model.state_dict(), io.BytesIO())
        return result

    return old, run
