"""Whatever is in the file: the reader keeps what can be kept and counts the rest, or says in one line what is wrong.

A fixed sample; benchmarks/traces/fuzz.py runs as many cases as one wants.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trace_damage
import trace_promises
from builders import GPU, document, event, gpu_step, kernel, launch, op, shapes, step, write
from hypothesis import given, settings
from hypothesis import strategies as st
from places import SAMPLES

import probe
from probe.errors import ProbeError, TraceError
from probe.readers import kineto, kineto_json, kineto_text
from probe.schema import to_jsonable
from probe.trace import Trace

SEED = 7
CASES = 240
USUAL = kineto_text.PIECE
PIECES = (USUAL, 300, 5000)


def whole(path: Path) -> dict[str, Any]:
    return trace_promises.whole(kineto.read(path))


@pytest.fixture(scope="module")
def texts() -> list[trace_damage.Sample]:
    """Short pieces of real traces: the project's own, and those of others where they are at hand."""
    foreign = os.environ.get("PROBE_TEST_TRACES")
    paths = sorted(SAMPLES.rglob("trace.*.json.gz"))
    if foreign:
        paths += [p for p in sorted(Path(foreign).rglob("*.json.gz")) if p.stat().st_size < 200_000]
    return list(trace_damage.samples(paths, SEED, each=1))


@pytest.mark.parametrize("tenth", range(10))
def test_damaged_traces_keep_the_promises(
    texts: list[trace_damage.Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tenth: int
) -> None:
    path = tmp_path / "t.json"
    for number in range(tenth, CASES, 10):
        monkeypatch.setattr(kineto_text, "PIECE", PIECES[number % 3])
        path.write_bytes(trace_damage.case(SEED, number, texts))
        found = trace_promises.read_or_refuse(path)
        if isinstance(found, Trace):
            trace_promises.check(found)


def test_a_part_of_a_damaged_trace_is_that_part_of_the_whole(
    texts: list[trace_damage.Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.json"
    for number in range(100):
        monkeypatch.setattr(kineto_text, "PIECE", PIECES[number % 3])
        path.write_bytes(trace_damage.case(SEED, number, texts))
        found = trace_promises.read_or_refuse(path)
        if isinstance(found, Trace):
            trace_promises.check_narrowed(path, found)


def test_damaged_traces_are_analysed_or_refused(texts: list[trace_damage.Sample], tmp_path: Path) -> None:
    for number in range(40):
        path = tmp_path / f"{number}.json"
        path.write_bytes(trace_damage.case(SEED + 1, number, texts))
        try:
            json.dumps(probe.analyze(path).to_json(), allow_nan=False)
        except ProbeError as error:
            trace_promises.check_error(error, path)


# Near-valid JSON: events in which any field may be of any type.

_halves = st.characters(min_codepoint=0, max_codepoint=0xFFFF)  # lone surrogates among them
_scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(_halves, max_size=4)
    | st.sampled_from(["", "0", "7", "1.5", "NaN", "1e999999", "-1", "aten::mm", "ProfilerStep#3", "[0, 1]", "0.1"])
)  # fmt: skip
_anything = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner), max_leaves=5
)
_sane: dict[str, st.SearchStrategy[Any]] = {
    "ph": st.sampled_from(["X", "X", "X", "M", "i"]),
    "cat": st.sampled_from(["cpu_op", "kernel", "cuda_runtime", "gpu_memcpy", "user_annotation", "Operator"]),
    "name": st.sampled_from(["aten::mm", "k", "ProfilerStep#1", "ProfilerStep#2", "cudaLaunchKernel"]),
    "pid": st.integers(0, 2),
    "tid": st.integers(0, 2),
    "ts": st.integers(0, 60) | st.integers(0, 60_000).map(lambda ns: ns / 1000),
    "dur": st.integers(0, 30),
}
_ARGUMENTS = tuple(kineto_json._ARGS)


