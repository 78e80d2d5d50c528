"""How far are the ranks' clocks apart? From the ends of the collectives that no rank can leave before all have come.

Two ranks see such a collective end at nearly the same instant, so the median of the differences of its ends is the
offset of their clocks, with an interval by order statistics; that holds as far as neither rank always ends later than
the other. Physics gives hard bounds, as far as the drift is known: no rank ends it before another has begun. Ranks that
share no group are compared by way of others: along the tree of smallest uncertainty from the reference rank, on which
intervals and bounds add up.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt

from probe.analyzers.ranks.kinds import BLOCKING, is_kind
from probe.analyzers.ranks.matching import Meetings
from probe.analyzers.ranks.offsets import Offset
from probe.stats import fewest_for_interval, median_interval_ranks
from probe.trace import Mask
from probe.units import runs_text

Numbers = npt.NDArray[np.float64]

TOLERANCE_NS = 5_000  # devices' time stamps, converted to the host's clock, miss it by a few microseconds
COINCIDE_NS = 50_000  # ends of an unnamed group's collectives closer than this coincide
BLOCKS = 10  # of a drift fit, each with its median
PER_BLOCK = 10
DRIFT_RESOLVED_PPM = 0.5  # clocks kept by NTP or PTP drift by less than about 1 ppm
DRIFT_DECIDED = 5.0  # standard errors; 8 degrees of freedom: one in a thousand by chance


@dataclass(frozen=True)
class Edge:
    """One rank's clock against another's, nanoseconds; why it cannot be used where `reason` is given."""

    rank: int
    n: int
    offset_ns: float
    interval_ns: tuple[float, float] | None
    bounds_ns: tuple[float, float]
    drift: float | None  # seconds per second
    drift_error: float | None
    reason: str | None

    @property
    def width_ns(self) -> float:
        """Width of what is known."""
        low, high = self.interval_ns or self.bounds_ns
        return high - low


@dataclass(frozen=True, eq=False)
class Clocks:
    """Offsets of all clocks; `rejected` rows belong to collectives that cannot be the same on that rank."""

    offsets: tuple[Offset, ...]  # in the order of the summaries
    tree: npt.NDArray[np.int64]  # place of the reference of each rank; -1 where it can be compared to none
    shift_ns: Numbers  # [ranks], NaN where not known
    drift: Numbers  # [ranks], 0 where not decided
    middle_ns: float  # instant at which the shifts hold
    rejected: Mask  # [rows of the meetings]
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Ends:
    """Starts and ends of one group's blocking collectives, [collectives, ranks]; NaN where a rank is missing."""

    group: int
    ranks: npt.NDArray[np.int64]
    starts: Numbers
    ends: Numbers
    anonymous: bool


@dataclass(frozen=True)
class _Known:
    """What is known of a rank on its way from the reference."""

    offset: Offset
    shift: float
    drift: float


def compare_clocks(meetings: Meetings, ranks: tuple[int, ...], resolution_ns: tuple[int, ...]) -> Clocks:
    """Offsets of the clocks of `ranks`, which are in the order of the summaries that were matched."""
    middle = float(np.median(meetings.rows.end_ns)) if len(meetings.rows) else 0.0
    groups: dict[int, list[_Ends]] = {}
    for group in _blocking_ends(meetings):
        for place in group.ranks.tolist():
            groups.setdefault(place, []).append(group)
    forest: dict[int, tuple[int, _Known]] = {}
    refused: dict[tuple[int, int], str] = {}
    for place in range(len(ranks)):
        if place not in forest:
            tree = _grow(place, ranks, groups, resolution_ns, middle, refused, set(forest))
            forest.update({at: (place, known) for at, known in tree.items()})
    return _clocks(meetings, ranks, forest, refused, middle)


def _blocking_ends(meetings: Meetings) -> Iterator[_Ends]:
    """Each group's blocking collectives that were matched."""
    rows = meetings.rows
    usable = np.flatnonzero(is_kind(rows.kind, BLOCKING) & np.repeat(meetings.size > 1, meetings.size))
    usable = usable[np.argsort(rows.group[usable], kind="stable")]
    for one in np.split(usable, np.flatnonzero(np.diff(rows.group[usable])) + 1):
        if not len(one):
            continue
        present, column = np.unique(rows.rank[one], return_inverse=True)
        numbers, line = np.unique(rows.meeting[one], return_inverse=True)
        starts, ends = (np.full((len(numbers), len(present)), np.nan) for _ in range(2))
        starts[line, column], ends[line, column] = rows.start_ns[one], rows.end_ns[one]
        group = int(rows.group[one[0]])
        yield _Ends(group, present.astype(np.int64), starts, ends, meetings.groups[group].anonymous)


