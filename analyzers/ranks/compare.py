"""How do the ranks of a job compare: what do they wait for, and is one of them to blame?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from probe.analyzers.ranks.arrivals import arrive, slacks
from probe.analyzers.ranks.bandwidth import collective_rows
from probe.analyzers.ranks.clocks import compare_clocks
from probe.analyzers.ranks.matching import Meetings, match
from probe.analyzers.ranks.offsets import in_seconds
from probe.errors import UsageError
from probe.intervals import union
from probe.results.multirank import Arrivals, Interval, Rank, RanksAnalysis, RankSummary, Straggler
from probe.stats import fewest_for_interval, student_quantile
from probe.trace import Int64s
from probe.units import runs_text

MATERIAL_FRACTION = 0.01  # of the step; a rank that is late by less is not worth a name

Numbers = npt.NDArray[np.float64]


def compare_ranks(summaries: Sequence[RankSummary]) -> RanksAnalysis:
    """The ranks of one job side by side, on one clock."""
    distinct, warnings = _distinct(summaries)
    ranks = tuple(s.rank for s in distinct)
    meetings = match(distinct)
    clocks = compare_clocks(meetings, ranks, tuple(s.resolution_ns for s in distinct))
    same = meetings.where(~clocks.rejected)
    arrivals = arrive(same, clocks, ranks)
    steps, window = _window(distinct)
    early, late = slacks(clocks)
    own = _by_rank(arrivals if steps is None else arrivals.where(np.isin(arrivals.step, steps)), ranks)
    rows = tuple(
        _rank(summary, own[at], steps, (float(early[at]), float(late[at]))) for at, summary in enumerate(distinct)
    )
    named, doubts = _latest(rows, clocks.tree)
    world = max((s.world_size for s in distinct if s.world_size is not None), default=None)
    return RanksAnalysis(
        world_size=world,
        ranks=rows,
        missing=tuple(rank for rank in range(world or 0) if rank not in ranks),
        offsets=tuple(in_seconds(offset) for offset in clocks.offsets),
        collectives=collective_rows(same, arrivals),
        arrivals=arrivals,
        stragglers=tuple(_straggler(rows[at], own[at], _per_step(distinct[at], steps)) for at in named),
        matched=int((same.size > 1).sum()),
        unmatched=meetings.unmatched + int(clocks.rejected.sum()),
        warnings=(*warnings, *window, *_about_ranks(distinct, world), *_about(meetings), *clocks.warnings, *doubts),
    )


def _distinct(summaries: Sequence[RankSummary]) -> tuple[list[RankSummary], list[str]]:
    """One summary a rank, in order of ranks; the first of several."""
    if not summaries:
        raise UsageError("no ranks to compare: name a directory with at least one trace for each rank")
    by_rank: dict[int, RankSummary] = {}
    warnings = []
    for summary in summaries:
        kept = by_rank.setdefault(summary.rank, summary)
        if kept is not summary:
            warnings.append(f"rank {summary.rank} is there twice: {kept.path} is used and {summary.path} is not")
    return [by_rank[rank] for rank in sorted(by_rank)], warnings


def _window(summaries: Sequence[RankSummary]) -> tuple[Int64s | None, list[str]]:
    """Numbers of the steps that every rank recorded; None where they are not marked or none is common."""
    unmarked = [s.rank for s in summaries if not s.steps_marked]
    if unmarked:
        many = f"rank {runs_text(unmarked)}"
        return None, [f"steps are not marked on {many}: means are of whole recordings, which may differ in length"]
    common = summaries[0].steps.number
    for summary in summaries[1:]:
        common = np.intersect1d(common, summary.steps.number)
    if all(len(s.steps) == len(common) for s in summaries):
        return common, []
    if not len(common):
        return None, ["no step was recorded by every rank: means are of each rank's own steps"]
    extra = [s.rank for s in summaries if len(s.steps) > len(common)]
    longer = f"rank {runs_text(extra)} recorded steps that others did not"
    return common, [f"{longer}: means are of the {len(common)} common"]


def _about_ranks(summaries: Sequence[RankSummary], world: int | None) -> Iterator[str]:
    ranks = [s.rank for s in summaries]
    missing = sorted(set(range(world or 0)) - set(ranks))
    if missing:
        yield (
            f"{len(ranks)} of {world} ranks are at hand (not rank {runs_text(missing)}): waits and lateness are among"
            " these, and a wait for another rank is not seen"
        )
    worlds = sorted({s.world_size for s in summaries if s.world_size is not None})
    if len(worlds) > 1 or (world is not None and max(ranks) >= world):
        sizes = ", ".join(map(str, worlds))
        yield f"ranks up to {max(ranks)} say the job has {sizes} ranks: the traces may be of different jobs"
    untimed = [s.rank for s in summaries if s.untimed]
    if untimed:
        total = sum(s.untimed for s in summaries)
        yield f"{total:,} collectives on rank {runs_text(untimed)} have no kernel in the trace and are not counted"


def _about(meetings: Meetings) -> Iterator[str]:
    for reason in meetings.why:
        yield f"collectives without a partner: {reason}"


def _by_rank(arrivals: Arrivals, ranks: tuple[int, ...]) -> list[Arrivals]:
    """Each rank's own, in the order of `ranks`, which rises."""
    order = np.argsort(arrivals.rank, kind="stable")
    edges = np.searchsorted(arrivals.rank[order], (*ranks, max(ranks) + 1))
    return [arrivals.where(order[begin:end]) for begin, end in pairwise(edges.tolist())]


def _per_step(summary: RankSummary, steps: Int64s | None) -> int:
    """How many steps the means are taken over."""
    return len(summary.steps) if steps is None else len(steps)


