"""The object of `probe compare`: types only (schema probe.compare/1). A field's name is its JSON key.

Every ratio is a speed-up: how many times as fast NEW is as BASE, so BASE's time by NEW's time, or NEW's rate by BASE's.
Above 1 NEW is faster, whatever the row's unit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from probe.schema import to_jsonable

SCHEMA = "probe.compare/1"

Kind = Literal["run", "microbench"]
Verdict = Literal["faster", "slower", "~"]
RowVerdict = Literal["faster", "slower", "~", "new", "gone"]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Judged:
    """A speed-up, the interval it lies in, and what may be said of it; `reason` says why nothing more."""

    ratio: float | None
    interval: Interval | None
    verdict: Verdict
    reason: str | None = None


@dataclass(frozen=True)
class Row:
    """One operator, in seconds per step, or one benchmark, in its own unit."""

    name: str
    shapes: str | None
    base: float | None
    new: float | None
    unit: str
    ratio: float | None
    interval: Interval | None
    verdict: RowVerdict
    reason: str | None = None  # why the verdict is "~"
    delta: float | None = None  # new less base, in `unit`; an operator that is on one side only took 0 on the other
    share_fraction: float | None = None  # of the difference between the recorded steps; below 0 it works against it
    suite: str | None = None
    dtypes: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    base_calls: float | None = None  # per step
    new_calls: float | None = None
    base_n: int | None = None  # steps, or samples
    new_n: int | None = None
    flags: tuple[str, ...] = ()  # of either side: "contended", "throttled", …


@dataclass(frozen=True)
class Part:
    """One part of the step, mean seconds; the intervals are the range over the recorded steps."""

    base_s: float | None
    new_s: float | None
    delta_s: float | None
    base_interval_s: Interval | None
    new_interval_s: Interval | None


@dataclass(frozen=True)
class Suite:
    """A suite: the geometric mean of the ratios of what both sides have, and how many benchmarks went which way."""

    ratio: float | None
    interval: Interval | None
    verdict: Verdict
    faster: int
    slower: int
    noise: int
    new: int
    gone: int
    noise_fraction: float  # a smaller change of a benchmark is noise


@dataclass(frozen=True)
class Change:
    """Something besides the code that differs between the two."""

    what: str
    base: str
    new: str


@dataclass(frozen=True)
class Side:
    """One of the two: what it is and, of a run, the steps that were compared."""

    path: str
    kind: str  # "run", "kineto", "nsys", "microbench"
    device: str | None
    device_kind: str
    torch: str | None
    n: int | None = None  # steps
    step_s: float | None = None  # their median
    step_interval_s: Interval | None = None
    steps: Literal["bare", "profiled"] | None = None


@dataclass(frozen=True)
class Sides:
    """Both sides."""

    base: Side
    new: Side


@dataclass(frozen=True)
class Explained:
    """The fewest operators that make up nine tenths of the difference, or all that changed; and how much they are."""

    operators: int
    share_fraction: float


@dataclass(frozen=True)
class Comparison:
    """What got faster or slower from `base` to `new`."""

    kind: Kind
    base: str
    new: str
    verdict: Verdict
    ratio: float | None
    interval: Interval | None
    reason: str | None
    rows: tuple[Row, ...]
    parts: dict[str, Part | Suite]  # of the step; or a suite each
    warnings: tuple[str, ...]
    changes: tuple[Change, ...]
    sides: Sides
    explained: Explained | None = None
    noise_fraction: float | None = None  # a smaller change of the whole is noise
    schema: str = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """The JSON object of the contract, as plain dicts, lists and numbers."""
        content: dict[str, Any] = to_jsonable(self)
        return {"schema": content.pop("schema"), **content}

    def to_pandas(self) -> Any:
        """The rows as a pandas DataFrame, in the order of the report."""
        import pandas as pd

        return pd.DataFrame([to_jsonable(row) for row in self.rows])