def _grow(
    reference: int, ranks: tuple[int, ...], groups: dict[int, list[_Ends]], resolution_ns: tuple[int, ...],
    middle: float, refused: dict[tuple[int, int], str], taken: set[int],
) -> dict[int, _Known]:  # fmt: skip
    """All that can be compared to `reference`, over the edges of smallest uncertainty; each group is used once."""
    first = Offset(ranks[reference], ranks[reference], 0, (0, 0), (0, 0), 0, 0.0, 0.0)
    known: dict[int, _Known] = {}
    best: dict[int, _Known] = {reference: _Known(first, 0.0, 0.0)}
    queue: list[tuple[float, int]] = [(0.0, reference)]
    used: set[int] = set()
    while queue:
        width, at = heapq.heappop(queue)
        if at in known:
            continue
        known[at] = best[at]
        here = [group for group in groups.get(at, []) if group.group not in used]
        used.update(group.group for group in here)
        for group in here:
            for edge in _edges(group, at, resolution_ns, middle):
                if edge.rank in known or edge.rank in taken:
                    continue
                if edge.reason is not None:
                    refused[(group.group, edge.rank)] = edge.reason
                    continue
                reached = width + edge.width_ns
                held = best.get(edge.rank)
                if held is None or reached < _width(held):
                    best[edge.rank] = _behind(known[at], edge, ranks[edge.rank])
                    heapq.heappush(queue, (reached, edge.rank))
    return known


def _width(known: _Known) -> float:
    low, high = known.offset.known_ns or (0, 0)
    return float(high - low)


def _behind(before: _Known, edge: Edge, rank: int) -> _Known:
    """A rank's clock by way of the one before it: everything adds up."""
    own, shift = before.offset, before.shift + edge.offset_ns
    interval = _added(own.interval_ns, edge.interval_ns)
    decided = edge.drift is not None and own.drift is not None
    drift = before.drift + (edge.drift or 0.0)
    error = None if edge.drift_error is None else float(np.hypot(own.drift_error or 0.0, edge.drift_error))
    offset = Offset(
        rank=rank,
        reference=own.reference,
        offset_ns=round(shift),
        interval_ns=interval,
        bounds_ns=_added(own.bounds_ns, edge.bounds_ns),
        n=edge.n,
        drift=drift if decided else None,
        drift_error=error,
        reason=_reasons(edge, interval is not None, decided),
    )
    return _Known(offset, shift, drift)


def _reasons(edge: Edge, has_interval: bool, decided: bool) -> str | None:
    said = []
    if not has_interval:
        said.append(f"an interval takes {fewest_for_interval()} collectives on every way, there are {edge.n}")
    if not decided and edge.drift_error is None:
        said.append(f"a drift takes {BLOCKS * PER_BLOCK} collectives, there are {edge.n}")
    elif not decided and edge.drift_error is not None:
        error = edge.drift_error * 1e6
        said.append(f"the recording is too short to tell a drift: its standard error is {error:.2g} ppm")
    return "; ".join(said) or None


def _added(a: tuple[int, int] | None, b: tuple[float, float] | None) -> tuple[int, int] | None:
    if a is None or b is None:
        return None
    return (a[0] + int(np.floor(b[0])), a[1] + int(np.ceil(b[1])))


def _edges(group: _Ends, at: int, resolution_ns: tuple[int, ...], middle: float) -> Iterator[Edge]:
    """The clocks of a group's other ranks against that of rank `at`."""
    own = int(np.flatnonzero(group.ranks == at)[0])
    differences = group.ends - group.ends[:, [own]]
    slope, error, decided = _drifts(differences, group.ends[:, own])
    elapsed = group.ends[:, own] - middle
    flat = differences - np.where(decided, slope, 0.0) * elapsed[:, None]
    # Offsets hold in the middle of all collectives, which may be far from these: two standard errors of the way there.
    moved = 2 * np.nan_to_num(error) * abs(float(np.nanmean(elapsed)))
    low, high = _bounds(group, own, np.where(decided, slope, 0.0), elapsed)
    ordered = np.sort(flat, axis=0)
    counts = np.sum(~np.isnan(flat), axis=0)
    for column in np.flatnonzero(counts > 0):
        if column == own:
            continue
        n, rank = int(counts[column]), int(group.ranks[column])
        bounds = (float(low[column] - moved[column]), float(high[column] + moved[column]))
        reason = _refusal(group, own, int(column), flat[:, column], bounds)
        bounds = (min(bounds), max(bounds))
        offset = float(np.clip(np.median(ordered[:n, column]), *bounds))
        slack = (resolution_ns[at] + resolution_ns[rank]) / 2 + moved[column]
        interval = _interval(ordered[:n, column], slack, bounds, offset)
        fitted = not np.isnan(error[column])
        yield Edge(
            rank, n, offset, interval, bounds,
            float(slope[column]) if decided[column] else None, float(error[column]) if fitted else None, reason,
        )  # fmt: skip


def _interval(
    ordered: Numbers, slack_ns: float, bounds: tuple[float, float], offset: float
) -> tuple[float, float] | None:
    """95 % interval of the median, no wider than the hard bounds; None with too few samples."""
    if len(ordered) < fewest_for_interval():
        return None
    first, last = _enclosing(len(ordered))
    low, high = float(ordered[first]) - slack_ns, float(ordered[last]) + slack_ns
    return (min(max(low, bounds[0]), offset), max(min(high, bounds[1]), offset))


