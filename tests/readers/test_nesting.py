"""Which call encloses which: all rows at once gives what walking them in order gives, also where calls overlap."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from probe.readers.nesting import nest, self_times

calls = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12), st.integers(0, 9)), max_size=14)


def sorted_calls(rows: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ordered = sorted(((t, s, s + d) for t, s, d in rows), key=lambda r: (r[0], r[1], -r[2]))
    thread, start, end = (np.array([r[i] for r in ordered], np.int64) for i in range(3))
    return thread.astype(np.int32), start, end


def walked(thread: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[list[int], list[int]]:
    """Parents, and ends cut at the parent's, one row after another."""
    parents, ends = [], end.tolist()
    open_rows: list[int] = []
    for row in range(len(start)):
        open_rows = [r for r in open_rows if thread[r] == thread[row] and ends[r] > start[row]]
        parents.append(open_rows[-1] if open_rows else -1)
        if open_rows:
            ends[row] = min(ends[row], ends[open_rows[-1]])
        open_rows.append(row)
    return parents, ends


@given(calls)
def test_as_walking_the_rows(rows: list[tuple[int, int, int]]) -> None:
    thread, start, end = sorted_calls(rows)
    parents, ends = walked(thread, start, end)
    cut = sum(a != b for a, b in zip(ends, end.tolist(), strict=True))
    found, clamped = nest(thread, start, end)
    assert found.tolist() == parents
    assert end.tolist() == ends
    assert clamped == cut


@given(calls)
def test_self_times_add_up(rows: list[tuple[int, int, int]]) -> None:
    thread, start, end = sorted_calls(rows)
    parent, _ = nest(thread, start, end)
    own = self_times(start, end, parent)
    assert int(own.sum()) == int((end - start)[parent < 0].sum())
    assert (own >= 0).all()
