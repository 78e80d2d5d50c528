"""The object of `probe gate check`: types only (schema probe.gate/1). A field's name is its JSON key.

Every ratio is NEW by BASE: above 1 the new code takes longer, or needs more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from probe.schema import to_jsonable

SCHEMA = "probe.gate/1"

Verdict = Literal["pass", "fail", "inconclusive"]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Metric:
    """One thing that was compared: the step's time, an operator's, or a count.

    base, new: medians, in `unit`. n_base, n_new: sessions, or recorded steps of a count. verdict "pass" where nothing
    is held against it: an informative metric (`gates` false) always passes.
    """

    name: str
    unit: str
    base: float | None
    new: float | None
    ratio: float | None
    interval: Interval | None
    verdict: Verdict
    threshold_fraction: float | None
    n_base: int
    n_new: int
    gates: bool = True
    reason: str | None = None


@dataclass(frozen=True)
class Cause:
    """What a difference is made of: an operator that takes longer, is new, or is gone. Seconds per step."""

    op: str
    shapes: str | None
    base_s: float | None
    new_s: float | None
    delta_s: float
    share_fraction: float | None  # of the step's difference
    reason: str
    base_calls: float | None = None
    new_calls: float | None = None


@dataclass(frozen=True)
class Side:
    """One of the two that were compared."""

    name: str  # "HEAD~1 (1a2b3c4d)", "working tree", a baseline's or run's path
    device: str | None = None
    torch: str | None = None
    step_s: float | None = None


@dataclass(frozen=True)
class GateResult:
    """A verdict, what it rests on, and why. `unexplained_s` is the step's difference less all causes'."""

    verdict: Verdict
    base: Side
    new: Side
    metrics: tuple[Metric, ...] = ()
    causes: tuple[Cause, ...] = ()
    unexplained_s: float | None = None
    delta_s: float | None = None  # of the step
    minimum_detectable_fraction: float | None = None
    sessions: int = 0
    summary: str = ""  # the verdict in a sentence
    warnings: tuple[str, ...] = ()
    samples: dict[str, Any] = field(default_factory=dict)  # medians of blocks by session, for any later test
    schema: str = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """The object that `probe gate check --json` prints."""
        found: dict[str, Any] = to_jsonable(self)
        return found
