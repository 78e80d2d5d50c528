"""Which interval encloses which: from calls on a thread to a forest with self times."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from probe.readers.events import NONE
from probe.trace import Frames, HostOps, Int32s, Int64s, Mask

_DEEPEST = 1000  # levels taken one after another, each over all rows: real calls nest by some tens


def nest(thread: Int32s, start: Int64s, end: Int64s) -> tuple[Int32s, int]:
    """The row of the innermost enclosing interval of each, -1 for none; rows sorted by thread, start, longest first.

    An interval that ends after the one it started in is cut at that one's end (`end` is changed in place): profilers
    round the two ends separately, and some backends really overlap by a few hundred nanoseconds. Returns the number of
    those as well.
    """
    parent = np.full(len(start), NONE, np.int32)
    clamped = 0
    edges = np.append(np.flatnonzero(np.diff(thread, prepend=NONE - 1)), len(thread))
    for first, last in pairwise(edges.tolist()):
        rows = slice(first, last)
        found, cut = _nest_thread(start[rows], end[rows])
        found[found >= 0] += first
        parent[rows] = found
        clamped += cut
    return parent, clamped


def _nest_thread(start: Int64s, end: Int64s) -> tuple[Int32s, int]:
    """The same for one thread: all rows at once where intervals nest, row by row in the islands where they do not.

    An island is a run of intervals without a gap; what happens in one does not depend on another.
    """
    parent = _parents(start, end)
    child = np.flatnonzero(parent >= 0)
    holder = parent[child]
    broken = (end[child] > end[holder]) | (end[holder] <= start[child])
    if not broken.any():
        return parent, 0
    clamped = 0
    for first, last in _islands(start, end, child[broken]):
        rows = slice(first, last)
        found, cut = _nest_in_order(start[rows], end[rows])
        found[found >= 0] += first
        parent[rows] = found
        clamped += cut
    return parent, clamped


def _parents(start: Int64s, end: Int64s) -> Int32s:
    """The parent of each row, given that all intervals nest: the last row before it that is one level higher."""
    depth = np.arange(len(start)) - _ended_before(start, end)
    if depth.max(initial=0) > _DEEPEST:
        return _nest_in_order(start, end.copy())[0]
    parent = np.full(len(start), NONE, np.int32)
    above = np.flatnonzero(depth == 0)
    for level in range(1, int(depth.max(initial=0)) + 1):
        rows = np.flatnonzero(depth == level)
        at = np.searchsorted(above, rows) - 1
        parent[rows[at >= 0]] = above[at[at >= 0]]
        above = rows
    return parent


def _ended_before(start: Int64s, end: Int64s) -> Int64s:
    """For each row how many of the rows before it have ended when it starts.

    A row after it can have ended by then only where it is empty and starts at the same time: rows are sorted by start,
    the longest first.
    """
    ended = np.searchsorted(np.sort(end), start, side="right")
    empties = np.cumsum(end == start)
    last_of_start = np.searchsorted(start, start, side="right") - 1
    before = empties - (end == start)
    late = np.where(end[last_of_start] == start, empties[last_of_start] - before, 0)
    return np.asarray(ended - late, np.int64)


def _islands(start: Int64s, end: Int64s, touched: Int64s) -> list[tuple[int, int]]:
    """First and last row (exclusive) of the islands that contain the given rows."""
    reach = np.maximum.accumulate(end)
    opens = np.flatnonzero(np.append(True, start[1:] >= reach[:-1]))
    which = np.unique(np.searchsorted(opens, touched, side="right") - 1)
    ends = np.append(opens[1:], len(start))
    return [(int(opens[i]), int(ends[i])) for i in which]


def _nest_in_order(start: Int64s, end: Int64s) -> tuple[Int32s, int]:
    """Parents by walking the rows; `end` is changed in place where a row must be cut."""
    parent = np.full(len(start), NONE, np.int32)
    stack: list[int] = []
    clamped = 0
    ends = end.tolist()
    for row, own_start in enumerate(start.tolist()):
        while stack and ends[stack[-1]] <= own_start:
            stack.pop()
        if stack:
            parent[row] = stack[-1]
            if ends[row] > ends[stack[-1]]:
                ends[row] = ends[stack[-1]]
                clamped += 1
        stack.append(row)
    end[:] = ends
    return parent, clamped


def self_times(start: Int64s, end: Int64s, parent: Int32s) -> Int64s:
    """Duration of each interval less that of its direct children."""
    own = end - start
    nested = parent >= 0
    result = own.copy()
    np.subtract.at(result, parent[nested], own[nested])
    return result


def innermost(ops: HostOps | Frames, thread: Int32s, instant: Int64s) -> Int32s:
    """For each (thread, instant) the row of the innermost operator that was running there, -1 for none."""
    found = np.full(len(instant), NONE, np.int32)
    for one in np.unique(thread):
        rows = np.flatnonzero(ops.thread == one)
        if not len(rows):
            continue
        asked = np.flatnonzero(thread == one)
        at = np.searchsorted(ops.start_ns[rows], instant[asked], side="right") - 1
        candidate = np.where(at >= 0, rows[np.maximum(at, 0)], NONE).astype(np.int32)
        found[asked] = _climb(ops, candidate, instant[asked])
    return found


def _climb(ops: HostOps | Frames, candidate: Int32s, instant: Int64s) -> Int32s:
    """Replace each candidate that had ended by its parent until one was still running."""
    while True:
        over: Mask = candidate >= 0
        over[over] = ops.end_ns[candidate[over]] <= instant[over]
        if not over.any():
            return candidate
        candidate = candidate.copy()
        candidate[over] = ops.parent[candidate[over]]
