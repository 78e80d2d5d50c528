"""Sums and questions over the tree of calls agree with walking it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from probe.analyzers.operators.call_tree import depths, under, with_callees

trees = st.integers(0, 12).flatmap(
    lambda n: st.tuples(*(st.integers(-1, row - 1) for row in range(n)))
)  # parents stand before their children


def callers(parent: tuple[int, ...], row: int) -> list[int]:
    above = []
    while (row := parent[row]) >= 0:
        above.append(row)
    return above


@given(trees, st.data())
def test_against_walking(parent: tuple[int, ...], data: st.DataObject) -> None:
    size = len(parent)
    values = np.array(data.draw(st.lists(st.integers(-5, 5), min_size=size, max_size=size)), np.int64)
    marked = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool)
    column = np.array(parent, np.int32)
    assert depths(column).tolist() == [len(callers(parent, row)) for row in range(size)]
    assert under(column, marked).tolist() == [any(marked[a] for a in callers(parent, row)) for row in range(size)]
    sums = [
        int(values[row]) + sum(int(values[r]) for r in range(size) if row in callers(parent, r)) for row in range(size)
    ]
    assert with_callees(column, values).tolist() == sums
