"""Patterns hold where the operators read one another as written, whether that is known exactly or only by sizes."""

from collections.abc import Sequence

import numpy as np

from probe.analyzers.rules.flow import Argument, Flow, by_sizes, by_tensors, result_size
from probe.analyzers.rules.patterns import matches, op, through, value
from probe.analyzers.rules.units import Unit
from probe.tensors import Tensors, TensorUses
from probe.trace import Signature

X, ROW = (8, 64), (8, 1)


def unit(row: int, name: str, *dims: tuple[int, ...]) -> Unit:
    numbers = [int(np.prod(d)) for d in dims]
    largest = dims[int(np.argmax(numbers))] if dims else ()
    return Unit(row, name, row, row + 1, Signature(dims, ("float",) * len(dims)), largest, max(numbers, default=0))


def units(*calls: tuple[str, tuple[tuple[int, ...], ...]]) -> list[Unit]:
    return [unit(row, name, *dims) for row, (name, dims) in enumerate(calls)]


def recorded(run: Sequence[Unit], reads: Sequence[Sequence[int]], writes: Sequence[int]) -> Flow:
    """The flow of units that read and write the given storages, one result each."""
    rows = []
    for index, (read, written) in enumerate(zip(reads, writes, strict=True)):
        rows += [(run[index].row, at, False, storage) for at, storage in enumerate(read)]
        rows.append((run[index].row, 0, True, written))
    ops, at, is_output, storage = (np.array(column) for column in zip(*rows, strict=True))
    zeros = np.zeros(len(ops), np.int64)
    uses = TensorUses(
        ops.astype(np.int32), at.astype(np.int32), zeros.astype(np.int32), is_output, storage, storage, zeros, zeros,
        zeros.astype(np.int32), zeros.astype(np.int32),
    )  # fmt: skip
    return by_tensors(run, Tensors(uses, ("cpu",), len(run), 0, 0))


RMS = units(
    ("pow", (X,)), ("mean", (X,)), ("add", (ROW,)), ("rsqrt", (ROW,)), ("mul", (X, ROW)), ("mul", (X, (64,)))
)  # fmt: skip
NORM = op("mul", value("x"), op("rsqrt", op("add", op("mean", op("pow", value("x"))))))


def names(flow: Flow, pattern: object) -> list[list[str]]:
    return [[u.name for u in match.units] for match in matches(flow, pattern)]  # type: ignore[arg-type]


def test_an_expression_is_found_by_sizes_and_by_tensors() -> None:
    exact = recorded(RMS, [[1], [2], [3], [4], [1, 5], [6, 7]], [2, 3, 4, 5, 6, 8])
    expected = [["pow", "mean", "add", "rsqrt", "mul"]]
    assert names(by_sizes(RMS), NORM) == expected
    assert names(exact, NORM) == expected
    assert next(matches(exact, NORM)).tier == "dataflow"


def test_tensors_tell_apart_what_sizes_cannot() -> None:
    """The scale is applied to another tensor of the same sizes: no norm."""
    other = recorded(RMS, [[1], [2], [3], [4], [9, 5], [6, 7]], [2, 3, 4, 5, 6, 8])
    assert names(by_sizes(RMS), NORM) != []
    assert names(other, NORM) == []


def test_what_is_read_twice_is_matched_once() -> None:
    run = units(("exp", (X,)), ("sum", (X,)), ("div", (X, ROW)))
    softmax = op("div", op("exp", name="e"), op("sum", op("exp", name="e")))
    assert names(recorded(run, [[1], [2], [2, 3]], [2, 3, 4]), softmax) == [["exp", "sum", "div"]]
    assert names(recorded(run, [[1], [9], [2, 3]], [2, 3, 4]), softmax) == []


def test_casts_are_looked_through_and_other_operators_only_where_allowed() -> None:
    run = units(("mm", (X, (64, 64))), ("to_copy", (X,)), ("tanh", (X,)), ("mul", (X,)), ("_softmax", (X,)))
    flow = recorded(run, [[1, 2], [3], [4], [5], [6]], [3, 4, 5, 6, 7])
    assert names(flow, op("_softmax", op("mm"))) == []
    assert names(flow, op("_softmax", through("mul", op("mm")))) == []
    assert names(flow, op("_softmax", through("mul tanh", op("mm")))) == [["mm", "to_copy", "tanh", "mul", "_softmax"]]


def test_arguments_in_any_order_only_where_the_operator_allows() -> None:
    run = units(("silu", (X,)), ("neg", (X,)), ("mul", (X, X)), ("sub", (X, X)))
    flow = recorded(run, [[1], [2], [4, 3], [4, 3]], [3, 4, 5, 6])
    assert names(flow, op("mul", op("silu"), op("neg"))) == [["silu", "neg", "mul"]]
    assert names(flow, op("sub", op("silu"), op("neg"))) == []


def test_a_unit_belongs_to_one_match_and_to_none_that_is_taken() -> None:
    run = units(("exp", (X,)), ("tanh", (X,)), ("tanh", (X,)))
    flow = recorded(run, [[1], [2], [2]], [2, 3, 4])
    pattern = op("tanh", op("exp"))
    assert names(flow, pattern) == [["exp", "tanh"]]
    assert list(matches(flow, pattern, taken={0})) == []
    assert [[u.row for u in m.units] for m in matches(flow, pattern, taken={2})] == [[0, 1]]


def test_either_of_two_patterns() -> None:
    run = units(("sqrt", (ROW,)), ("div", (X, ROW)))
    scaled = op("mul", value(), op("rsqrt")) | op("div", value(), op("sqrt"))
    assert names(by_sizes(run), scaled) == [["sqrt", "div"]]


def test_sizes_of_results() -> None:
    assert result_size(unit(0, "mm", (3, 4), (4, 5))) == (3, 5)
    assert result_size(unit(0, "addmm", (5,), (3, 4), (4, 5))) == (3, 5)
    assert result_size(unit(0, "baddbmm", (2, 3, 5), (2, 3, 4), (2, 4, 5))) == (2, 3, 5)
    assert result_size(unit(0, "mul", (3, 1), (4,))) == (3, 4)
    assert result_size(unit(0, "mul", (0, 1), (4,))) == (0, 4)
    assert result_size(unit(0, "embedding", (100, 16), (2, 7))) == (2, 7, 16)
    assert result_size(unit(0, "mean", (3, 4))) is None


def test_the_result_of_an_unknown_size_may_be_what_comes_next() -> None:
    flow = by_sizes(units(("mean", (X,)), ("add", (ROW,))))
    assert flow.arguments[1] == (Argument((0,), ROW, ("size", ROW)),)
    assert flow.readers(0) == [1]