def _lateness(own: Arrivals, n: int, slack_ns: tuple[float, float]) -> tuple[float, Interval] | None:
    """Mean lateness per step in seconds, and its 95 % interval by the spread, widened by what the clocks leave open.

    Time in which several collectives wait for the rank counts once. The steps are the samples, or, where they are few,
    the collectives; the interval takes these for independent, and so errs on the wide side where they overlap.
    """
    late = own.late_ns.astype(np.float64)
    if not len(late) or not n:
        return None
    instant = own.start_ns - own.late_ns
    sums = _covered(own.step, instant, own.start_ns) - _covered(own.step, own.start_ns, instant)
    chance = _half_width(sums) if len(sums) == n >= fewest_for_interval() else _half_width(late) * len(late) / n
    below, above = (slack * len(late) / n for slack in slack_ns)
    mean = float(sums.sum()) / n
    return mean / 1e9, ((mean - chance - below) / 1e9, (mean + chance + above) / 1e9)


def _covered(step: Int64s, start_ns: Int64s, end_ns: Int64s) -> Numbers:
    """Nanoseconds that the intervals of each step cover, [steps]; what ends before it starts covers nothing."""
    _, of = np.unique(step, return_inverse=True)
    base = int(min(start_ns.min(), end_ns.min()))
    length = int(max(start_ns.max(), end_ns.max())) - base + 1
    apart = of * length - base  # every step on a stretch of its own, so that one union serves all
    busy = union(start_ns + apart, end_ns + apart)
    weights = (busy.ends - busy.starts).astype(np.float64)
    return np.bincount(busy.starts // length, weights=weights, minlength=int(of.max()) + 1).astype(np.float64)


def _half_width(samples: Numbers) -> float:
    """Half the 95 % interval of the mean by Student's distribution; the whole range where samples are few."""
    n = len(samples)
    if n < fewest_for_interval():
        return float(np.ptp(samples)) if n > 1 else abs(float(samples[0]))
    return student_quantile(n - 1) * float(samples.std(ddof=1)) / math.sqrt(n)


def _rank(summary: RankSummary, own: Arrivals, steps: Int64s | None, slack_ns: tuple[float, float]) -> Rank:
    table = summary.steps if steps is None else summary.steps.where(np.isin(summary.steps.number, steps))
    lateness = _lateness(own, len(table), slack_ns)
    return Rank(
        rank=summary.rank,
        step_s=_mean_s(table.duration_ns),
        communication_s=_mean_s(table.communication_ns),
        exposed_communication_s=_mean_s(table.exposed_communication_ns),
        wait_s=_waited_s(own, len(table)),
        late_s=lateness[0] if lateness else None,
        late_interval_s=lateness[1] if lateness else None,
        compute_s=_mean_s(table.compute_ns),
    )


def _waited_s(own: Arrivals, n: int) -> float | None:
    """Mean time per step in which at least one collective waits for another rank."""
    if not len(own) or not n:
        return None
    return float(_covered(own.step, own.start_ns, own.start_ns + own.wait_ns).sum()) / n / 1e9


def _mean_s(times_ns: Int64s) -> float | None:
    return int(times_ns.sum()) / len(times_ns) / 1e9 if len(times_ns) else None


def _latest(rows: tuple[Rank, ...], tree: Int64s) -> tuple[list[int], list[str]]:
    """Places of the ranks that are late beyond doubt, latest first, and what has to be said where there are none."""
    found: list[int] = []
    doubts: list[str] = []
    for reference in np.unique(tree[tree >= 0]).tolist():
        known = [(place, rows[place]) for place in np.flatnonzero(tree == reference).tolist()]
        known = [(place, row) for place, row in known if row.late_s is not None]
        named = beyond_the_others([(place, row.late_interval_s) for place, row in known if row.late_interval_s])
        named = [place for place in named if _material(rows[place])]
        found += named
        if not named and known:
            doubts += _doubt(max((row for _, row in known), key=lambda row: row.late_s or 0.0))
    apart = [row.rank for row, at in zip(rows, tree.tolist(), strict=True) if at < 0]
    if apart and len(rows) > 1:
        doubts.append(f"the clock of rank {runs_text(apart)} cannot be compared: its waits and lateness are not known")
    return sorted(found, key=lambda place: -(rows[place].late_s or 0.0)), doubts


def beyond_the_others(intervals: list[tuple[int, Interval]]) -> list[int]:
    """Those, at most half, whose intervals lie above 0 and above all others', where the gap is widest."""
    order = sorted(intervals, key=lambda one: -one[1][0])
    best, gap = 0, 0.0
    for count in range(1, len(order) // 2 + 1):
        rest = max(high for _, (_, high) in order[count:])
        above = order[count - 1][1][0] - max(rest, 0.0)
        if above > gap:
            best, gap = count, above
    return [place for place, _ in order[:best]]


def _material(row: Rank) -> bool:
    """Whether a rank is late by enough of the step to ask why."""
    return (row.late_s or 0.0) > MATERIAL_FRACTION * (row.step_s or 0.0)


def _straggler(row: Rank, own: Arrivals, n: int) -> Straggler:
    delay = _covered(own.step, own.start_ns - own.delay_ns, own.start_ns)
    return Straggler(row.rank, row.late_s or 0.0, row.late_interval_s or (0.0, 0.0), float(delay.sum()) / n / 1e9)


def _doubt(row: Rank) -> Iterator[str]:
    """That the latest rank is not named, where it is late enough to ask; by how much is in its row."""
    if row.late_interval_s is not None and _material(row):
        yield f"no straggler is named: clocks and spread leave open whether rank {row.rank} is one; record more steps"
