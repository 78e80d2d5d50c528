"""Sums and questions over the tree of calls, for all rows at once. Parents stand before their children."""

from __future__ import annotations

import numpy as np

from probe.trace import Int32s, Int64s, Mask


def depths(parent: Int32s) -> Int64s:
    """How many callers each row has."""
    depth = np.zeros(len(parent), np.int64)
    rows = np.flatnonzero(parent >= 0)
    above = parent[rows]
    while len(rows):
        depth[rows] += 1
        above = parent[above]
        inside = above >= 0
        rows, above = rows[inside], above[inside]
    return depth


def with_callees(parent: Int32s, values: Int64s) -> Int64s:
    """Each row's value and those of all rows that it called, directly or not."""
    total = values.copy()
    depth = depths(parent)
    by_depth = np.argsort(depth, kind="stable")
    edges = np.searchsorted(depth[by_depth], np.arange(1, int(depth.max(initial=0)) + 2))
    for first, last in zip(edges[-2::-1], edges[:0:-1], strict=True):
        rows = by_depth[first:last]
        np.add.at(total, parent[rows], total[rows])
    return total


def under(parent: Int32s, marked: Mask) -> Mask:
    """Which rows have a marked one among their callers."""
    found = np.zeros(len(parent), bool)
    rows = np.flatnonzero(parent >= 0)
    above = parent[rows]
    while len(rows):
        hit = marked[above]
        found[rows[hit]] = True
        rows, above = rows[~hit], parent[above[~hit]]
        inside = above >= 0
        rows, above = rows[inside], above[inside]
    return found
