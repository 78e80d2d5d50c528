"""Training steps whose memory is planned and measured: each function builds one and returns what does a step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Step = Callable[[], None]


def _training(model: nn.Module, inputs: Tensor, classes: int, *, amp: bool = False, adam: bool = True) -> Step:
    target = torch.randint(0, classes, (inputs.shape[0],))
    optimizer = torch.optim.AdamW(model.parameters()) if adam else torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16) if amp else nullcontext():
            found = model(inputs)
            loss = nn.functional.cross_entropy(found.reshape(inputs.shape[0], classes, -1).mean(-1).float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


class _Layers(nn.Module):
    """Layers one after another, each computed again in the backward pass where that is wished."""

    def __init__(self, layers: list[nn.Module], head: nn.Module, *, again: bool) -> None:
        super().__init__()
        self.layers, self.head, self.again = nn.ModuleList(layers), head, again

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.again and x.requires_grad else layer(x)
        return self.head(x.mean(1)) if x.dim() == 3 else self.head(x)


def _transformer(again: bool, amp: bool = False, batch: int = 16) -> Step:
    block = [nn.TransformerEncoderLayer(256, 8, 1024, 0.0, batch_first=True) for _ in range(6)]
    inputs = torch.randn(batch, 128, 256, requires_grad=True)
    return _training(_Layers([*block], nn.Linear(256, 10), again=again), inputs, 10, amp=amp)


def transformer() -> Step:
    return _transformer(False)


def transformer_checkpointed() -> Step:
    return _transformer(True)


def transformer_amp() -> Step:
    return _transformer(False, amp=True, batch=2)  # bfloat16 is slow without units for it


def _mlp(again: bool, amp: bool = False, adam: bool = True, batch: int = 2048) -> Step:
    layers: list[nn.Module] = [nn.Sequential(nn.Linear(1024, 1024), nn.GELU(), nn.LayerNorm(1024)) for _ in range(8)]
    inputs = torch.randn(batch, 1024, requires_grad=True)
    return _training(_Layers(layers, nn.Linear(1024, 10), again=again), inputs, 10, amp=amp, adam=adam)


def mlp() -> Step:
    return _mlp(False)


def mlp_sgd() -> Step:
    return _mlp(False, adam=False)


def mlp_checkpointed() -> Step:
    return _mlp(True)


def mlp_amp() -> Step:
    return _mlp(False, amp=True, batch=256)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.c, self.d = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.d(self.b(torch.relu(self.c(self.a(x))))))


def _cnn(again: bool, amp: bool = False, batch: int = 16) -> Step:
    stem = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU())
    layers: list[nn.Module] = [stem, *(_Residual(64) for _ in range(4))]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    inputs = torch.randn(batch, 3, 48, 48, requires_grad=True)
    return _training(_Layers(layers, head, again=again), inputs, 10, amp=amp)


def cnn() -> Step:
    return _cnn(False)


def cnn_checkpointed() -> Step:
    return _cnn(True)


def cnn_amp() -> Step:
    return _cnn(False, amp=True, batch=2)


def cnn_depthwise() -> Step:
    """Inverted bottlenecks, as in MobileNet."""
    layers: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU6())]
    for _ in range(4):
        inner = [nn.Conv2d(32, 192, 1, bias=False), nn.BatchNorm2d(192), nn.ReLU6()]
        inner += [nn.Conv2d(192, 192, 3, padding=1, groups=192, bias=False), nn.BatchNorm2d(192), nn.ReLU6()]
        layers.append(nn.Sequential(*inner, nn.Conv2d(192, 32, 1, bias=False), nn.BatchNorm2d(32)))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    return _training(_Layers(layers, head, again=False), torch.randn(8, 3, 64, 64), 10)


class _Experts(nn.Module):
    """Every token goes to two of eight experts; all experts see as many tokens, so that sizes need no values."""

    def __init__(self, width: int, experts: int = 8) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(experts)
        )
        self.router = nn.Linear(width, experts)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        kept = x.shape[0] * 2 // len(self.experts)
        result = x
        for number, expert in enumerate(self.experts):
            weight, rows = weights[:, number].topk(kept)
            result = result.index_add(0, rows, expert(x[rows]) * weight[:, None])
        return result


def _moe(again: bool) -> Step:
    layers: list[nn.Module] = [_Experts(256) for _ in range(4)]
    return _training(_Layers(layers, nn.Linear(256, 10), again=again), torch.randn(1024, 256, requires_grad=True), 10)


def moe() -> Step:
    return _moe(False)


def moe_checkpointed() -> Step:
    return _moe(True)


STEPS = (
    transformer, transformer_checkpointed, transformer_amp, mlp, mlp_sgd, mlp_checkpointed, mlp_amp, cnn,
    cnn_checkpointed, cnn_amp, cnn_depthwise, moe, moe_checkpointed,
)  # fmt: skip


def _measured_bytes(build: Callable[[], Step]) -> int:
    """The most that the profiler saw allocated at once while the step was built and done twice."""
    import json
    import tempfile
    from pathlib import Path

    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step = build()
        step()
        step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        events = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def _main(name: str) -> None:
    import json

    from probe.planning.step_memory import step_memory

    planned = step_memory(f"{__file__}:{name}").result["peak_bytes"]
    print(json.dumps({"model": name, "planned_bytes": planned, "measured_bytes": _measured_bytes(globals()[name])}))


if __name__ == "__main__":
    import sys

    torch.set_num_threads(1)
    _main(sys.argv[1])
