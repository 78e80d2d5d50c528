"""What is on the timeline: lanes of events sorted by start, steps, tracks of telemetry. Times are nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from probe.report.palette import CLASSES
from probe.trace import Int32s, Int64s

LaneKind: TypeAlias = Literal["ops", "runtime", "device", "ranges", "python"]
RANGE, PYTHON = len(CLASSES), len(CLASSES) + 1  # codes beyond the classes: named ranges, frames of Python
CODES = PYTHON + 1
Uint8s: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Lane:
    """Events in one row; arrays [n], sorted by start."""

    group: str  # "rank 0 · thread 12", under which lanes stand together
    label: str
    kind: LaneKind
    start_ns: Int64s
    end_ns: Int64s
    until_ns: Int64s  # the latest end so far: ends alone need not rise
    name: Int32s  # into Index.names
    op: Int32s  # Operator.index, -1 for none
    code: Uint8s  # into CLASSES, or RANGE, PYTHON


@dataclass(frozen=True, eq=False)
class Track:
    """One sampled quantity over time, [n]."""

    label: str
    highest: str  # with its unit
    at_ns: Int64s
    values: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Index:
    """A whole timeline. `steps`: number, start and end of each; `tracks`: sampled beside it, where they were added."""

    names: tuple[str, ...]
    lanes: tuple[Lane, ...]
    steps: tuple[tuple[int, int, int], ...]
    tracks: tuple[Track, ...]
    begin_ns: int
    end_ns: int
    start_unix_ns: int = 0  # the wall clock at 0, by the first rank's trace; 0 where that is not known

    @property
    def events(self) -> int:
        """How many events there are."""
        return sum(len(lane.start_ns) for lane in self.lanes)


def lane(
    group: str, label: str, kind: LaneKind, columns: tuple[Int64s, Int64s, Int32s, Int32s, Uint8s],
) -> Lane:  # fmt: skip
    """A lane of start, end, name, op and code in any order."""
    order = np.argsort(columns[0], kind="stable")
    start, end, name, op, code = (column[order] for column in columns)
    until = np.maximum.accumulate(end)
    if np.array_equal(until, end):  # the usual case: held once
        until = end
    return Lane(group, label, kind, start, end, until, name, op, code)  # type: ignore[arg-type]
