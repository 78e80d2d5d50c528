"""When does an operator itself run: the pieces of its time outside the operators that it calls."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from probe.trace import Int32s, Int64s, Mask


def exclusive(start: Int64s, end: Int64s, parent: npt.NDArray[np.int32], keep: Mask) -> tuple[Int64s, Int64s, Int32s]:
    """The pieces of each kept interval outside its children: (starts, ends, row of each piece).

    Rows are sorted by start with parents before children, as HostOps are. A piece begins at its interval's start or at
    a child's end, and ends at the next child's start or at its interval's end.
    """
    rows = np.flatnonzero(keep).astype(np.int32)
    nested = rows[parent[rows] >= 0]
    owners = np.concatenate([rows, parent[nested]])
    begins, order = _by_owner(owners, np.concatenate([start[rows], end[nested]]))
    stops, _ = _by_owner(owners, np.concatenate([end[rows], start[nested]]))
    return begins, stops, owners[order]


def _by_owner(owners: Int32s, instants: Int64s) -> tuple[Int64s, Int64s]:
    """The instants sorted by owner and time, and their order."""
    order = np.lexsort((instants, owners))
    return instants[order], order
