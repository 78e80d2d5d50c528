"""By how much is the clock of each rank to be set so that the collectives that ranks share end together?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from probe.analyzers.ranks.clocks import compare_clocks
from probe.analyzers.ranks.matching import match
from probe.analyzers.ranks.offsets import Offset
from probe.analyzers.ranks.summary import summarise
from probe.readers.rank_names import numbers
from probe.results.multirank import RankSummary
from probe.trace import Trace


@dataclass(frozen=True)
class Offsets:
    """What is to be added to the times of the ranks whose clocks are known."""

    ns: Mapping[int, int]  # by rank
    reference: Mapping[int, int]  # by rank: the one whose clock it is set to
    warnings: tuple[str, ...] = ()


def given(ns: Mapping[int, int]) -> Offsets:
    """Offsets that the caller knows."""
    return Offsets(ns, {})


@dataclass(frozen=True, eq=False)
class Recording:
    """What one rank recorded, timed from its first event: wall clocks that lie years apart would cost digits."""

    summary: RankSummary
    begin_unix_ns: int  # its first event on its own wall clock


def recording(trace: Trace, rank: int) -> Recording:
    """The recording of a rank, in full."""
    first = first_ns(trace)
    return Recording(summarise(replace(trace, start_unix_ns=-first), rank), trace.start_unix_ns + first)


def first_ns(trace: Trace) -> int:
    """The first start in a trace, on its own clock; 0 where nothing is in it."""
    steps = trace.steps.start_ns
    tables = (trace.host_ops, trace.runtime_calls, trace.kernels, trace.copies, trace.annotations)
    starts = [int(t.start_ns.min()) for t in tables if len(t)] + ([int(steps.min())] if len(steps) else [])
    return min(starts, default=0)


def from_collectives(recordings: Sequence[Recording]) -> Offsets:
    """Offsets by the ends of blocking collectives; the clock of the lowest rank at hand counts as right.

    They hold in the middle of the recording: a drift of 1 ppm, much for clocks kept by NTP, moves the ends of a
    minute by 30 µs.
    """
    count = Counter(r.summary.rank for r in recordings)
    twice = [rank for rank, files in sorted(count.items()) if files > 1]
    warnings = [f"the clock of rank {rank} could not be set: {count[rank]} files are of this rank" for rank in twice]
    chosen = {
        r.summary.rank: r for r in sorted(recordings, key=lambda r: r.summary.rank) if r.summary.rank not in twice
    }
    if len(chosen) < 2:
        return Offsets({}, {}, tuple(warnings))
    summaries = [r.summary for r in chosen.values()]
    found = compare_clocks(match(summaries), tuple(chosen), tuple(s.resolution_ns for s in summaries))
    known = [o for o in found.offsets if o.offset_ns is not None]
    return Offsets(
        ns={o.rank: _added_ns(chosen[o.reference], chosen[o.rank], o.offset_ns or 0) for o in known},
        reference={o.rank: o.reference for o in known},
        warnings=(*warnings, *found.warnings, *_unset(found.offsets), *_apart(known)),
    )


def _added_ns(reference: Recording, own: Recording, ahead_ns: int) -> int:
    """What brings a rank's times to another's clock, which its own, counted from first events, is that far ahead of."""
    return reference.begin_unix_ns - own.begin_unix_ns - ahead_ns


def _unset(offsets: Sequence[Offset]) -> Iterator[str]:
    """One line for each reason why ranks keep their own clocks."""
    unknown = [o for o in offsets if o.offset_ns is None]
    for reason in dict.fromkeys(o.reason for o in unknown):
        ranks = [o.rank for o in unknown if o.reason == reason]
        whose = f"clock of rank {ranks[0]}" if len(ranks) == 1 else f"clocks of ranks {numbers(ranks)}"
        yield f"the {whose} could not be set: {reason}"


def _apart(known: Sequence[Offset]) -> Iterator[str]:
    """Ranks that can be set to each other's clocks, and not to that of the first."""
    references = sorted({o.reference for o in known})
    for reference in references[1:]:
        ranks = numbers([o.rank for o in known if o.reference == reference])
        yield (
            f"ranks {ranks} are set to the clock of rank {reference}: they share no blocking collective with rank"
            f" {references[0]}, to whose clock the others are set"
        )
