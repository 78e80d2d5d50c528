"""The graph of a module is found in a run by its spelling, and gives its makers; its file is read or refused."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from pattern_cases import NORM, RMS, X, names, recorded, unit

from probe.analyzers.rules.matching.flow import by_sizes
from probe.analyzers.rules.matching.graph import Covered, covered, flows, pieces, written
from probe.analyzers.rules.matching.search import matches
from probe.analyzers.rules.matching.units import Unit
from probe.errors import RunError, TraceError
from probe.readers.module_graph import GraphArgument, GraphCall, GraphUnit, ModuleCall, ModuleGraph, encode, read
from probe.runs.run import RankPart, decode
from probe.runs.run import encode as encode_part

ROW = (8, 1)


def argument(size: tuple[int, ...], maker: int | None = None, **more: object) -> GraphArgument:
    return GraphArgument(size, "float32", maker, **more)  # type: ignore[arg-type]


def norm(first: int = 0, wrong: bool = False) -> tuple[GraphUnit, ...]:
    """The units of an RMSNorm from number `first` on; wrong: it scales another tensor than it measures."""
    x = argument(X, origin="input", storage=0)
    scaled = argument(X, origin="input", storage=9) if wrong else x
    found = (
        ("pow", (x,)), ("mean", (argument(X, first),)), ("add", (argument(ROW, first + 1),)),
        ("rsqrt", (argument(ROW, first + 2),)), ("mul", (scaled, argument(ROW, first + 3))),
        ("mul", (argument(X, first + 4), argument((64,), origin="parameter", name="weight"))),
    )  # fmt: skip
    return tuple(GraphUnit(name, f"aten.{name}", arguments, 0, 0) for name, arguments in found)


def graph(*calls: tuple[GraphUnit, ...], opaque: tuple[str, ...] = ()) -> ModuleGraph:
    made = (GraphCall(True, (), (ModuleCall("n", "Norm", 0, len(c)),), c, opaque) for c in calls)
    return ModuleGraph(model="Net", torch="2.13", lines=("net.py:7 in forward",), calls=tuple(made))


def stretches(
    run: Sequence[Unit], known: ModuleGraph, closed: Sequence[int] = (), inside: Sequence[int] = ()
) -> list[Covered]:
    return covered(run, pieces(known), lambda u: u.row not in closed, lambda u: u.row in inside)


def test_a_run_that_is_spelled_alike_gets_the_makers_of_the_graph() -> None:
    found = stretches(RMS, graph(norm()))
    [part] = flows(RMS, by_sizes(RMS), found)
    flow = part.flow
    assert (part.first, part.end, flow.tier) == (0, 6, "graph")
    assert names(flow, NORM) == [["pow", "mean", "add", "rsqrt", "mul"]]
    assert [a.origin for a in flow.arguments[-1]] == ["made", "parameter"]
    assert [(row, place.line) for row, place in written(found, RMS, graph(norm()))] == [
        (row, "net.py:7 in forward") for row in range(6)
    ]


def test_the_graph_tells_apart_what_sizes_cannot() -> None:
    [part] = flows(RMS, by_sizes(RMS), stretches(RMS, graph(norm(wrong=True))))
    assert names(by_sizes(RMS), NORM)
    assert not names(part.flow, NORM)


def test_what_lies_around_is_guessed_apart_from_what_is_known() -> None:
    run = [unit(100, "exp", X), *RMS, unit(101, "neg", (3, 3)), unit(102, "exp", X)]
    parts = flows(run, by_sizes(run), stretches(run, graph(norm())))
    assert [(part.first, part.end, part.flow.tier) for part in parts] == [
        (0, 1, "order"),
        (1, 7, "graph"),
        (7, 9, "order"),
    ]
    for part in parts:
        assert len(part.flow.units) == len(part.flow.arguments)
        assert all(0 <= m < len(part.flow.units) for one in part.flow.arguments for a in one for m in a.makers)


def test_what_may_read_a_result_outside_is_known_and_matches_nothing() -> None:
    run = [*RMS, unit(100, "exp", X), unit(101, "neg", (3, 3))]
    known, rest = flows(run, by_sizes(run), stretches(run, graph(norm())))
    assert [u.name for u in known.flow.units][6:] == [""]
    assert known.flow.units[6].row == 100
    assert known.flow.readers(5) == [6]
    assert not [m for u in rest.flow.arguments for a in u for m in a.makers]
    later = [u._replace(row=u.row + 1000) for u in run]
    assert [u.row for u in known.of(later).units] == [*range(1000, 1006), 1100]


def test_recorded_tensors_stay_and_what_both_know_is_proven() -> None:
    run = [*RMS, unit(100, "neg", X)]
    exact = recorded(run, [[1], [2], [3], [4], [1, 5], [6, 7], [8]], [2, 3, 4, 5, 6, 8, 9])
    [part] = flows(run, exact, stretches(run, graph(norm())))
    flow = part.flow
    assert flow.tier == "dataflow"
    assert next(matches(flow, NORM)).tier == "graph"
    assert flow.tier_of([5, 6]) == "dataflow"
    assert flow.arguments[6][0].makers == (5,)


@pytest.mark.parametrize("hidden", ["fill", "copy", "exp"])
def test_only_constants_and_insides_of_operators_may_stand_between(hidden: str) -> None:
    run = [*RMS[:3], unit(100, hidden, (4, 4)), *RMS[3:]]
    assert len(stretches(run, graph(norm()))) == (hidden != "exp")
    assert len(stretches(run, graph(norm()), inside=[100])) == 1


def test_backward_units_and_other_sizes_are_left_alone() -> None:
    assert not stretches(RMS, graph(norm()), closed=[3])
    assert not stretches([*RMS[:-1], unit(5, "mul", X, (1, 64))], graph(norm()))


def test_the_largest_part_is_found_first_and_a_module_alone_too() -> None:
    both = (*norm(), *norm(6))
    call = GraphCall(
        True, (), (ModuleCall("", "Net", 0, 12), ModuleCall("a", "Norm", 0, 6), ModuleCall("b", "Norm", 6, 12)), both
    )
    known = ModuleGraph(calls=(call,), lines=("",))
    twice = [*RMS, *(u._replace(row=u.row + 50) for u in RMS)]
    assert [(s.first, s.end) for s in stretches(twice, known)] == [(0, 12)]
    apart = [*RMS, unit(100, "exp", X), *(u._replace(row=u.row + 50) for u in RMS)]
    assert [(s.first, s.end) for s in stretches(apart, known)] == [(0, 6), (7, 13)]


def test_without_a_stretch_the_flow_is_what_it_was() -> None:
    flow = by_sizes(RMS)
    [part] = flows(RMS, flow, [])
    assert part.flow is flow
    assert [u.row for u in part.of(RMS).units] == [u.row for u in RMS]
    assert flow.tier_of([0]) == "order"


def test_a_graph_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "graph.rank00000.json"
    path.write_bytes(encode(graph(norm(), opaque=("aten::repeat",))))
    assert read(path) == graph(norm(), opaque=("aten::repeat",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "damaged"),
        (b"[1]", "damaged"),
        (b'{"schema": "probe.graph/2"}', "update torch-probe"),
        (b'{"schema": "something"}', "its schema is not"),
        (encode(graph((GraphUnit("mul", "aten.mul", (argument(X, 7),)),))), "a unit names a maker"),
        (encode(graph((GraphUnit("mul", "aten.mul", (), 0, 5),))), "a unit names a maker"),
        (encode(graph(norm()))[:-9], "damaged"),
    ],
)
def test_what_is_no_graph_is_refused_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "graph.rank00000.json"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=said) as error:
        read(path)
    assert "\n" not in str(error.value)


def test_a_part_names_no_file_outside_the_run() -> None:
    assert decode(encode_part(RankPart(graph="graph.rank00000.json")), "run.json").graph == "graph.rank00000.json"
    with pytest.raises(RunError, match="no file of a run"):
        decode(encode_part(RankPart(graph="../graph.rank00000.json")), "run.json")
    old = msgspec.json.decode(encode_part(RankPart()))
    del old["graph"]
    assert decode(msgspec.json.encode(old), "run.json").graph is None
