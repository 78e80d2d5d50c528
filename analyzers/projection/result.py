"""The object of `probe whatif`: types only (schema probe.whatif/1). A field's name is its JSON key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from probe.schema import to_jsonable

SCHEMA = "probe.whatif/1"


@dataclass(frozen=True)
class OpMoved:
    """One operator before and after; seconds per step of all its calls."""

    index: int
    name: str
    shapes: str | None
    before_s: float
    after_s: float
    interval_s: tuple[float, float]
    bound_before: str
    bound_after: str
    why: str


@dataclass(frozen=True)
class Communication:
    """What one kind of parallelism exchanges in a step, per rank."""

    what: str
    kind: str
    ranks: int
    volume_bytes: float
    time_s: float
    exposed_s: float
    link: str
    link_measured: bool = False  # by the collectives suite, not tabulated


@dataclass(frozen=True)
class Point:
    """One number of ranks of the scaling curve."""

    ranks: int
    step_s: float
    exposed_communication_s: float
    bubble_s: float
    efficiency_fraction: float


@dataclass(frozen=True)
class TargetStep:
    """The step as it would be. What is not known is None, with the reason in the warnings."""

    device: str
    ranks: int
    step_s: float
    interval_s: tuple[float, float]
    bound: str
    time_s: dict[str, float]
    speedup: float
    fits: bool | None = None  # the recorded peak into the device's memory
    usd_per_hour: float | None = None  # of one device
    price_origin: str | None = None
    usd_per_step: float | None = None
    j_per_step: float | None = None  # at the maker's power limit: an upper bound
    changed: tuple[str, ...] = ()
    communication: tuple[Communication, ...] = ()
    curve: tuple[Point, ...] = ()
    crossover_ranks: int | None = None  # from which communication and bubbles take more than half of the step
    ops: tuple[OpMoved, ...] = ()


@dataclass(frozen=True)
class Validation:
    """The model's own error, as measured; n pairs of projected and measured steps."""

    median_error_fraction: float | None
    n: int
    worst_error_fraction: float | None = None
    of: str = ""


@dataclass(frozen=True)
class BaseStep:
    """What was recorded."""

    device: str
    step_s: float
    source: str
    bound: str
    replay_error_fraction: float


@dataclass(frozen=True)
class WhatIfResult:
    """The answer to one question."""

    base: BaseStep
    targets: tuple[TargetStep, ...]
    validation: Validation
    warnings: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = field(default=())
    schema: str = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """The JSON object of the contract, as plain dicts, lists and numbers."""
        content: dict[str, Any] = to_jsonable(self)
        return {"schema": content.pop("schema"), **content}