@st.composite
def near_events(draw: st.DrawFn) -> Any:
    """An event that is odd in none or a few of its fields."""
    made = {key: draw(values) for key, values in _sane.items()}
    made["args"] = {key: draw(_anything) for key in draw(st.lists(st.sampled_from(_ARGUMENTS), max_size=4))}
    for key in draw(st.lists(st.sampled_from([*_sane, "args"]), max_size=2) if draw(st.booleans()) else st.just([])):
        if draw(st.booleans()):
            made[key] = draw(_anything)
        else:
            made.pop(key, None)
    return made


@settings(max_examples=120)
@given(events=st.lists(near_events() | _anything, max_size=6), head=st.dictionaries(
    st.sampled_from(["deviceProperties", "distributedInfo", "baseTimeNanoseconds", "schemaVersion", "a"]), _anything
))  # fmt: skip
def test_fields_of_any_type_are_survived(tmp_path_factory: Any, events: list[Any], head: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("near") / "t.json"
    path.write_text(json.dumps({**head, "traceEvents": events}))
    found = trace_promises.read_or_refuse(path)
    if isinstance(found, Trace):
        trace_promises.check(found)
        assert found.quality.events == len(events)


# Valid JSON: a reading with json.loads is the oracle, and neither layout nor the size of pieces changes anything.


def naive(text: bytes) -> dict[str, list[tuple[str, int, int]]]:
    """Name, start and end of the rows of each table, in nanoseconds from the first."""
    raw = json.loads(text.decode("utf-8-sig"))
    rows: dict[str, list[tuple[str, int, int]]] = {"op": [], "runtime": [], "kernel": [], "copy": [], "annotation": []}
    for e in raw if isinstance(raw, list) else raw["traceEvents"]:
        kind = kineto_json.kind_of(e.get("cat", ""))
        kind = "annotation" if kind == "op" and e["name"].startswith("ProfilerStep#") else kind
        if e["ph"] == "X" and kind in rows:
            rows[kind].append((e["name"], round(e["ts"] * 1000), round((e["ts"]) * 1000) + round(e["dur"] * 1000)))
    origin = min(start for table in rows.values() for _, start, _ in table)
    return {kind: sorted((n, s - origin, e - origin) for n, s, e in table) for kind, table in rows.items()}


def found_rows(trace: Trace) -> dict[str, list[tuple[str, int, int]]]:
    tables = zip(("op", "runtime", "kernel", "copy", "annotation"), trace_promises.TABLES, strict=False)
    found = {}
    for kind, table in ((kind, getattr(trace, name)) for kind, name in tables):
        named = [trace.names[number] for number in table.name.tolist()]
        found[kind] = sorted(zip(named, table.start_ns.tolist(), table.end_ns.tolist(), strict=True))
    return found


@st.composite
def valid_events(draw: st.DrawFn) -> dict[str, Any]:
    """A whole event, with arguments that profilers do not write but JSON allows: they are in nobody's way."""
    made = {key: draw(values) for key, values in _sane.items() if key != "tid"}
    thread = f"{made['cat']} {made['ts']} {draw(st.integers(0, 9))}"  # of its own mostly: nothing is cut at a parent
    lists = [{"name": "a"}, {"name": "b"}, {"ph": "c"}]
    inner = st.sampled_from([{"name": "x"}, {"ph": "X", "name": "y"}, lists, "],"])
    args = draw(st.dictionaries(st.sampled_from(["a", "b"]), inner | st.lists(inner, max_size=3), max_size=2))
    return {**made, "tid": thread, "args": args}


@settings(max_examples=80)
@given(
    events=st.lists(valid_events(), min_size=1, max_size=12),
    piece=st.sampled_from([40, 100, 300, 1000]),
    layout=st.integers(0, 7),
    shuffle=st.randoms(use_true_random=False),
)
def test_the_tables_are_those_of_a_naive_reading_at_any_size_of_pieces(
    tmp_path_factory: Any, events: list[dict[str, Any]], piece: int, layout: int, shuffle: Random
) -> None:
    events = [dict(shuffle.sample(list(e.items()), len(e))) for e in events]
    events.append({**op("end", 100, 1), "tid": "last"})
    text = list(trace_damage.layouts(document(events) if layout % 2 else events))[layout][1]
    path = tmp_path_factory.mktemp("valid") / "t.json"
    path.write_bytes(text)
    usual = kineto.read(path)
    trace_promises.check(usual)
    assert usual.quality.events == len(events)
    assert usual.quality.dropped == 0
    if not usual.quality.clamped:
        assert found_rows(usual) == naive(text)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kineto_text, "PIECE", piece)
        assert whole(path) == trace_promises.whole(usual)


