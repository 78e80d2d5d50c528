"""The memory of an analysis: how much at the peak, who held it, and what would lower it. Types only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

Category: TypeAlias = Literal[
    "parameters", "gradients", "optimizer", "activations", "temporary", "workspace", "other"
]  # fmt: skip
CATEGORIES: tuple[Category, ...] = get_args(Category)
Phase: TypeAlias = Literal["outside", "forward", "backward", "optimizer"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True)
class Holder:
    """Blocks alive at the peak that one operator allocated."""

    category: Category
    operator: str | None  # None where they were allocated outside every operator, or before the recording
    where: str | None  # the module or named range that it ran in
    phase: Phase
    blocks: int
    bytes: int


@dataclass(frozen=True)
class MemoryTimeline:
    """Memory over time, thinned: of each stretch the instant at which most was in use. Lists of equal length."""

    at_s: tuple[float, ...]  # from the start of the trace
    allocated_bytes: tuple[int, ...]
    reserved_bytes: tuple[int, ...] | None
    by_category: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Fragmentation:
    """What the allocator held from the driver against what it ever handed out at once, within the steps."""

    reserved_bytes: int
    allocated_bytes: int
    ratio: float


@dataclass(frozen=True)
class Forecast:
    """What one change would do to the peak, computed from the categories."""

    change: str
    peak_bytes: int
    saving_bytes: int
    cost: str | None
    assumes: str


@dataclass(frozen=True)
class Memory:
    """Memory of one device, where it was recorded; what is not known is None, with its reason in `notes`."""

    peak_bytes: int | None
    by_category: dict[str, int | None]  # at the peak
    peak_at: str | None
    device: str | None = None
    capacity_bytes: int | None = None
    reserved_peak_bytes: int | None = None
    growth_bytes_per_step: int | None = None  # what stays behind after every step
    holders: tuple[Holder, ...] = ()
    timeline: MemoryTimeline | None = None
    fragmentation: Fragmentation | None = None
    forecast: tuple[Forecast, ...] = ()
    notes: tuple[str, ...] = field(default=())
