"""What several ranks of one job say, each and together: types only. Absolute times are wall-clock nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass

from probe.machine.device import DeviceKind
from probe.trace import Int32s, Int64s, Mask, Table

Interval = tuple[float, float]


@dataclass(frozen=True)
class Group:
    """Who takes part in a collective; None where the trace does not say."""

    name: str | None
    ranks: tuple[int, ...] | None = None
    size: int | None = None
    stream: int | None = None  # stands for the name where there is none; -1 on a host
    pair: tuple[int, int] | None = None  # source and destination of a send and its receive

    @property
    def anonymous(self) -> bool:
        """Whether only the stream tells this group from others."""
        return self.name is None and self.ranks is None


@dataclass(frozen=True, eq=False)
class RankSteps(Table):
    """A rank's steps and what its device (its threads, without one) did in them; `other` work is not communication."""

    number: Int64s
    start_ns: Int64s
    end_ns: Int64s
    compute_ns: Int64s  # other kernels and copies; without a device, other operators
    communication_ns: Int64s
    exposed_communication_ns: Int64s  # not covered by compute
    idle_ns: Int64s  # compute + exposed communication + idle = the step

    @property
    def duration_ns(self) -> Int64s:
        """How long each step took, [n]."""
        return self.end_ns - self.start_ns


@dataclass(frozen=True, eq=False)
class CollectiveTimes(Table):
    """A rank's collectives in order of their start; -1 where the trace does not say."""

    group: Int32s  # into RankSummary.groups
    kind: Int32s  # into analyzers.ranks.kinds.KINDS
    sequence: Int64s
    step: Int64s  # number of the step that issued it
    in_bytes: Int64s
    out_bytes: Int64s
    in_switch: Mask  # reduced by the switch (NVLS)
    start_ns: Int64s
    end_ns: Int64s


@dataclass(frozen=True, eq=False)
class RankSummary:
    """What comparing ranks needs of one rank's trace; small enough to be sent instead of it."""

    rank: int
    world_size: int | None
    path: str
    device: str
    device_kind: DeviceKind
    steps: RankSteps
    steps_marked: bool  # False: the whole recording counts as one step
    groups: tuple[Group, ...]
    collectives: CollectiveTimes
    untimed: int = 0  # collectives whose kernel is not in the trace
    resolution_ns: int = 1  # of the time stamps


@dataclass(frozen=True)
class ClockOffset:
    """How far a rank's clock is ahead of its reference's in the middle of the recording, seconds."""

    rank: int
    reference: int  # rank whose clock counts as right
    offset_s: float | None
    interval_s: Interval | None  # 95 %; None with fewer than six collectives on the way to the reference
    bounds_s: Interval | None  # hard: outside, a collective would end before its last rank began
    n: int  # collectives shared with the rank it was compared to
    drift_fraction: float | None = None  # seconds per second; None: not decided
    drift_error_fraction: float | None = None  # standard error
    reason: str | None = None  # why something above is None


@dataclass(frozen=True)
class CollectiveRow:
    """All collectives of one kind, size and group size; times of the last rank to arrive, which waits for nobody.

    Bandwidths as nccl-tests defines them (doc/PERFORMANCE.md), of the median duration.
    """

    kind: str
    message_bytes: int | None
    group_size: int | None
    n: int
    present_ranks: int  # fewest of the group's ranks that were at hand
    duration_s: float  # median
    duration_interval_s: Interval | None
    min_s: float
    max_s: float
    algbw_bytes_per_s: float | None
    busbw_bytes_per_s: float | None
    busbw_interval_bytes_per_s: Interval | None
    median_over_min: float | None  # of the durations; None where the shortest is 0
    imbalance: float | None  # longest over mean time in the collective among the ranks; median
    wait_s: float | None  # mean over collectives and ranks
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Arrivals(Table):
    """Each rank at each matched collective in which ranks wait for each other; on the reference's clock."""

    meeting: Int64s
    rank: Int32s
    kind: Int32s  # into analyzers.ranks.kinds.KINDS
    step: Int64s
    start_ns: Int64s
    wait_ns: Int64s  # for the last to arrive
    late_ns: Int64s  # after the median of the others; negative when earlier
    delay_ns: Int64s  # of the last to arrive after the next to last; 0 for all others


@dataclass(frozen=True)
class Straggler:
    """A rank that the others wait for, by more than clocks and chance explain; seconds per step."""

    rank: int
    late_s: float
    late_interval_s: Interval
    delay_s: float  # by which it came after the next to last rank, over the collectives where it was the last


@dataclass(frozen=True)
class Rank:
    """One rank's mean step, seconds."""

    rank: int
    step_s: float | None
    communication_s: float | None
    exposed_communication_s: float | None
    wait_s: float | None
    late_s: float | None
    late_interval_s: Interval | None
    compute_s: float | None = None  # other kernels and copies; without a device, operators that do not communicate


@dataclass(frozen=True, eq=False)
class RanksAnalysis:
    """The ranks of one job compared."""

    world_size: int | None
    ranks: tuple[Rank, ...]
    missing: tuple[int, ...]
    offsets: tuple[ClockOffset, ...]
    collectives: tuple[CollectiveRow, ...]
    arrivals: Arrivals
    stragglers: tuple[Straggler, ...]
    matched: int  # collectives found on two ranks or more
    unmatched: int  # rows of ranks that should have had a partner and have none
    warnings: tuple[str, ...]
