"""The reader: tree, joins, dialects, and files that are not what they should be."""

import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import GPU, copy, document, event, gpu_step, kernel, launch, op, shapes, step, write
from hypothesis import given, settings
from hypothesis import strategies as st
from real_traces import trace_in

from probe.errors import TraceError
from probe.readers.kineto import read
from probe.trace import Trace


def names(trace: Trace, column: Any) -> list[str]:
    return [trace.names[i] for i in column]


def test_operators_nest_and_self_time_excludes_children(tmp_path: Path) -> None:
    trace = read(write(tmp_path, [op("outer", 0, 10), op("inner", 2, 3), op("innermost", 3, 1), op("next", 12, 5)]))
    trace.check()
    ops = trace.host_ops
    assert names(trace, ops.name) == ["outer", "inner", "innermost", "next"]
    assert ops.parent.tolist() == [-1, 0, 1, -1]
    assert ops.self_ns.tolist() == [7000, 2000, 1000, 5000]


def test_threads_do_not_nest_in_each_other(tmp_path: Path) -> None:
    trace = read(write(tmp_path, [op("a", 0, 10, tid=1), op("b", 2, 3, tid="worker")]))
    assert trace.host_ops.parent.tolist() == [-1, -1]
    assert {t.id for t in trace.threads} == {"1", "worker"}


def test_an_operator_that_ends_after_its_parent_is_cut_and_counted(tmp_path: Path) -> None:
    trace = read(write(tmp_path, [op("outer", 0, 10), op("late", 8, 5)]))
    trace.check()
    assert trace.quality.clamped == 1
    assert trace.host_ops.end_ns.tolist() == [10_000, 10_000]


def test_device_work_is_joined_to_the_operator_that_launched_it(tmp_path: Path) -> None:
    trace = read(write(tmp_path, gpu_step(), "trace.json.gz", deviceProperties=GPU))
    trace.check()
    launched_by = names(trace, trace.host_ops.name[trace.kernels.op])
    assert dict(zip(names(trace, trace.kernels.name), launched_by, strict=True)) == {
        "sgemm": "aten::addmm",
        "void at::native::add<float>(int)": "aten::add",
    }
    assert names(trace, trace.host_ops.name[trace.copies.op]) == ["aten::copy_"]
    assert trace.copies.bytes.tolist() == [256]
    assert trace.device.kind == "cuda"
    assert trace.device.compute_capability == "9.0"
    assert trace.launch_shapes[trace.kernels.launch_shape[0]].grid == (8, 1, 1)


def test_a_kernel_without_its_launch_is_found_by_external_id(tmp_path: Path) -> None:
    events = [op("aten::mm", 0, 5, **{"External id": 77}), kernel("k", 10, 5, 500, **{"External id": 77})]
    trace = read(write(tmp_path, events, deviceProperties=GPU))
    assert trace.kernels.op.tolist() == [0]
    assert trace.quality.unlaunched == 1


def test_an_external_id_that_repeats_the_correlation_names_no_operator(tmp_path: Path) -> None:
    """So do traces of 2022: their kernels would all be given to whatever operator has that number."""
    events = [op("aten::mm", 0, 5, **{"External id": 77}), kernel("k", 10, 5, 77, **{"External id": 77})]
    trace = read(write(tmp_path, events, deviceProperties=GPU))
    assert trace.kernels.op.tolist() == [-1]


def test_kernels_of_a_graph_launch_share_its_operator(tmp_path: Path) -> None:
    events = [op("replay", 0, 10), launch(5, 1, name="cudaGraphLaunch"), kernel("a", 2, 1, 5), kernel("b", 3, 1, 5)]
    trace = read(write(tmp_path, events, deviceProperties=GPU))
    assert trace.kernels.op.tolist() == [0, 0]
    assert trace.kernels.launch.tolist() == [0, 0]


def test_steps_are_read_once_each_and_in_order(tmp_path: Path) -> None:
    projected = event("gpu_user_annotation", "ProfilerStep#4", 12, 7)
    trace = read(write(tmp_path, [step(5, 20, 10), step(4, 10, 10), projected, op("x", 11, 1)]))
    assert trace.steps.number.tolist() == [4, 5]
    assert trace.steps.duration_ns.tolist() == [10_000, 10_000]


