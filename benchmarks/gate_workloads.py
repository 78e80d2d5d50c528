"""Training steps that the gate's benchmark compares: three kinds, each as it is and with one operator made slower."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch

CALLS = "PROBE_GATE_CALLS"  # of the operator that makes a step slower
CALIBRATION_STEPS = 30


def _mlp() -> Callable[[], object]:
    layers = [layer for _ in range(4) for layer in (torch.nn.Linear(256, 256), torch.nn.GELU())]
    return _trained(torch.nn.Sequential(*layers), torch.randn(64, 256))


def _transformer() -> Callable[[], object]:
    layer = torch.nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
    return _trained(layer, torch.randn(4, 64, 128))


def _convolutions() -> Callable[[], object]:
    first, second = torch.nn.Conv2d(8, 16, 3, padding=1), torch.nn.Conv2d(16, 16, 3, padding=1)
    layers = (first, torch.nn.BatchNorm2d(16), torch.nn.ReLU(), second)
    return _trained(torch.nn.Sequential(*layers), torch.randn(4, 8, 32, 32))


def _trained(model: Any, x: Any) -> Callable[[], object]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


class _Slowed:
    """A step that calls one operator more, as often as the environment says."""

    def __init__(self, make: Callable[[], Callable[[], object]]) -> None:
        self._make = make
        self._step: Callable[[], object] | None = None
        self._calls = 0

    def __call__(self) -> None:
        if self._step is None:
            torch.set_num_threads(1)
            torch.manual_seed(0)
            self._step = self._make()
            self._calls = int(os.environ.get(CALLS, "0"))
        self._step()
        for _ in range(self._calls):
            torch.erfinv(_SMALL)


_SMALL = torch.zeros(2048)
mlp, transformer, convolutions = _Slowed(_mlp), _Slowed(_transformer), _Slowed(_convolutions)


def calls_for(name: str, fraction: float) -> int:
    """How many calls of the operator add that fraction to a step of the workload, on this machine now."""
    torch.set_num_threads(1)
    step = {"mlp": _mlp, "transformer": _transformer, "convolutions": _convolutions}[name]()

    def each_s(function: Callable[[], object]) -> float:
        times = []
        for _ in range(CALIBRATION_STEPS):
            begin = time.process_time()
            function()
            times.append(time.process_time() - begin)
        return sorted(times)[len(times) // 2]

    step()
    many = each_s(lambda: [torch.erfinv(_SMALL) for _ in range(50)]) / 50
    return max(1, round(fraction * each_s(step) / many))