@cache
def _enclosing(n: int) -> tuple[int, int]:
    return median_interval_ranks(n)


def _bounds(group: _Ends, own: int, slope: Numbers, elapsed: Numbers) -> tuple[Numbers, Numbers]:
    """Hard bounds on each rank's offset, [ranks]: who has ended a collective has not ended before the other began."""
    moved = slope * elapsed[:, None]
    high = group.ends - moved - group.starts[:, [own]]
    low = group.starts - moved - group.ends[:, [own]]
    low[np.isnan(low)], high[np.isnan(high)] = -np.inf, np.inf
    return low.max(axis=0), high.min(axis=0)


def _refusal(group: _Ends, own: int, column: int, flat: Numbers, bounds: tuple[float, float]) -> str | None:
    """Why these two ranks cannot have been in the same collectives; None where nothing speaks against it."""
    if bounds[0] > bounds[1] + TOLERANCE_NS:
        return "some end before the other rank has begun them"
    if not group.anonymous:
        return None
    starts = group.starts[:, column] - group.starts[:, own]
    apart = _deviation(flat)
    if apart > max(COINCIDE_NS, _deviation(starts) / 2):
        return f"their ends are {apart / 1e3:.0f} µs apart, and nothing names their group"
    return None


def _deviation(values: Numbers) -> float:
    """Median distance from the median, of those that are numbers."""
    kept = values[~np.isnan(values)]
    return float(np.median(np.abs(kept - np.median(kept))))


def _drifts(differences: Numbers, instants: Numbers) -> tuple[Numbers, Numbers, Mask]:
    """Slope of each column over time, its standard error (NaN: not fitted), and whether it is decided, [ranks].

    A line through the medians of blocks, which a few disturbed collectives do not move. It is decided when the error
    is small, or when the slope is many errors.
    """
    width = differences.shape[1]
    usable = ~np.isnan(differences).any(axis=1)
    if int(usable.sum()) < BLOCKS * PER_BLOCK:
        return np.zeros(width), np.full(width, np.nan), np.zeros(width, bool)
    order = np.flatnonzero(usable)[np.argsort(instants[usable], kind="stable")]
    blocks = np.array_split(order, BLOCKS)
    x = np.array([instants[b].mean() for b in blocks])
    y = np.stack([np.median(differences[b], axis=0) for b in blocks])
    x = x - x.mean()
    spread = float(np.sum(x * x))
    if spread <= 0:
        return np.zeros(width), np.full(width, np.nan), np.zeros(width, bool)
    slope = x @ y / spread
    left = y - y.mean(axis=0) - x[:, None] * slope
    error = np.sqrt(np.sum(left * left, axis=0) / (BLOCKS - 2) / spread)
    return slope, error, (error * 1e6 <= DRIFT_RESOLVED_PPM) | (np.abs(slope) >= DRIFT_DECIDED * error)


def _clocks(
    meetings: Meetings, ranks: tuple[int, ...], forest: dict[int, tuple[int, _Known]],
    refused: dict[tuple[int, int], str], middle: float,
) -> Clocks:  # fmt: skip
    references = np.array([forest[place][0] for place in range(len(ranks))], np.int64)
    alone = np.bincount(references, minlength=len(ranks))[references] == 1
    offsets = [forest[place][1].offset for place in range(len(ranks))]
    for place in np.flatnonzero(alone).tolist():
        offsets[place] = _incomparable(offsets[place], [why for (_, rank), why in refused.items() if rank == place])
    shift = np.array([forest[place][1].shift for place in range(len(ranks))])
    pairs = meetings.rows.group.astype(np.int64) * len(ranks) + meetings.rows.rank
    rejected = np.isin(pairs, [group * len(ranks) + place for group, place in refused])
    return Clocks(
        offsets=tuple(offsets),
        tree=np.where(alone, -1, references),
        shift_ns=np.where(alone, np.nan, shift),
        drift=np.array([forest[place][1].drift for place in range(len(ranks))]),
        middle_ns=middle,
        rejected=rejected,
        warnings=tuple(_refusals(refused, ranks, meetings)),
    )


def _incomparable(offset: Offset, why: list[str]) -> Offset:
    reason = why[0] if why else "shares no blocking collective with another rank at hand"
    return replace(
        offset, offset_ns=None, interval_ns=None, bounds_ns=None, drift=None, drift_error=None, reason=reason
    )


def _refusals(refused: dict[tuple[int, int], str], ranks: tuple[int, ...], meetings: Meetings) -> Iterator[str]:
    """One line for each reason, with the ranks and the groups."""
    for reason in dict.fromkeys(refused.values()):
        found = [key for key, why in refused.items() if why == reason]
        named = runs_text(ranks[place] for _, place in found)
        groups = ", ".join(sorted({str(meetings.groups[g].name or "unnamed") for g, _ in found})[:4])
        yield f"collectives of rank {named} (group {groups}) are left out: {reason}, so they are not the same ones"
