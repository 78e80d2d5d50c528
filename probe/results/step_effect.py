"""The object of `probe verify --apply`: types only (schema probe.step_effect/1). A field's name is its JSON key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from probe.results.findings import Verdict
from probe.schema import to_jsonable

SCHEMA = "probe.step_effect/1"
FEWEST_LOSSES = 5  # steps with a loss on both sides before any is compared


@dataclass(frozen=True)
class StepEffect:
    """The program with the change against without; seconds a step, ratios old / new."""

    verdict: Verdict
    reason: str
    apply: str
    command: str
    changed: tuple[str, ...]
    metric: str  # "cpu_time" or "wall_time"
    step_before_s: float
    step_after_s: float
    speedup: float
    interval: tuple[float, float] | None
    sessions: int
    predicted_speedup: float | None
    loss_steps: int
    loss_difference: float | None  # largest relative difference of a step's loss
    loss_difference_of_itself: float | None  # the same between two unchanged runs
    peak_bytes_before: int | None
    peak_bytes_after: int | None
    device: str
    torch: str
    warnings: tuple[str, ...] = field(default=())
    schema: str = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """The object that `probe verify --apply … --json` prints."""
        found: dict[str, Any] = to_jsonable(self)
        return found
