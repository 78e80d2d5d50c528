"""Which rows of different ranks are the same collective? By group, kind and place in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from probe.analyzers.ranks.kinds import MEETINGS, is_kind, kind_number
from probe.results.multirank import Group, RankSummary
from probe.trace import Int32s, Int64s, Mask, Table

_LARGEST = 2**62


@dataclass(frozen=True, eq=False)
class MeetingRows(Table):
    """One rank's part in a collective each; sorted by meeting, then rank. Times are from Meetings.base_ns."""

    meeting: Int64s
    rank: Int32s  # place among the summaries
    group: Int32s  # into Meetings.groups
    kind: Int32s
    step: Int64s
    in_bytes: Int64s
    out_bytes: Int64s
    in_switch: Mask
    start_ns: Int64s
    end_ns: Int64s


@dataclass(frozen=True, eq=False)
class Meetings:
    """Collectives of all ranks, each the rows from `first` to the next; alone where the other ranks are not at hand."""

    rows: MeetingRows
    first: Int64s  # [meetings]
    groups: tuple[Group, ...]
    base_ns: int  # wall-clock time of nanosecond 0
    unmatched: int = 0  # rows that should have had a partner
    why: tuple[str, ...] = ()  # reasons for the unmatched, with their counts

    @property
    def size(self) -> Int64s:
        """How many ranks are at hand of each, [meetings]."""
        return np.diff(np.append(self.first, len(self.rows)))

    def where(self, keep: Mask) -> Meetings:
        """The meetings that keep at least one of these rows, with those rows only."""
        rows = self.rows.where(keep)
        first = openings(rows.meeting)
        meeting = np.cumsum(first) - 1
        return replace(self, rows=replace(rows, meeting=meeting), first=np.flatnonzero(first))


def match(summaries: Sequence[RankSummary]) -> Meetings:
    """The collectives of ranks that are all different, found again on the other ranks.

    Where every rank recorded the group's own count, that is the key. Else the order within a step, if all ranks mark
    steps, or within the recording: but only among ranks that are a majority in how many they counted there.
    """
    groups, of_summary = _unified(summaries)
    base = min((int(s.collectives.start_ns.min()) for s in summaries if len(s.collectives)), default=0)
    rows, sequence = _pooled(summaries, of_summary, base)
    bucket, counted = _buckets(rows, sequence, len(groups), all(s.steps_marked for s in summaries))
    place, agreed = _places(rows, bucket, counted)
    meetable = np.array([_meetable(g) for g in groups], bool)[rows.group] if groups else np.zeros(0, bool)
    usable = agreed & meetable & ((rows.kind != kind_number("send_recv")) | _paired(groups, rows.group))
    usable &= rows.kind != kind_number("unknown")
    alone = ~usable
    key = _packed(rows.group, rows.kind, bucket, place)
    key[alone] = _LARGEST + np.arange(int(alone.sum()))
    order = np.lexsort((rows.rank, key))
    opens = openings(key[order])
    meeting = np.cumsum(opens) - 1
    found = Meetings(replace(rows.where(order), meeting=meeting), np.flatnonzero(opens), groups, base)
    outside = counted & (bucket < 0)
    return _counted(found, agreed[order], usable[order], outside[order])


def _unified(summaries: Sequence[RankSummary]) -> tuple[tuple[Group, ...], list[Int32s]]:
    """Groups of all ranks, and the number of each rank's own; who lacks the list of members takes the one known."""
    members: dict[str | None, set[tuple[int, ...]]] = {}
    for group in (g for s in summaries for g in s.groups if g.ranks is not None):
        members.setdefault(group.name, set()).add(group.ranks or ())
    numbers: dict[tuple[object, ...], int] = {}
    groups: list[Group] = []
    of_summary = []
    for summary in summaries:
        own = [_completed(g, members.get(g.name, set())) for g in summary.groups]
        keys = [(g.name, g.ranks, g.stream, g.pair) for g in own]
        for group, key in zip(own, keys, strict=True):
            if numbers.setdefault(key, len(groups)) == len(groups):
                groups.append(group)
        of_summary.append(np.array([numbers[key] for key in keys], np.int32))
    return tuple(groups), of_summary


def _completed(group: Group, members: set[tuple[int, ...]]) -> Group:
    if group.name is None or group.ranks is not None or len(members) != 1:
        return group
    ranks = next(iter(members))
    return replace(group, ranks=ranks, size=group.size or len(ranks))


def _pooled(summaries: Sequence[RankSummary], of_summary: list[Int32s], base_ns: int) -> tuple[MeetingRows, Int64s]:
    """The collectives of all ranks one after the other, and their sequence numbers."""
    tables = [s.collectives for s in summaries]
    sequence = np.concatenate([t.sequence for t in tables])
    rows = MeetingRows(
        meeting=np.zeros(len(sequence), np.int64),
        rank=np.repeat(np.arange(len(tables), dtype=np.int32), [len(t) for t in tables]),
        group=np.concatenate([of[t.group] for of, t in zip(of_summary, tables, strict=True)]).astype(np.int32),
        kind=np.concatenate([t.kind for t in tables]),
        step=np.concatenate([t.step for t in tables]),
        in_bytes=np.concatenate([t.in_bytes for t in tables]),
        out_bytes=np.concatenate([t.out_bytes for t in tables]),
        in_switch=np.concatenate([t.in_switch for t in tables]),
        start_ns=np.concatenate([t.start_ns for t in tables]) - base_ns,
        end_ns=np.concatenate([t.end_ns for t in tables]) - base_ns,
    )
    return rows, sequence