def test_the_size_of_pieces_changes_nothing_on_real_texts(
    texts: list[trace_damage.Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.json"
    for sample in texts:
        path.write_bytes(sample.text())
        monkeypatch.setattr(kineto_text, "PIECE", USUAL)
        usual = whole(path)
        for piece in (64, 300, 3000):
            monkeypatch.setattr(kineto_text, "PIECE", piece)
            assert whole(path) == usual


def test_layouts_of_the_same_events_are_the_same_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.json"
    read = []
    same = document(gpu_step(), deviceProperties=GPU)
    for piece in (USUAL, 200):
        monkeypatch.setattr(kineto_text, "PIECE", piece)
        for _, text in trace_damage.layouts(same):
            path.write_bytes(text)
            read.append(whole(path))
    assert all(one == read[0] for one in read)
    assert len(read[0]["rows"]["host_ops"]) == 4


# What fuzzing found, each with its input.

MANY = [op(f"op{i}", i * 10, 5, **shapes([2, 3])) for i in range(200)]


def text_of(events: list[Any], **head: Any) -> str:
    return json.dumps(document(events, **head))


def read_text(tmp_path: Path, text: str | bytes) -> Trace:
    path = tmp_path / "found.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    trace = kineto.read(path)
    trace_promises.check(trace)
    return trace


@pytest.mark.parametrize("opening", ['{"name":', '[{"ph":', '{"args":{"name":', '[{"a":1},{"name":'])
def test_deep_nesting_of_what_looks_like_events_takes_no_longer(tmp_path: Path, opening: str) -> None:
    """Each level was tried as an event of its own: minutes for 100 000."""
    tried = 0
    real = json.JSONDecoder.raw_decode

    def counted(self: json.JSONDecoder, s: str, idx: int = 0) -> Any:
        nonlocal tried
        tried += 1
        return real(self, s, idx)

    text = text_of([op("good", 0, 5), op("deep", 10, 5, odd="HERE"), op("more", 20, 5)])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(json.JSONDecoder, "raw_decode", counted)
        trace = read_text(tmp_path, text.replace('"HERE"', opening * 20_000))
    assert {"good", "more"} <= set(trace.names)
    assert tried < 1000


def lengths_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the texts that are decoded from now on."""
    lengths: list[int] = []
    real = kineto_json.decode

    def measured(text: bytes, *, last: bool) -> list[kineto_json.Piece]:
        lengths.append(len(text))
        return real(text, last=last)

    monkeypatch.setattr(kineto_json, "decode", measured)
    return lengths


@pytest.mark.parametrize("odd", ["null", "5", '"x"', "[]", "nul", "]"])
def test_what_is_no_event_at_the_beginning_does_not_make_one_piece_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    """Pieces were cut only where the key of the first event recurred: without one the file was held as a whole."""
    monkeypatch.setattr(kineto_text, "PIECE", 2000)
    decoded = lengths_decoded(monkeypatch)
    trace = read_text(tmp_path, text_of(MANY).replace('"traceEvents": [', f'"traceEvents": [{odd}, '))
    assert len(trace.host_ops) == 200
    assert max(decoded) < 6000


def test_events_that_begin_with_different_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kineto_text, "PIECE", 1000)
    first = {"id": 1, **MANY[0]}
    assert len(read_text(tmp_path, text_of([first, *MANY[1:]])).host_ops) == 200


@pytest.mark.parametrize("piece", [150, 300, 700])
def test_objects_in_a_list_of_arguments_are_no_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    """A piece that ended between two of them lost the event and counted the objects."""
    monkeypatch.setattr(kineto_text, "PIECE", piece)
    odd = op("odd", 3000, 5, inputs=[{"ph": "X", "name": f"tensor{i}"} for i in range(50)])
    trace = read_text(tmp_path, text_of([*MANY[:20], odd, *MANY[20:]]))
    assert len(trace.host_ops) == 201
    assert (trace.quality.events, trace.quality.dropped) == (201, 0)


def test_an_event_longer_than_many_pieces_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kineto_text, "PIECE", 300)
    long = op("long", 3000, 5, **shapes([[2, 3]] * 4000))  # type: ignore[list-item]
    trace = read_text(tmp_path, text_of([*MANY[:20], long, *MANY[20:]]))
    assert (len(trace.host_ops), trace.quality.dropped) == (201, 0)


def test_objects_within_a_damaged_event_are_not_taken_for_events(tmp_path: Path) -> None:
    events = [{**op("named", 0, 1), "args": {"name": "inner"}}, *MANY]
    trace = read_text(tmp_path, text_of(events).replace('"dur": 1,', '"dur": N/A,'))
    assert (trace.quality.events, trace.quality.dropped) == (201, 1)


def test_the_head_behind_a_byte_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    """Offsets were counted in the text with the byte replaced, which is longer."""
    text = text_of([{**MANY[0], "name": "HERE" * 40}, *MANY[1:3]]).encode()[:-1]
    text = text.replace(b"HERE", b"\xff\xfe") + b', "baseTimeNanoseconds": 77}'
    trace = read_text(tmp_path, text.replace(b'"baseTimeNanoseconds": 0, ', b""))
    assert len(trace.host_ops) == 3
    assert trace.start_unix_ns == 77


@pytest.mark.parametrize("key", ["Input type", "Concrete Inputs", "kernel_backend", "Collective name", "dtype"])
def test_half_characters_among_the_arguments_can_be_written(tmp_path: Path, key: str) -> None:
    value: Any = ["\ud800"] if key[0] in "IC" and key != "Collective name" else "\ud800"
    told = {"Collective name": "send", "kernel_backend": "triton", "Process Group Name": "\udfff", key: value}
    trace = read_text(tmp_path, text_of([op("x", 0, 1, **{**shapes([1]), **told})]))
    kept = json.dumps(to_jsonable([*trace.signatures, *trace.collective_calls]), ensure_ascii=False)
    assert kept.encode().decode() == kept


def test_half_characters_in_the_head_can_be_written(tmp_path: Path) -> None:
    trace = read_text(tmp_path, text_of(gpu_step(), deviceProperties=[{**GPU[0], "name": "\ud800 GPU"}]))
    assert trace.device.name == "? GPU"


def test_a_device_number_beyond_32_bits_is_unknown(tmp_path: Path) -> None:
    """It wrapped round to the number of another device."""
    trace = read_text(tmp_path, text_of([kernel("k", 0, 5, 1, device=2**32), op("x", 0, 1)]))
    assert trace.kernels.device.tolist() == [-1]


@pytest.mark.parametrize("number", ["33.333333333333336", "50.000000000000000001"])
def test_long_fractions_are_numbers_the_careful_way_too(tmp_path: Path, number: str) -> None:
    events = [kernel("k", 0, 5, 1, **{"est. achieved occupancy %": "HERE"}), op("x", 0, 1), op("bad", 1, float("nan"))]
    trace = read_text(tmp_path, text_of(events).replace('"HERE"', number))
    assert trace.launch_shapes[0].theoretical_occupancy_fraction == pytest.approx(float(number) / 100)


def test_whole_numbers_written_as_fractions_name_the_same_thread(tmp_path: Path) -> None:
    good, bad = {**op("a", 0, 1), "tid": 5.0, "pid": 3}, op("bad", 1, float("nan"))
    careful = read_text(tmp_path, text_of([good, bad]))
    fast = read_text(tmp_path, text_of([good]))
    assert careful.threads[0] == fast.threads[0]


def test_large_and_small_stamps_in_one_file_are_exact(tmp_path: Path) -> None:
    text = text_of([op("a", 0.5, 1), op("b", 7, 1)]).replace('"ts": 7', '"ts": 1700000000000000.125')
    assert read_text(tmp_path, text).host_ops.start_ns.tolist() == [0, 1_699_999_999_999_999_625]


def test_calls_nested_in_each_other_by_the_thousand(tmp_path: Path) -> None:
    """Levels were taken one after another, each over all rows."""
    n = 3000
    trace = read_text(tmp_path, text_of([op(f"{i}", i, 4 * n - 2 * i) for i in range(n)]))
    assert trace.host_ops.parent.tolist() == list(range(-1, n - 1))


def test_a_file_that_is_no_trace_is_not_decoded_to_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python objects it takes ten times its size."""
    monkeypatch.setattr(json, "loads", lambda *_: pytest.fail("decoded"))
    for content, message in (('{"a": [[], []]}', "no traceEvents"), ('{"a": N/A}', "not JSON at byte 6"), ("{", "cut")):
        path = write(tmp_path, [], "other.json")
        path.write_text(content)
        with pytest.raises(TraceError, match=message):
            kineto.read(path)


def test_text_that_follows_the_events_is_not_held_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kineto_text, "LONGEST_EVENT", 10_000)
    monkeypatch.setattr(kineto_text, "PIECE", 1000)
    decoded = lengths_decoded(monkeypatch)
    trace = read_text(tmp_path, text_of(MANY)[:-1] + ', "other": "' + "x" * 500_000 + '"}')
    assert (len(trace.host_ops), trace.quality.dropped, trace.quality.truncated) == (200, 0, False)
    assert max(decoded) < 30_000


def test_steps_and_launches_survive_pieces_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [step(1, 0, 50), op("a", 1, 5), launch(1, 2), kernel("k", 3, 4, 1), event("cuda_runtime", "c", 20, 1)]
    path = write(tmp_path, events, deviceProperties=GPU)
    usual = whole(path)
    for piece in range(30, 400, 7):
        monkeypatch.setattr(kineto_text, "PIECE", piece)
        assert whole(path) == usual


# A part of the trace, of which only the pieces that matter are decoded.

EARLIER = [op("outer", 0, 1000), op("inner", 10, 20)]
FILLING = [op(f"later{i}", 1100 + i * 10, 5) for i in range(50)]
FAR = [launch(100 + i, 5000 + i * 10) for i in range(20)]


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([*EARLIER[1:], *FILLING, step(1, 500, 100), EARLIER[0]], id="callee before the part"),
        pytest.param([step(1, 0, 9), launch(1, 1), *FILLING, kernel("k", 9000, 5, 1), *FAR], id="kernel far off"),
        pytest.param([{**MANY[0], "dur": -5, "ts": -70}, *FILLING, step(1, 1500, 30)], id="first event not kept"),
        pytest.param([{**MANY[0], "ph": "i", "ts": -70}, *FILLING, step(1, 1500, 30)], id="first event not whole"),
        pytest.param([step(1, 0, 9), op("bad", 1, float("nan")), *FILLING], id="step in a damaged piece"),
    ],
)
def test_a_part_is_that_part_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[Any]) -> None:
    monkeypatch.setattr(kineto_text, "PIECE", 700)
    path = write(tmp_path, events, deviceProperties=GPU)
    trace_promises.check_narrowed(path, kineto.read(path))
