"""Patterns hold where the operators read one another as written, whether that is known exactly or only by sizes."""

import numpy as np
from pattern_cases import NORM, RMS, ROW, X, names, recorded, unit, units

from probe.analyzers.rules.matching.flow import Argument, by_sizes, result_size
from probe.analyzers.rules.matching.patterns import op, through, value
from probe.analyzers.rules.matching.search import matches
from probe.trace import Signature


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


def test_copies_in_a_row_are_looked_through_as_far_as_the_tier_can() -> None:
    """By sizes every copy has several makers: a long row of them would be searched for ever."""
    run = units(("mm", (X, (64, 64))), *((("to_copy", (X,)),) * 3), ("_softmax", (X,)))
    exact = recorded(run, [[1, 2], [3], [4], [5], [6]], [3, 4, 5, 6, 7])
    assert names(exact, op("_softmax", op("mm"))) == [["mm", "to_copy", "to_copy", "to_copy", "_softmax"]]
    long = units(("exp", (X,)), *((("to_copy", (X,)),) * 60), ("_softmax", (X,)))
    assert names(by_sizes(long), op("_softmax", op("mm"))) == []


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
    assert list(matches(flow, pattern, taken=np.array([True, False, False]))) == []
    assert [[u.row for u in m.units] for m in matches(flow, pattern, taken=np.array([False, False, True]))] == [[0, 1]]


def test_nothing_is_searched_where_an_operator_is_missing() -> None:
    flow = by_sizes(RMS)
    assert names(flow, op("mul", op("erf", value("x"))) | through("mul", op("tanh"))) == []
    assert names(flow, NORM | op("mul", op("erf"))) == names(flow, NORM) != []


def test_a_search_that_goes_on_for_ever_is_given_up() -> None:
    run = units(*((("mul", (X, X)),) * 60), ("tanh", (X,)), ("mul", (X, X)))
    deep = op("mul", value("a"))
    for _ in range(8):
        deep = op("mul", deep, deep)
    assert names(by_sizes(run), op("mul", op("mul", deep, deep), op("exp") | op("tanh"))) == []


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


def test_sizes_of_reductions_and_joins_where_their_dimensions_were_recorded() -> None:
    def of(name: str, dims: tuple[object, ...], *scalars: str) -> object:
        made = unit(0, name, (3, 4))
        dtypes = tuple("float" if size or at == 0 else "Scalar" for at, size in enumerate(dims))
        return result_size(made._replace(signature=Signature(dims, dtypes, (), scalars)))  # type: ignore[arg-type]

    assert of("mean", ((3, 4), (), (), ()), "", "[-1]", "True", "") == (3, 1)
    assert of("sum", ((3, 4), (), (), ()), "", "[0, 1]", "False", "") == ()
    assert of("var", ((3, 4), (), (), ()), "", "[1]", "True", "False") == (3,)
    assert of("mean", ((3, 4), (), (), ()), "", "[]", "False", "") is None
    assert of("cat", (((3, 4), (3, 2)), ()), "", "-1") == (3, 6)
    assert of("stack", (((3, 4), (3, 4)), ()), "", "-1") == (3, 4, 2)
    assert of("cat", (((3, 4), (3, 2)), ())) is None
    conv = ("", "", "", "[2, 1]", "[1, 0]", "[1, 2]", "False", "[0, 0]", "1")
    assert of("convolution", ((2, 3, 9, 9), (5, 3, 3, 3)), *conv) == (2, 5, 5, 5)
    assert of("convolution", ((2, 3, 9, 9), (5, 3, 3, 3)), *conv[:6], "True", "[0, 0]", "1") is None


def test_the_result_of_an_unknown_size_may_be_what_comes_next() -> None:
    flow = by_sizes(units(("mean", (X,)), ("add", (ROW,))))
    assert flow.arguments[1] == (Argument((0,), ROW, ("size", ROW)),)
    assert flow.readers(0) == [1]