def _buckets(rows: MeetingRows, sequence: Int64s, groups: int, marked: bool) -> tuple[Int64s, Mask]:
    """Within what each row is counted (-1: nothing it could be counted in), and whether its order there decides."""
    lacking = np.zeros(groups, bool)
    lacking[rows.group[sequence < 0]] = True
    counted = lacking[rows.group]
    place = rows.step if marked else np.zeros(len(rows), np.int64)
    return np.where(counted, place, sequence), counted


def _places(rows: MeetingRows, bucket: Int64s, counted: Mask) -> tuple[Int64s, Mask]:
    """Place of each row among its rank's in the same bucket, and whether most ranks counted as many there."""
    place, count = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    shared = _packed(rows.group, rows.kind, bucket)
    order = np.lexsort((rows.start_ns, rows.rank, shared))
    opens = openings(shared[order]) | openings(rows.rank[order])
    first, lengths = runs(opens)
    place[order] = np.arange(len(rows)) - np.repeat(first, lengths)
    count[order] = np.repeat(lengths, lengths)
    agreed = np.ones(len(rows), bool)
    agreed[order] = np.repeat(_by_majority(shared[order][first], lengths), lengths)
    return place, np.where(counted, agreed & (bucket >= 0), True)


def _by_majority(bucket: Int64s, count: Int64s) -> Mask:
    """For each rank's count in a (sorted) bucket, whether more than half of the bucket's ranks counted the same."""
    order = np.lexsort((count, bucket))
    opens = openings(bucket[order]) | openings(count[order])
    same, ranks = runs(opens)[1], runs(openings(bucket))[1]
    agree = np.empty(len(bucket), bool)
    agree[order] = 2 * np.repeat(same, same) > np.repeat(ranks, ranks)
    return agree


def _meetable(group: Group) -> bool:
    return group.size is None or group.size > 1


def _paired(groups: tuple[Group, ...], group: Int32s) -> Mask:
    known = np.array([g.pair is not None for g in groups], bool)
    return known[group] if len(known) else np.zeros(len(group), bool)


def _counted(found: Meetings, agreed: Mask, usable: Mask, outside: Mask) -> Meetings:
    """The same with its unmatched rows counted by reason."""
    single = np.repeat(found.size == 1, found.size) & (found.rows.kind != kind_number("unknown"))
    ranks = _ranks_of_groups(found)
    expected = single & (ranks[found.rows.group] > 1) if len(ranks) else single
    reasons = (
        (int((expected & outside).sum()), "because they were issued outside the marked steps"),
        (int((expected & ~agreed & ~outside).sum()), "because ranks recorded different numbers of them"),
        (int((expected & agreed & usable).sum()), "because the others did not record them"),
        (int((expected & agreed & ~usable & is_kind(found.rows.kind, ("send_recv",))).sum()), "without a known peer"),
    )
    return replace(
        found,
        unmatched=sum(n for n, _ in reasons),
        why=tuple(f"{n:,} of {len(found.rows):,} {reason}" for n, reason in reasons if n),
    )


def _ranks_of_groups(found: Meetings) -> Int64s:
    """How many ranks have rows of each group, [groups]."""
    pairs = np.unique(found.rows.group.astype(np.int64) * (2**32) + found.rows.rank)
    return np.bincount(pairs >> 32, minlength=len(found.groups)).astype(np.int64)


def waits_for_all(meetings: Meetings) -> Mask:
    """Rows of matched collectives in which ranks wait for each other, [rows]."""
    return np.repeat(meetings.size > 1, meetings.size) & is_kind(meetings.rows.kind, MEETINGS)


def openings(column: Int64s | Int32s) -> Mask:
    """Where a value differs from the one before, [n]; the first always does."""
    opens = np.ones(len(column), bool)
    opens[1:] = column[1:] != column[:-1]
    return opens


def runs(opens: Mask) -> tuple[Int64s, Int64s]:
    """Where each run begins, and how long it is, [runs]; opens: whether a run begins there, [n]."""
    first = np.flatnonzero(opens)
    return first, np.diff(np.append(first, len(opens)))


def _packed(*columns: Int64s | Int32s) -> Int64s:
    """One number for each distinct row of the columns, in their order."""
    key, span = np.zeros(len(columns[0]), np.int64), 1
    for column in columns:
        values = column.astype(np.int64)
        low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
        if span * (high - low + 1) >= _LARGEST:
            values = np.unique(values, return_inverse=True)[1]
            low, high = 0, len(values)
        key = key * (high - low + 1) + (values - low)
        span *= high - low + 1
    return key
