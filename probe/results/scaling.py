"""What the same training at several numbers of ranks says: types only. A field's name is its JSON key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ScalingMode = Literal["weak", "strong", "throughput"]


@dataclass(frozen=True)
class ScalingJob:
    """Steps of the same training at one number of ranks."""

    world_size: int
    step_s: tuple[float, ...]  # each the mean over the ranks at hand
    work_per_step: float | None = None  # samples or tokens of all ranks together


@dataclass(frozen=True)
class ScalingPoint:
    """One job against the smallest: throughput per rank as a share of the smallest job's."""

    world_size: int
    n: int  # steps
    step_s: float  # median
    efficiency_fraction: float
    efficiency_interval_fraction: tuple[float, float] | None  # at least 95 %; None with too few steps
    speedup: float  # total throughput over the smallest job's


@dataclass(frozen=True)
class Scaling:
    """Scaling efficiency over the number of ranks."""

    mode: ScalingMode
    assumption: str
    points: tuple[ScalingPoint, ...]
    warnings: tuple[str, ...]
