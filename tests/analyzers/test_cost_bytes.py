"""Distinct memory of strided tensors against listing every address; and any record at all gives a sane cost."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

from cost_cases import CASES, LIST_CASES, signature
from hypothesis import example, given
from hypothesis import strategies as st

from probe.analyzers.cost_models import cost
from probe.analyzers.cost_models.call import Hints
from probe.analyzers.cost_models.catalogue import MODELS
from probe.analyzers.cost_models.completion import LEAF
from probe.analyzers.cost_models.dtypes import ELEMENT_TYPES
from probe.analyzers.cost_models.structure import VIEWS, WRAPPERS
from probe.analyzers.cost_models.tensors import broadcast, distinct
from probe.trace import Signature

DIMS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=4)


def addresses(sizes: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Distinct offsets, listed one by one."""
    places = itertools.product(*(range(n) for n in sizes))
    return len({sum(i * s for i, s in zip(place, strides, strict=True)) for place in places})


@given(DIMS)
@example([(3, 2), (3, 3)])
@example([(10, 1), (3, 1)])
def test_distinct_elements_never_exceed_bounds_and_never_fall_short(dims: list[tuple[int, int]]) -> None:
    sizes, strides = tuple(n for n, _ in dims), tuple(s for _, s in dims)
    found = distinct(sizes, strides)
    extent = sum((n - 1) * s for n, s in dims) + 1 if 0 not in sizes else 0
    assert addresses(sizes, strides) <= found <= min(math.prod(sizes), extent)


@given(st.permutations(range(3)), st.tuples(*[st.integers(1, 5)] * 3), st.sets(st.integers(0, 2)), st.integers(1, 3))
def test_views_of_dense_memory_are_counted_exactly(
    order: list[int], sizes: tuple[int, ...], expanded: set[int], step: int
) -> None:
    """Any permutation of a sliced tensor, some dimensions expanded."""
    strides = [0] * 3
    reach = 1
    for i in order:
        strides[i] = 0 if i in expanded else reach * step
        reach *= sizes[i] if i not in expanded else 1
    assert distinct(sizes, tuple(strides)) == addresses(sizes, tuple(strides))


@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 4))
def test_sliding_windows_are_counted_exactly(count: int, width: int, step: int) -> None:
    """unfold(): windows of `width` every `step` elements."""
    assert distinct((count, width), (step, 1)) == addresses((count, width), (step, 1))


@given(st.lists(st.lists(st.sampled_from([1, 1, 3]), max_size=3).map(tuple), min_size=1, max_size=3))
def test_broadcasting_takes_the_larger_of_each_dimension(sizes: list[tuple[int, ...]]) -> None:
    result = broadcast(sizes)
    assert len(result) == max(map(len, sizes))
    assert math.prod(result) >= max(map(math.prod, sizes))


NUMBERS = st.one_of(
    st.integers(-3, 9), st.integers(-(2**70), 2**70), st.sampled_from([0, 1, 10**6, 10**12, 2**62]), st.none(),
    st.floats(), st.text(max_size=2),
)  # fmt: skip
SIZES = st.one_of(st.lists(st.integers(0, 9), max_size=5), st.lists(NUMBERS, max_size=5)).map(tuple)
ANY_DIMS = st.one_of(SIZES, st.lists(SIZES, max_size=3).map(tuple))
DTYPES = st.sampled_from([*ELEMENT_TYPES, "", "Scalar", "ScalarList", "TensorList", "GenericList", "odd", "Odd"])
TEXTS = st.one_of(
    st.sampled_from(["", "True", "False", "None", "[1, 1]", "[]", "1", "-1", "0", "1e400", "nan", "[2", "same", "[-9]",
                     "99999999999999999999", "[0, 0]", "['a']", "{}", "inf", "[None]", "[1.5, 2]"]),
    st.text(max_size=8),
)  # fmt: skip
SIGNATURES = st.builds(
    Signature,
    st.lists(ANY_DIMS, max_size=16).map(tuple),
    st.lists(DTYPES, max_size=16).map(tuple),
    st.lists(ANY_DIMS, max_size=16).map(tuple),
    st.lists(TEXTS, max_size=16).map(tuple),
)
OTHERS = [
    LEAF, "foo::bar", "triton_red_fused_mul_0", "triton_tem_fused_mm", "c10d::allreduce_", "record_param_comms", "",
    "fbgemm::split_embedding_codegen_lookup_sgd_function", "fbgemm::bounds_check_indices",
    "torch::autograd::CppNode<SplitLookupFunction_rowwise_adagrad_Op>", "Memcpy HtoD (Pageable -> Device)",
]  # fmt: skip
NAMES = st.sampled_from([*MODELS, *OTHERS, *sorted(VIEWS)[:5], *sorted(WRAPPERS)[:5]])
HINTS = st.builds(Hints, st.one_of(st.none(), DTYPES), st.one_of(st.none(), SIZES), st.one_of(st.none(), SIGNATURES))


@given(NAMES, SIGNATURES, HINTS)
def test_any_record_gives_a_cost_or_a_reason(name: str, signature: Signature, hints: Hints) -> None:
    check(name, signature, hints)


@given(NAMES, st.data())
def test_any_likely_record_gives_a_cost_or_a_reason(name: str, data: st.DataObject) -> None:
    """Arguments that are mostly tensors of small sizes come further into the models than noise does."""
    count = data.draw(st.integers(1, 12))
    sizes = st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple)
    kinds = st.sampled_from(["float", "float", "float", "long int", "", "Scalar", "ScalarList", "TensorList"])
    dtypes = data.draw(st.lists(kinds, min_size=count, max_size=count))
    dims = [
        data.draw(sizes if dtype in ELEMENT_TYPES else st.lists(sizes, max_size=2).map(tuple))
        if dtype in ELEMENT_TYPES or dtype == "TensorList" else ()
        for dtype in dtypes
    ]  # fmt: skip
    scalars = data.draw(st.lists(TEXTS, min_size=count, max_size=count))
    output = data.draw(st.one_of(st.none(), sizes))
    check(name, Signature(tuple(dims), tuple(dtypes), (), tuple(scalars)), Hints(element="float", output=output))


@given(st.sampled_from(CASES + LIST_CASES), st.data())
def test_a_damaged_record_gives_a_cost_or_a_reason(case: Any, data: st.DataObject) -> None:
    """A good record of each family with one argument replaced and perhaps the last ones lost."""
    whole = signature(*case[1])
    at = data.draw(st.integers(0, len(case[1]) - 1))
    end = data.draw(st.integers(0, len(case[1])))
    columns = {
        "dims": data.draw(ANY_DIMS), "dtypes": data.draw(DTYPES), "strides": data.draw(ANY_DIMS),
        "scalars": data.draw(TEXTS),
    }  # fmt: skip
    for name in data.draw(st.sets(st.sampled_from(sorted(columns)))):
        column = list(getattr(whole, name))
        column[at : at + 1] = [columns[name]]
        whole = replace(whole, **{name: tuple(column)})
    check(case[0], replace(whole, dims=whole.dims[:end] or whole.dims), Hints(element="float"))


def check(name: str, signature: Signature, hints: Hints) -> None:
    found = cost(name, signature, hints)
    for number in (found.flops, found.bytes, found.footprint_bytes):
        assert number is None or (math.isfinite(number) and number >= 0)
    assert (found.reason is not None) == (found.flops is None or found.bytes is None)
