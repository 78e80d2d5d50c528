"""What a gate judges: the two sides' times and counts, session by session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]
Key = tuple[str, str | None]  # an operator's name and shapes


@dataclass(frozen=True, eq=False)
class Blocks:
    """Medians of blocks of steps that ran in turn, seconds per step; row k of each side belongs together, [blocks]."""

    base: Times
    new: Times

    @property
    def log_ratio(self) -> float:
        """The session's statistic: the median over pairs of blocks of log(new / base)."""
        return float(np.median(np.log(self.new / self.base)))


@dataclass(frozen=True)
class OperatorTimes:
    """Of one side, per step: seconds of each operator without those it calls, calls, and the kernels it launched."""

    seconds: Mapping[Key, float] = field(default_factory=dict)
    calls: Mapping[Key, float] = field(default_factory=dict)
    kernels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by the operator's name


@dataclass(frozen=True)
class Counted:
    """A count of one side over its recorded steps: without noise, least and most are one."""

    least: float
    most: float
    n: int


@dataclass(frozen=True, eq=False)
class Session:
    """A pair of fresh processes: blocks of the metric that gates and of wall time, operators, counts."""

    blocks: Blocks
    wall: Blocks
    base_operators: OperatorTimes = field(default_factory=OperatorTimes)
    new_operators: OperatorTimes = field(default_factory=OperatorTimes)
    base_counts: Mapping[str, Counted] = field(default_factory=dict)
    new_counts: Mapping[str, Counted] = field(default_factory=dict)


def together(counts: Sequence[Mapping[str, Counted]]) -> dict[str, Counted]:
    """Counts of one side over all sessions."""
    names = dict.fromkeys(name for each in counts for name in each)
    found = {name: [each[name] for each in counts if name in each] for name in names}
    return {
        name: Counted(min(c.least for c in all_), max(c.most for c in all_), sum(c.n for c in all_))
        for name, all_ in found.items()
    }
