"""What may be asked of a recorded step: other roofs, other work, less of it, or other launches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from probe.analyzers.projection.devices import Target
from probe.analyzers.projection.fusion import Chain


@dataclass(frozen=True)
class Replacement:
    """What an operator is replaced by: something so many times as fast, or that takes so many seconds a call."""

    speedup: float | None = None
    call_s: float | None = None

    def factor(self, time_s: float) -> float:
        """New time over old of a call that took `time_s`."""
        if self.speedup is not None:
            return 1 / self.speedup
        return (self.call_s or 0.0) / time_s if time_s > 0 else 1.0


@dataclass(frozen=True)
class Question:
    """What is asked: other roofs, other work, or less of it. Operators by their index in the analysis."""

    onto: Target | None = None
    dtype: str | None = None
    batch: tuple[float, int] | None = None  # factor, and the recorded batch size
    roof: frozenset[int] = frozenset()
    remove: frozenset[int] = frozenset()
    replace: Mapping[int, Replacement] = field(default_factory=dict)
    fuse: tuple[Chain, ...] = ()
    graph: bool = False  # kernels launched as CUDA graphs

    @property
    def words(self) -> tuple[str, ...]:
        """What is changed beside the device."""
        told = [f"in {self.dtype}" if self.dtype else "", f"batch × {self.batch[0]:g}" if self.batch else ""]
        told += [f"operator {i} at its roof" for i in sorted(self.roof)]
        told += [f"without operator {i}" for i in sorted(self.remove)]
        told += [f"operator {i} replaced" for i in sorted(self.replace)]
        told += [f"{chain.label} fused" for chain in self.fuse]
        return tuple(filter(None, told))