def test_the_oldest_dialect(tmp_path: Path) -> None:
    """In 2021 categories were capitalised, steps were operators and sizes stood under another key."""
    events = [
        event("Operator", "ProfilerStep#0", 0, 50, **{"External id": 1}),
        event(
            "Operator", "aten::mul", 5, 10, **{"External id": 2, "Input dims": [[2, 3], []], "Input type": ["float"]}
        ),
        event("Runtime", "cudaLaunchKernel", 6, 1, correlation=9),
        event("Kernel", "mul", 10, 5, 7, device=0, stream=7, correlation=9),
    ]
    trace = read(write(tmp_path, events))
    assert trace.steps.number.tolist() == [0]
    assert names(trace, trace.host_ops.name) == ["aten::mul"]
    assert trace.signatures[0].dims == ((2, 3), ())
    assert trace.kernels.op.tolist() == [0]
    assert trace.device.kind == "cuda"


def test_hip_calls_make_it_rocm(tmp_path: Path) -> None:
    events = [op("x", 0, 5), event("hip_runtime", "hipLaunchKernel", 1, 1, correlation=1), kernel("k", 3, 1, 1)]
    assert read(write(tmp_path, events)).device.kind == "rocm"


def test_absolute_times_keep_their_nanoseconds(tmp_path: Path) -> None:
    """A float64 of microseconds since 1970 resolves 0.25 µs; the reader must not go through one."""
    text = json.dumps(document([op("a", 0, 1), op("b", 0, 1)]))
    first, second = "1700000000000000.125", "1700000000000002.876"
    head, middle, tail = text.split('"ts": 0')
    path = tmp_path / "trace.json"
    path.write_text(f'{head}"ts": {first}{middle}"ts": {second}{tail}')
    trace = read(path)
    assert trace.host_ops.start_ns.tolist() == [0, 2751]
    assert trace.start_unix_ns == 1_700_000_000_000_000_125


def test_collectives_carry_what_the_backend_said(tmp_path: Path) -> None:
    told = {"Collective name": "allreduce", "dtype": "Float", "In msg nelems": 1024, "Group size": 8}
    events = [
        op("record_param_comms", 0, 10, **told),
        launch(1, 2),
        kernel("ncclKernel", 5, 20, 1, **told),
        op("record_param_comms", 40, 5, **{**told, "Collective name": "broadcast"}),
    ]
    trace = read(write(tmp_path, events, deviceProperties=GPU))
    found = trace.collectives
    calls = [trace.collective_calls[c] for c in found.call]
    assert [(c.kind, c.in_elements, c.group_size) for c in calls] == [("allreduce", 1024, 8), ("broadcast", 1024, 8)]
    assert (found.op.tolist(), found.kernel.tolist()) == ([0, 1], [0, -1])


def test_rank_from_the_file_or_its_name(tmp_path: Path) -> None:
    events = [op("x", 0, 1)]
    told = read(write(tmp_path, events, "rank-3.json", distributedInfo={"rank": 5, "world_size": 8}))
    assert (told.rank, told.world_size) == (5, 8)
    assert read(write(tmp_path, events, "job_rank-003.json")).rank == 3
    assert read(write(tmp_path, events, "plain.json")).rank is None


def test_unknown_metadata_is_never_kept(tmp_path: Path) -> None:
    trace = read(write(tmp_path, [op("x", 0, 1)], env={"HF_TOKEN": "secret"}, secret_key="secret"))
    assert "secret" not in repr(vars(trace))


def test_a_list_of_events_is_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps([op("x", 0, 1), op("y", 2, 1)]))
    assert len(read(path).host_ops) == 2


def test_nan_and_infinity_cost_one_event(tmp_path: Path) -> None:
    good, bad = op("good", 0, 5), op("bad", 1, float("nan"))
    odd = kernel("k", 2, 1, 1, **{"est. achieved occupancy %": float("inf")})
    trace = read(write(tmp_path, [good, bad, odd], deviceProperties=GPU))
    assert names(trace, trace.host_ops.name) == ["good"]
    assert len(trace.kernels) == 1
    assert trace.quality.dropped == 1
    assert any("could not be read" in w for w in trace.warnings)


