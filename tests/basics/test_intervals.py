"""Interval sets agree with a brute-force set of instants."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from probe.intervals import EMPTY, Intervals, clip, covers, difference, intersection, length_before, union

pairs = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12)


def instants(pieces: list[tuple[int, int]]) -> set[int]:
    return {i for start, end in pieces for i in range(start, end)}


def build(pieces: list[tuple[int, int]]) -> Intervals:
    return union([s for s, _ in pieces], [e for _, e in pieces])


def covered(intervals: Intervals) -> set[int]:
    return instants(list(zip(intervals.starts.tolist(), intervals.ends.tolist(), strict=True)))


def assert_canonical(intervals: Intervals) -> None:
    assert (intervals.ends > intervals.starts).all()
    assert (intervals.starts[1:] > intervals.ends[:-1]).all()


@given(pairs)
def test_union(a: list[tuple[int, int]]) -> None:
    result = build(a)
    assert_canonical(result)
    assert covered(result) == instants(a)
    assert result.length_ns == len(instants(a))


@given(pairs, pairs)
def test_intersection_and_difference(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    both, only = intersection(build(a), build(b)), difference(build(a), build(b))
    assert_canonical(both)
    assert_canonical(only)
    assert covered(both) == instants(a) & instants(b)
    assert covered(only) == instants(a) - instants(b)


@given(pairs, st.integers(0, 40), st.integers(0, 40))
def test_clip(a: list[tuple[int, int]], start: int, end: int) -> None:
    assert covered(clip(build(a), start, end)) == instants(a) & set(range(start, end))


@given(pairs, st.lists(st.integers(-2, 45)))
def test_length_before(a: list[tuple[int, int]], at: list[int]) -> None:
    assert length_before(build(a), at).tolist() == [sum(i < instant for i in instants(a)) for instant in at]


def test_nothing() -> None:
    assert len(union([], [])) == 0
    assert len(difference(EMPTY, EMPTY)) == 0
    assert np.array_equal(intersection(build([(1, 3)]), EMPTY).starts, [])


@given(pairs, st.lists(st.integers(-2, 45)))
def test_covers(a: list[tuple[int, int]], at: list[int]) -> None:
    inside = instants(a)
    assert covers(build(a), at).tolist() == [i in inside for i in at]
