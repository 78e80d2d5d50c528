"""Which operators belong to findings already made?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from probe.analyzers.operators.call_tree import under
from probe.analyzers.rules.context import Context
from probe.trace import Mask


def free(context: Context, rows: Iterable[int]) -> tuple[int, ...]:
    """Those of the rows that no finding claims."""
    return tuple(row for row in rows if row not in context.claimed)


def claimed(context: Context) -> Mask:
    """Which operators are claimed, [ops]."""
    return context.marked(context.claimed)


def below(context: Context) -> Mask:
    """Which operators are claimed, or called by one that is, [ops]."""
    found = claimed(context)
    return found | under(context.trace.host_ops.parent, found)


def touched(context: Context) -> Mask:
    """Which operators are claimed, or call one that is, [ops]."""
    parent = context.trace.host_ops.parent
    found = claimed(context)
    rows = np.unique(parent[found])
    while len(rows := rows[rows >= 0]):
        rows = rows[~found[rows]]
        found[rows] = True
        rows = np.unique(parent[rows])
    return found
