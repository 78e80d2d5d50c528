"""What is said of ranks, collectives, clocks and scaling: cells and lines that terminal, page and Markdown share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from probe.results.multirank import ClockOffset, CollectiveRow, Interval, Rank, Straggler
from probe.results.scaling import Scaling, ScalingPoint
from probe.units import UNKNOWN, format_bytes, format_fraction, format_time

BUSBW = (
    "busbw as nccl-tests defines it: algbw × 2(n−1)/n in an all_reduce, × 1 in a broadcast or reduce, else × (n−1)/n"
)
OF_THE_LAST = (
    "median and bandwidths are of the last rank to come, which waits for nobody; wait is the mean over the ranks"
)
LATENESS = "late: after the median of the others, ± half its 95 % interval; wait: for the last rank to come"
OF_ONE = "one rank's own times: what it waited for others is in them"
TINY = "<0.001"  # of the table's unit; bandwidths of messages so small mean little
MARKS = "¹²³⁴⁵⁶⁷⁸⁹"
FIRST, LAST = 3, 2  # of many ranks, how many of the latest and of the earliest are shown


@dataclass(frozen=True)
class Column:
    """A column of a table as text, one cell a row."""

    title: str
    cells: tuple[str, ...]
    numeric: bool = True


@dataclass(frozen=True)
class Shares:
    """How a rank's step splits, seconds. Of the wait only what surely is not covered by computation counts."""

    covered_s: float  # communication behind computation
    compute_s: float  # computation without communication
    other_s: float  # neither; computation too, where that is not known
    wait_s: float  # exposed, for ranks that come later
    exposed_s: float  # exposed, and not known to be waiting

    @property
    def step_s(self) -> float:
        """The whole step."""
        return self.covered_s + self.compute_s + self.other_s + self.wait_s + self.exposed_s


def interval(found: Interval, show: Callable[[float], str] = format_time) -> str:
    """An interval in brackets: [1.02 ms, 1.10 ms]."""
    return f"[{show(found[0])}, {show(found[1])}]"


def listed(ranks: Sequence[int], most: int = 4) -> str:
    """Rank numbers in the order given: "17", "17 and 3", "17, 3, 5, 9 and 4 more"."""
    names = [str(rank) for rank in ranks[:most]]
    more = [f"{len(ranks) - most} more"] if len(ranks) > most else []
    *before, last = names + more
    return f"{', '.join(before)} and {last}" if before else last


def shares(rank: Rank) -> Shares | None:
    """The split of a rank's step; None where its communication is not known."""
    step_s, exposed_s = rank.step_s, rank.exposed_communication_s
    if not step_s or exposed_s is None:
        return None
    covered_s = max((rank.communication_s or exposed_s) - exposed_s, 0.0)
    wait_s = (exposed_wait(rank) or (0.0, 0.0))[0]
    free_s = max(step_s - covered_s - exposed_s, 0.0)
    compute_s = min(max((rank.compute_s or 0.0) - covered_s, 0.0), free_s)
    return Shares(covered_s, compute_s, free_s - compute_s, wait_s, exposed_s - wait_s)


def exposed_wait(rank: Rank) -> Interval | None:
    """Least and most of a rank's wait that is exposed: what it waits may lie behind its computation, seconds."""
    exposed_s, communication_s = rank.exposed_communication_s, rank.communication_s
    if rank.wait_s is None or exposed_s is None or communication_s is None:
        return None
    most_s = min(rank.wait_s, exposed_s)
    return min(max(rank.wait_s - (communication_s - exposed_s), 0.0), most_s), most_s


def late(rank: Rank) -> str:
    """A rank's lateness a step with half the width of its interval: 1.06 ms ±40.0 µs."""
    if rank.late_s is None or rank.late_interval_s is None:
        return format_time(rank.late_s)
    low, high = rank.late_interval_s
    return f"{format_time(rank.late_s)} ±{format_time((high - low) / 2)}"


