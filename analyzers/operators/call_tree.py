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


def levels(parent: Int32s) -> list[Int64s]:
    """The rows by how many callers they have, those without any first."""
    depth = depths(parent)
    return [np.flatnonzero(depth == level) for level in range(int(depth.max(initial=-1)) + 1)]


def with_callees(parent: Int32s, values: Int64s) -> Int64s:
    """Each row's value and those of all rows that it called, directly or not."""
    total = values.copy()
    for rows in levels(parent)[:0:-1]:
        np.add.at(total, parent[rows], total[rows])
    return total


def under(parent: Int32s, marked: Mask) -> Mask:
    """Which rows have a marked one among their callers."""
    called = parent >= 0
    found = called & marked[parent]
    while True:  # each pass goes one level further down from what is marked
        deeper = called & (found | marked)[parent]
        if np.array_equal(deeper, found):
            return found
        found = deeper
