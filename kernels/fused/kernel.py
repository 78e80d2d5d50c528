"""What is known of a fused kernel: what it replaces, where it works, what it costs, and how it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from probe.errors import UnavailableError, UsageError


@dataclass(frozen=True)
class Cost:
    """The least that a call must move and compute, reading each tensor once; what stays in caches is not counted."""

    bytes_read: int
    bytes_written: int
    flops: int

    @property
    def bytes_moved(self) -> int:
        return self.bytes_read + self.bytes_written


@dataclass(frozen=True)
class FusedKernel:
    """One entry of the catalogue. `reference`, `why_not`, `cost` and `backward_cost` take what `function` takes."""

    name: str
    replaces: str  # in one line
    codes: tuple[str, ...]  # of the rules that find what it replaces: "F04"
    function: Callable[..., Any]
    reference: Callable[..., Any]  # the same in torch's operators, on every device and dtype
    why_not: Callable[..., str | None]  # None: it can be called; else the reason in one line
    cost: Callable[..., Cost]
    backward_cost: Callable[..., Cost] | None  # None: it has no gradients
    module: type[nn.Module]
    operators: tuple[str, ...]  # as torch.compile, torch.export and the profiler see it
    on_cpu: bool = False  # whether it also runs without a GPU


def check(name: str, no_device: str | None, reason: str | None) -> None:
    """Raises UnavailableError where there is no device for it, UsageError for tensors it cannot take."""
    if no_device:
        raise UnavailableError(f"{name}: {no_device}")
    if reason:
        raise UsageError(f"{name}: {reason}")