def rank_columns(ranks: Sequence[Rank]) -> tuple[Column, ...]:
    """The ranks' times a step; columns that no rank knows are left out."""
    return _known(
        Column("rank", tuple(str(r.rank) for r in ranks)),
        Column("step", tuple(format_time(r.step_s) for r in ranks)),
        Column("communication", tuple(format_time(r.communication_s) for r in ranks)),
        Column("exposed", tuple(format_time(r.exposed_communication_s) for r in ranks)),
        Column("wait", tuple(format_time(r.wait_s) for r in ranks)),
        Column("late", tuple(late(r) for r in ranks)),
    )


def rank_notes(ranks: Sequence[Rank]) -> Iterator[str]:
    """What the columns of the ranks mean, where they are there."""
    if any(rank.late_s is not None or rank.wait_s is not None for rank in ranks):
        yield LATENESS


def _known(*columns: Column) -> tuple[Column, ...]:
    return tuple(column for column in columns if set(column.cells) - {UNKNOWN})


def extremes(ranks: Sequence[Rank], stragglers: Sequence[Straggler], most: int) -> list[Rank | list[Rank]]:
    """All ranks where they are few; else the latest, the earliest, the longest and the shortest step, latest first.

    A list stands for the ranks between two that are shown.
    """
    if len(ranks) <= most:
        return list(ranks)
    order = sorted(ranks, key=lambda r: (r.late_s is None, -(r.late_s or 0.0), -(r.step_s or 0.0)))
    by_step = sorted((r for r in ranks if r.step_s is not None), key=lambda r: r.step_s or 0.0)
    first = min(max(FIRST, len(stragglers)), most // 2)
    kept = {r.rank for r in (*order[:first], *order[-LAST:], *by_step[:1], *by_step[-1:])}
    rows: list[Rank | list[Rank]] = []
    for shown, run in groupby(order, key=lambda r: r.rank in kept):
        several = list(run)
        rows += several if shown or len(several) == 1 else [several]
    return rows


def between(ranks: Sequence[Rank]) -> Rank:
    """The median of each of the ranks' times; the rank's number and interval mean nothing."""

    def middle(values: Iterator[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return median(known) if known else None

    return Rank(
        rank=-1,
        step_s=middle(r.step_s for r in ranks),
        communication_s=middle(r.communication_s for r in ranks),
        exposed_communication_s=middle(r.exposed_communication_s for r in ranks),
        wait_s=middle(r.wait_s for r in ranks),
        late_s=middle(r.late_s for r in ranks),
        late_interval_s=None,
        compute_s=middle(r.compute_s for r in ranks),
    )


def collective_columns(rows: Sequence[CollectiveRow]) -> tuple[Column, ...]:
    """The collectives, with marks for the footnotes; columns that are not known are left out."""
    marks = dict(zip(_notes(rows), MARKS, strict=False))
    scale, unit = _rate_unit(rows)

    def rate(value: float | None) -> str:
        return UNKNOWN if value is None else _plain(value / scale)

    def bus(row: CollectiveRow) -> str:
        found, shown = row.busbw_interval_bytes_per_s, rate(row.busbw_bytes_per_s)
        return shown if found is None or shown == TINY else f"{shown} {interval(found, rate)}"

    return _known(
        Column("collective", tuple(row.kind + "".join(marks.get(n, "") for n in row.notes) for row in rows), False),
        Column("size", tuple(format_bytes(row.message_bytes) for row in rows)),
        Column("ranks", tuple(UNKNOWN if row.group_size is None else str(row.group_size) for row in rows)),
        Column("n", tuple(str(row.n) for row in rows)),
        Column("median", tuple(format_time(row.duration_s) for row in rows)),
        Column(f"algbw {unit}", tuple(rate(row.algbw_bytes_per_s) for row in rows)),
        Column(f"busbw {unit}", tuple(bus(row) for row in rows)),
        Column("wait", tuple(format_time(row.wait_s) for row in rows)),
        Column("imbalance", tuple(_ratio(row.imbalance) for row in rows)),
        Column("total", tuple(format_time(row.n * row.duration_s) for row in rows)),
    )


def _rate_unit(rows: Sequence[CollectiveRow]) -> tuple[float, str]:
    """One unit for all bandwidths of a table, that of the largest."""
    largest = max((row.algbw_bytes_per_s or 0.0 for row in rows), default=0.0)
    return (1e9, "GB/s") if largest >= 1e8 else (1e6, "MB/s")


def _plain(value: float) -> str:
    """Three digits, and no more than three decimals: 312, 31.2, 3.12, 0.031; what rounds to nothing is said to."""
    if value < 0.001:
        return TINY
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{decimals}f}"


def _ratio(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}×"


def _notes(rows: Sequence[CollectiveRow]) -> list[str]:
    return list(dict.fromkeys(note for row in rows for note in row.notes))


def footnotes(rows: Sequence[CollectiveRow]) -> Iterator[str]:
    """Each note of the rows once, with its mark; then what the figures are of."""
    for mark, note in zip(MARKS, _notes(rows), strict=False):
        yield f"{mark} {note}"
    yield OF_THE_LAST if any(row.wait_s is not None for row in rows) else OF_ONE
    if any(row.busbw_bytes_per_s is not None for row in rows):
        yield BUSBW


def others(rows: Sequence[CollectiveRow]) -> str:
    """What the rows that are not shown hold."""
    return f"{len(rows)} more, {format_time(sum(row.n * row.duration_s for row in rows))} in total"


def clocks(offsets: Sequence[ClockOffset]) -> str:
    """One line: the largest offset, how well it is known, and whether the clocks drift; "" without a second clock."""
    compared = [c for c in offsets if c.offset_s is not None and c.rank != c.reference]
    if not compared:
        return ""
    largest = max(compared, key=lambda c: abs(c.offset_s or 0.0))
    offset_s = largest.offset_s or 0.0
    way = "ahead of" if offset_s > 0 else "behind"
    line = f"largest offset {format_time(abs(offset_s))}: rank {largest.rank} is {way} rank {largest.reference}"
    return f"{line}, {_certainty(largest)}; {_drift(compared)}"


def _certainty(clock: ClockOffset) -> str:
    """How far an offset may be off; bounds, which may lie far to one side, as such and signed like the offset."""
    if clock.interval_s is not None:
        low, high = (abs(end - (clock.offset_s or 0.0)) for end in clock.interval_s)
        return f"known to ±{format_time(max(low, high))} at 95 %"
    if clock.bounds_s is None:
        return "by how much at most is not known"
    return f"hard bounds {interval(clock.bounds_s)}"


def _drift(compared: Sequence[ClockOffset]) -> str:
    decided = [c for c in compared if c.drift_fraction is not None]
    if not decided:
        why = next((c.reason for c in compared if c.reason), None)
        return "drift not decided" + (f": {why}" if why else "")
    most = max(decided, key=lambda c: abs(c.drift_fraction or 0.0))
    error = f" ±{2e6 * most.drift_error_fraction:.2g}" if most.drift_error_fraction is not None else ""
    return f"largest drift {(most.drift_fraction or 0.0) * 1e6:.3g}{error} ppm (rank {most.rank})"


def scaling_columns(scaling: Scaling) -> tuple[Column, ...]:
    """The jobs, smallest first."""
    points = scaling.points
    return _known(
        Column("ranks", tuple(str(p.world_size) for p in points)),
        Column("steps", tuple(str(p.n) for p in points)),
        Column("step", tuple(format_time(p.step_s) for p in points)),
        Column("speedup", tuple(f"{p.speedup:.2f}×" for p in points)),
        Column("efficiency", tuple(efficiency(p) for p in points)),
    )


def efficiency(point: ScalingPoint) -> str:
    """Efficiency with its interval: 81.0 % [79.2, 83.1]."""
    found = format_fraction(point.efficiency_fraction)
    if point.efficiency_interval_fraction is None:
        return found
    return f"{found} {interval(point.efficiency_interval_fraction, lambda share: f'{share * 100:.1f}')}"