@pytest.mark.parametrize("cut", [0.4, 0.7, 0.99])
def test_what_stands_before_a_cut_is_kept(tmp_path: Path, cut: float) -> None:
    text = json.dumps(document([op(f"op{i}", i * 10, 5) for i in range(100)], baseTimeNanoseconds=3)).encode()
    path = tmp_path / "cut.json"
    path.write_bytes(text[: int(len(text) * cut)])
    trace = read(path)
    trace.check()
    assert abs(len(trace.host_ops) - cut * 100) <= 2
    assert trace.quality.truncated
    assert any("cut" in w for w in trace.warnings)
    assert trace.start_unix_ns == 3


def test_a_cut_gzip_stream_is_kept_up_to_the_cut(tmp_path: Path) -> None:
    whole = write(tmp_path, [op(f"op{i}", i * 10, 5 + i % 7) for i in range(5000)], "whole.json.gz")
    path = tmp_path / "cut.json.gz"
    path.write_bytes(whole.read_bytes()[:-4000])
    trace = read(path)
    assert 0 < len(trace.host_ops) < 5000
    assert trace.quality.truncated


def test_several_gzip_members_are_one_file(tmp_path: Path) -> None:
    text = json.dumps(document([op("x", 0, 1)])).encode()
    path = tmp_path / "two.json.gz"
    path.write_bytes(gzip.compress(text[:50]) + gzip.compress(text[50:]))
    assert len(read(path).host_ops) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"   \n", "empty"),
        (b"\x1f\x8b\x08\x00garbage", "gzip"),
        (b"hello", "not JSON"),
        (b'{"traceEvents": [', "before the first whole event"),
        (b'{"traceEvents": []}', "no events"),
        (b'{"loss": [1, 2]}', "no traceEvents"),
        (b"[1, 2, 3]", "before the first whole event|no events"),
        (b'{"traceEvents": 5}', "no traceEvents"),
        (b"[" * 100_000, "cut or damaged|nested too deeply"),
        (b"\xff\xfe\x00", "not JSON"),
    ],
)
def test_what_is_no_trace_is_said_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such file"):
        read(tmp_path / "absent.json")


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30), st.integers(1, 2)), min_size=1, max_size=25))
def test_any_set_of_intervals_becomes_a_consistent_forest(
    tmp_path_factory: Any, spans: list[tuple[int, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("forest")
    trace = read(write(folder, [op(f"o{i}", s, d, tid=t) for i, (s, d, t) in enumerate(spans)]))
    trace.check()
    ops = trace.host_ops
    for row in range(len(ops)):
        enclosing = [
            other
            for other in range(len(ops))
            if other < row
            and ops.thread[other] == ops.thread[row]
            and ops.start_ns[other] <= ops.start_ns[row] < ops.end_ns[other]
        ]
        if ops.parent[row] >= 0:
            assert ops.parent[row] in enclosing
        else:
            assert not enclosing


@settings(max_examples=80)
@given(data=st.data())
def test_damage_anywhere_is_survived(tmp_path_factory: Any, data: st.DataObject) -> None:
    """Flipped, cut or repeated bytes give a trace with warnings or one clear line, never another error."""
    text = bytearray(json.dumps(document(gpu_step(), deviceProperties=GPU)).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "repeat"])):
            case "flip":
                text[at] = data.draw(st.integers(0, 255))
            case "cut":
                del text[at : at + data.draw(st.integers(1, 40))]
            case "repeat":
                text[at:at] = text[at : at + 30]
    path = tmp_path_factory.mktemp("damage") / "t.json"
    path.write_bytes(bytes(text))
    try:
        read(path).check()
    except TraceError as error:
        assert "\n" not in str(error)


def test_every_real_trace_is_read_whole(foreign_traces: Path) -> None:
    paths = sorted(foreign_traces.rglob("*.json.gz"))
    assert paths
    for path in paths:
        trace = trace_in(path)
        trace.check()
        assert trace.quality.dropped == 0, path
        assert len(trace.host_ops), path
        assert not np.any(trace.host_ops.start_ns < 0), path


def test_shapes_are_stored_once(tmp_path: Path) -> None:
    trace = read(write(tmp_path, [op("a", i * 10, 5, **shapes([2, 3])) for i in range(50)] + [copy("c", 1, 1, 1, 4)]))
    assert len(trace.signatures) == 1
    assert trace.with_shapes


@pytest.mark.parametrize(
    "args",
    [
        {"Input type": [1]},
        {"Input type": True},
        {"Input type": [["x"]]},
        {"Input type": [{"a": 1}]},
        {"Input Dims": 1.5},
        {"Input Dims": [None]},
        {"Input Dims": [[2.0, 3]]},
        {"Input Dims": [[True]]},
        {"Input Dims": [[10**19]]},
        {"Input Dims": [{"a": 1}]},
        {"Input Dims": [[{"a": 1}]]},
        {"Input Strides": [["1"]]},
        {"Input Dims": [json.loads("[" * 200 + "]" * 200)]},
    ],
)
def test_arguments_that_no_profiler_writes_count_as_not_recorded(tmp_path: Path, args: dict[str, Any]) -> None:
    events = [op("odd", 0, 5, **{**shapes([2, 3]), **args}), op("odd", 10, 5, **{**shapes([2, 3]), **args})]
    trace = read(write(tmp_path, [*events, op("good", 20, 5, **shapes([2, 10**12]))]))
    assert trace.host_ops.signature.tolist() == [-1, -1, 0]
    assert trace.signatures[0].dims == ((2, 10**12),)
    assert "2 operators have arguments that cannot be read; they count as not recorded" in trace.warnings


def test_lists_of_tensors_are_read_and_scalars_are_text(tmp_path: Path) -> None:
    args = {**shapes([[2, 3], [4]], []), "Input Strides": [[[3, 1], [1]], []], "Concrete Inputs": ["", 1, None, "2"]}  # type: ignore[list-item]
    trace = read(write(tmp_path, [op("aten::cat", 0, 5, **args)]))
    assert trace.signatures[0].dims == (((2, 3), (4,)), ())
    assert trace.signatures[0].strides == (((3, 1), (1,)), ())
    assert trace.signatures[0].scalars == ("", "", "", "2")
    assert trace.warnings == ()


@pytest.mark.parametrize("odd", [[0], {"a": 1}, None])
def test_a_device_with_an_odd_number_is_passed_over(tmp_path: Path, odd: Any) -> None:
    devices = [{**GPU[0], "id": odd, "name": "odd", "computeMinor": []}, GPU[0]]
    assert read(write(tmp_path, gpu_step(), deviceProperties=devices)).device.name == "NVIDIA Test GPU"
    alone = read(write(tmp_path, gpu_step(), deviceProperties=devices[:1])).device
    assert (alone.name, alone.compute_capability) == ("odd", None)


@pytest.mark.parametrize(
    ("start", "duration"),
    [(4e15, 4e15), (0, 4e15), (1e16, 1), (-1e16, 1), (4.6e15, 1e14), (0, "1e999999999"), (0, "NaN")],
)
def test_times_beyond_64_bits_cost_one_event(tmp_path: Path, start: Any, duration: Any) -> None:
    trace = read(write(tmp_path, [op("good", 0, 5), op("bad", start, duration)]))
    trace.check()
    assert names(trace, trace.host_ops.name) == ["good"]
    assert trace.quality.dropped == 1


def test_the_widest_spread_of_times_fits(tmp_path: Path) -> None:
    trace = read(write(tmp_path, [op("first", -4e15, 1), op("last", 4e15, 1e14)]))
    trace.check()
    assert trace.host_ops.end_ns.tolist() == [1000, 8_100_000_000_000_000_000]


@pytest.mark.parametrize("depth", [900, 100_000])
@pytest.mark.parametrize("key", ["Input Dims", "Collective name", "other"])
def test_deep_nesting_costs_one_event(tmp_path: Path, depth: int, key: str) -> None:
    text = json.dumps(document([op("good", 0, 5), op("deep", 10, 5, **{key: "HERE"}), op("more", 20, 5)]))
    path = tmp_path / "deep.json"
    path.write_text(text.replace('"HERE"', "[" * depth + "]" * depth))
    trace = read(path)
    assert {"good", "more"} <= set(names(trace, trace.host_ops.name))


def test_the_careful_way_keeps_arguments_as_the_fast_one(tmp_path: Path) -> None:
    events = [{**e, "args": {**e.get("args", {}), "Sequence number": 5}} for e in gpu_step()]
    fast = read(write(tmp_path, events, "fast.json", deviceProperties=GPU))
    careful = read(write(tmp_path, [*events, op("bad", 1, float("nan"))], "careful.json", deviceProperties=GPU))
    assert careful.quality.dropped == 1
    assert fast.signatures == careful.signatures
    assert fast.launch_shapes == careful.launch_shapes
    for name, column in fast.host_ops.columns():
        np.testing.assert_array_equal(column, getattr(careful.host_ops, name))


def test_the_fields_of_arguments_are_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once an event, it took 250 µs: most of the time of reading a damaged file."""
    asked: list[Any] = []
    real = msgspec.structs.fields
    monkeypatch.setattr(msgspec.structs, "fields", lambda what: (asked.append(what), real(what))[1])
    read(write(tmp_path, [op(f"op{i}", i, 1) for i in range(20)] + [op("bad", 1, float("nan"))]))
    assert len(asked) < 5


def test_work_is_called_unlaunched_only_where_launches_were_recorded(tmp_path: Path) -> None:
    said = "launched before the recording began"
    alone = [op("x", 0, 5), kernel("k", 10, 5, 1)]
    assert not any(said in w for w in read(write(tmp_path, alone, deviceProperties=GPU)).warnings)
    with_calls = read(write(tmp_path, [*alone, launch(2, 1)], deviceProperties=GPU))
    assert any(said in w for w in with_calls.warnings)


def test_copies_over_the_bus_are_known_by_their_names(tmp_path: Path) -> None:
    crossing = ["Memcpy HtoD (Pinned -> Device)", "Memcpy DtoH", "CopyHostToDevice", "COPYDEVICETOHOST"]
    inside = ["Memcpy DtoD (Device -> Device)", "CopyDeviceToDevice", "Memset (Device)"]
    events = [copy(name, i * 10, 5, i, 4) for i, name in enumerate([*crossing, *inside])]
    trace = read(write(tmp_path, [*events, kernel("memcpy_HtoD", 5, 1, 99)], deviceProperties=GPU))
    assert trace.copies.crosses_bus.tolist() == [True] * 4 + [False] * 3
    assert trace.kernels.crosses_bus.tolist() == [False]


def test_a_step_inside_an_earlier_one_is_left_out_and_counted(tmp_path: Path) -> None:
    outer, touching = step(1, 0, 100), step(2, 99.5, 50)
    nested, overlapping = step(7, 20, 10), step(8, 140, 100)
    again = step(1, 300, 10)
    trace = read(write(tmp_path, [again, nested, overlapping, touching, outer, op("x", 1, 1)]))
    assert trace.steps.number.tolist() == [1, 2]
    assert any("2 steps begin inside an earlier step" in w for w in trace.warnings)


def test_the_thread_that_marks_the_steps_is_named(tmp_path: Path) -> None:
    marks = [{**step(1, 0, 10), "tid": "loop"}, {**step(2, 10, 10), "tid": "loop"}]
    trace = read(write(tmp_path, [op("x", 0, 1, tid="other"), *marks]))
    assert trace.threads[trace.step_thread].id == "loop"
    assert read(write(tmp_path, [op("x", 0, 1)])).step_thread == -1


def test_a_trace_is_a_result(tmp_path: Path) -> None:
    trace = read(write(tmp_path, gpu_step(), "<b>.json", deviceProperties=GPU))
    assert json.loads(json.dumps(trace.to_json()))["events"]["kernels"] == 2
    assert list(trace.to_pandas()["name"]) == names(trace, trace.host_ops.name)
    assert "<b>" not in trace._repr_html_()
