"""Every way of writing a Kineto trace that was seen in the wild, and what must be read from it."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from builders import GPU, copy, document, event, gpu_step, kernel, launch, op, shapes, step, write

from probe.readers.kineto import read
from probe.trace import DeviceWork, GeneratedKernel, Trace


def names(trace: Trace, column: Any) -> list[str]:
    return [trace.names[i] for i in column]


def owners(trace: Trace, work: DeviceWork) -> dict[str, str | None]:
    """Name of the operator of each piece of work, by the work's name."""
    op_names = [*names(trace, trace.host_ops.name), None]
    return dict(zip(names(trace, work.name), (op_names[i] for i in work.op), strict=True))


def counts(trace: Trace) -> dict[str, int]:
    """The quality counts that are not zero, but for the number of events."""
    return {name: count for name, count in asdict(trace.quality).items() if count and name != "events"}


def raw(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# Times.


@pytest.mark.parametrize(
    ("stamp", "start_ns"),
    [
        ("1661203462598738", 1_661_203_462_598_738_000),
        ("1712195495519695.8", 1_712_195_495_519_695_800),
        ("1712195495519695.847", 1_712_195_495_519_695_847),  # of which a float64 holds .75
        ("4458676522690.655", 4_458_676_522_690_655),
        ("-0.001", -1),
        ("-12.5", -12_500),
    ],
)
def test_time_stamps_of_every_age(tmp_path: Path, stamp: str, start_ns: int) -> None:
    text = json.dumps({"traceEvents": [op("x", 0, 2.125), op("y", 0, 1)]})
    trace = read(raw(tmp_path / "t.json", text.replace('"ts": 0', f'"ts": {stamp}')))
    trace.check()
    assert trace.start_unix_ns == start_ns
    assert trace.host_ops.start_ns.tolist() == [0, 0]
    assert trace.host_ops.end_ns.tolist() == [2125, 1000]


def test_the_clock_begins_at_the_base_time(tmp_path: Path) -> None:
    base = 1_711_964_646_000_000_000
    trace = read(write(tmp_path, [op("x", 4458676522690.655, 1)], baseTimeNanoseconds=base))
    assert trace.start_unix_ns == base + 4_458_676_522_690_655


def test_events_stand_in_any_order_and_the_head_at_either_end(tmp_path: Path) -> None:
    first = write(tmp_path, gpu_step(), "first.json", deviceProperties=GPU, baseTimeNanoseconds=5)
    head = document([], deviceProperties=GPU, baseTimeNanoseconds=5)
    del head["traceEvents"]
    last = raw(tmp_path / "last.json", json.dumps({"traceEvents": gpu_step()[::-1], **head}))
    one, other = read(first), read(last)
    assert one.device == other.device and one.start_unix_ns == other.start_unix_ns == 5
    assert owners(one, one.kernels) == owners(other, other.kernels)
    assert one.host_ops.parent.tolist() == other.host_ops.parent.tolist() == [-1, 0, -1, -1]


def test_an_event_of_some_hours_is_kept_and_one_of_centuries_is_not(tmp_path: Path) -> None:
    """Of an event that never ended the length was once written as an overflown number."""
    hours, wrapped = 5 * 3600e6, (2**64 - 10**6) / 1000
    trace = read(write(tmp_path, [op("long", 0, hours), op("wrapped", 5, wrapped), op("negative", 6, -wrapped)]))
    assert names(trace, trace.host_ops.name) == ["long"]
    assert trace.host_ops.end_ns.tolist() == [18_000_000_000_000]
    assert trace.quality.dropped == 2


# Devices.


@pytest.mark.parametrize(
    ("device", "host_category", "kernel_category"),
    [
        ("mtia", "mtia_runtime", "mtia_ccp_events"),
        ("xpu", "xpu_runtime", "kernel"),
        ("xpu", "xpu_driver", "kernel"),
        ("privateuse1", "privateuse1_runtime", "kernel"),
        ("privateuse1", "privateuse1_driver", "kernel"),
    ],
)
def test_other_devices_are_read_and_said_to_be_unknown(
    tmp_path: Path, device: str, host_category: str, kernel_category: str
) -> None:
    events = [
        op("aten::mm", 0, 20),
        event(host_category, "enqueue", 2, 3, correlation=4),
        event(kernel_category, "gemm", 10, 7, 3, device=0, stream=3, correlation=4),
    ]
    trace = read(write(tmp_path, events))
    assert (trace.device.kind, trace.device.name) == ("unknown", device)
    assert owners(trace, trace.kernels) == {"gemm": "aten::mm"}
    assert trace.kernels.duration_ns.tolist() == [7000]
    assert trace.quality.unknown_devices == 1 + (kernel_category != "kernel")
    assert [w for w in trace.warnings if device in w and "no roofs" in w]
    assert not [w for w in trace.warnings if "left out" in w]


def test_two_unknown_devices_are_both_named(tmp_path: Path) -> None:
    """Without their work nobody is told to record that of a CUDA device."""
    events = [op("x", 0, 9), event("mtia_runtime", "a", 1, 1), event("xpu_runtime", "b", 3, 1)]
    trace = read(write(tmp_path, events))
    assert (trace.device.kind, trace.device.name) == ("unknown", "mtia, xpu")
    assert trace.quality.unknown_devices == 2
    assert not [w for w in trace.warnings if "CUDA" in w]


def test_without_device_properties_the_calls_tell_the_device(tmp_path: Path) -> None:
    def device(runtime: str, name: str) -> tuple[str, str]:
        events = [op("x", 0, 5), event(runtime, name, 1, 1, correlation=1), kernel("k", 3, 1, 1)]
        path = raw(tmp_path / "t.json", json.dumps({"traceEvents": events}))
        found = read(path).device
        return found.kind, found.name

    assert device("cuda_runtime", "cudaLaunchKernel") == ("cuda", "unknown device")
    assert device("cuda_driver", "cuLaunchKernel") == ("cuda", "unknown device")
    assert device("cuda_runtime", "hipLaunchKernel") == ("rocm", "unknown device")  # torch's own name of the category
    assert device("hip_runtime", "hipModuleLaunchKernel") == ("rocm", "unknown device")


def test_work_of_a_device_alone(tmp_path: Path) -> None:
    trace = read(write(tmp_path, [kernel("k", 5, 10, 1), kernel("k", 20, 10, 2)], deviceProperties=[]))
    assert trace.device.kind == "unknown"
    assert trace.kernels.op.tolist() == [-1, -1]
    assert counts(trace) == {"unlaunched": 2, "unattributed": 2}
    assert trace.warnings == ()  # no launch was recorded, so none is missing


def test_a_host_alone(tmp_path: Path) -> None:
    trace = read(write(tmp_path, [op("aten::mm", 0, 5)]))
    assert (trace.device.kind, trace.on_device, counts(trace), trace.warnings) == ("cpu", False, {}, ())


def test_a_device_that_did_nothing(tmp_path: Path) -> None:
    trace = read(write(tmp_path, [op("aten::mm", 0, 5)], deviceProperties=GPU))
    assert trace.device.kind == "cuda"
    assert trace.warnings == ("no device activity recorded; record with ProfilerActivity.CUDA",)


# Joining device work to operators.


def test_a_graph_replay_has_one_launch_and_many_kernels(tmp_path: Path) -> None:
    node = {"graph id": 12, "graph node id": 51539607557}
    events = [
        op("replay", 0, 20),
        launch(5, 1, name="cudaGraphLaunch"),
        kernel("a", 4, 2, 5, **node),
        kernel("b", 6, 2, 5, **node),
        event("gpu_memcpy", "Memcpy DtoD", 8, 1, 7, device=0, stream=7, correlation=5, bytes=8, **node),
        op("eager", 30, 10),
        launch(6, 31),
        kernel("c", 40, 2, 6, **{"graph id": 0, "graph node id": 0}),
    ]
    trace = read(write(tmp_path, events, deviceProperties=GPU))
    assert owners(trace, trace.kernels) == {"a": "replay", "b": "replay", "c": "eager"}
    assert trace.kernels.graph.tolist() == [12, 12, -1]
    assert counts(trace) == {"replayed": 3}


def test_replayed_kernels_without_a_graph_number_are_known_by_their_launch(tmp_path: Path) -> None:
    """So on ROCm, and before the number was written."""
    for name in ("hipGraphLaunch", "cuGraphLaunch"):
        trace = read(write(tmp_path, [op("replay", 0, 9), launch(5, 1, name=name), kernel("a", 4, 2, 5)]))
        assert counts(trace) == {"replayed": 1}


def test_replayed_kernels_without_a_launch_count_as_replayed(tmp_path: Path) -> None:
    alone = kernel("a", 4, 2, 77, **{"graph id": 3, "External id": 9})
    trace = read(write(tmp_path, [op("replay", 0, 9, **{"External id": 9}), launch(5, 1, name="cudaMalloc"), alone]))
    assert owners(trace, trace.kernels) == {"a": "replay"}
    assert counts(trace) == {"replayed": 1, "unlaunched": 1}


def test_launches_while_a_graph_is_captured_are_not_missing_work(tmp_path: Path) -> None:
    events = [
        op("capture", 0, 50),
        launch(1, 1, name="cudaStreamBeginCapture"),
        launch(2, 5),
        launch(3, 6, tid=2),  # another thread captures nothing
        launch(4, 10, name="cudaStreamEndCapture_v10000"),
        launch(5, 20),
        launch(6, 25, name="cudaLaunchHostFunc"),
        launch(7, 30, name="cudaGraphLaunch"),
        kernel("a", 35, 2, 7),
    ]
    trace = read(write(tmp_path, events, deviceProperties=GPU))
    assert counts(trace) == {"replayed": 1, "unfinished": 2}


def test_calls_of_one_number(tmp_path: Path) -> None:
    """A driver call within a runtime call; and two processes in one merged file, each of which counts from one."""
    events = [
        op("first", 0, 10, tid=9),
        {**launch(1, 2, 4, tid=9), "pid": 8},
        {**launch(1, 3, 2, name="cuLaunchKernel", tid=9), "pid": 8},
        op("second", 100, 10, tid=1),
        launch(1, 102, tid=1),
        kernel("early", 6, 5, 1),
        kernel("late", 104, 5, 1, stream=8),
    ]
    events[0]["pid"] = 8
    trace = read(write(tmp_path, events, deviceProperties=GPU))
    assert owners(trace, trace.kernels) == {"early": "first", "late": "second"}
    called = names(trace, trace.runtime_calls.name[trace.kernels.launch])
    assert called == ["cuLaunchKernel", "cudaLaunchKernel"]


def test_a_kernel_that_seems_to_precede_all_calls_of_its_number(tmp_path: Path) -> None:
    """The clocks of host and device differ a little; the number is right all the same."""
    events = [op("x", 10, 20), launch(1, 12, 8), launch(1, 14, 2, name="cuLaunchKernel"), kernel("k", 9, 5, 1)]
    trace = read(write(tmp_path, events, deviceProperties=GPU))
    assert owners(trace, trace.kernels) == {"k": "x"}


def test_an_external_id_of_two_operators_names_neither(tmp_path: Path) -> None:
    ids = {"External id": 5}
    events = [op("a", 0, 5, **ids), op("b", 10, 5, **ids), kernel("k", 20, 5, 99, **ids)]
    trace = read(write(tmp_path, events, deviceProperties=GPU))
    assert owners(trace, trace.kernels) == {"k": None}
    assert counts(trace) == {"duplicated": 1, "unlaunched": 1, "unattributed": 1}


def test_external_id_zero_is_none(tmp_path: Path) -> None:
    ids = {"External id": 0}
    events = [op("a", 0, 5, **ids), op("b", 10, 5, **ids), kernel("k", 20, 5, 99, **ids)]
    trace = read(write(tmp_path, events, deviceProperties=GPU))
    assert owners(trace, trace.kernels) == {"k": None}
    assert "duplicated" not in counts(trace)
    lone = read(write(tmp_path, [op("a", 0, 5, **ids), kernel("k", 20, 5, 99, **ids)], deviceProperties=GPU))
    assert owners(lone, lone.kernels) == {"k": None}


def test_kernels_without_a_number(tmp_path: Path) -> None:
    events = [op("x", 0, 9), launch(1, 2), kernel("numbered", 4, 2, 1)]
    bare = kernel("bare", 8, 2, 0)
    del bare["args"]["correlation"]
    trace = read(write(tmp_path, [*events, bare], deviceProperties=GPU))
    assert owners(trace, trace.kernels) == {"numbered": "x", "bare": None}
    assert counts(trace) == {"unlaunched": 1, "unattributed": 1}
    assert trace.warnings == ("1 device activities have no correlation id: which call launched them is unknown",)


# Threads and nesting.


def test_one_thread_as_number_and_as_text(tmp_path: Path) -> None:
    events = [
        {**op("outer", 0, 20, tid="5555"), "pid": "7"},
        op("inner", 2, 10, tid=5555),
        launch(1, 3, tid="5555"),
        kernel("k", 5, 2, 1),
        {**step(2, 0, 30), "tid": 5555},
    ]
    trace = read(write(tmp_path, events, deviceProperties=GPU))
    trace.check()
    assert trace.host_ops.parent.tolist() == [-1, 0]
    assert owners(trace, trace.kernels) == {"k": "inner"}
    assert len(set(trace.threads)) == len(trace.threads)
    assert trace.step_thread == trace.host_ops.thread[0]


def test_the_smallest_thread_number(tmp_path: Path) -> None:
    trace = read(write(tmp_path, [op("a", 0, 5, tid=-(2**63)), op("b", 2, 2, tid=0)]))
    assert {t.id for t in trace.threads} == {str(-(2**63)), "0"}
    assert trace.host_ops.parent.tolist() == [-1, -1]


@pytest.mark.parametrize(("overhang", "counted"), [(0.546, 0), (1.0, 0), (1.001, 1), (40, 1)])
def test_ends_that_are_rounded_apart_are_no_damage(tmp_path: Path, overhang: float, counted: int) -> None:
    """Files of 2023 hold floats with a quarter of a microsecond; in one real file 408 ends are apart by that."""
    trace = read(write(tmp_path, [op("outer", 0, 10), op("inner", 5, 5 + overhang)]))
    trace.check()
    assert trace.host_ops.end_ns.tolist() == [10_000, 10_000]
    assert trace.quality.clamped == counted


def test_operators_that_overlap_in_a_chain_are_cut_one_by_one(tmp_path: Path) -> None:
    trace = read(write(tmp_path, [op("a", 0, 10), op("b", 5, 10), op("c", 8, 20), op("d", 40, 5)]))
    trace.check()
    assert trace.host_ops.end_ns.tolist() == [10_000, 10_000, 10_000, 45_000]
    assert trace.host_ops.parent.tolist() == [-1, 0, 1, -1]
    assert trace.quality.clamped == 2


def test_overlaps_on_a_stream_are_counted(tmp_path: Path) -> None:
    rows = [(0, 100, 7), (10, 5, 7), (50, 5, 7), (100, 5, 7), (0, 50, 8), (49, 5, 8), (0, 9, 9)]
    events = [kernel("k", start, length, n, stream=stream) for n, (start, length, stream) in enumerate(rows)]
    trace = read(write(tmp_path, events, deviceProperties=GPU))
    assert trace.quality.overlapping == 3
    unknown = [{**e, "args": {k: v for k, v in e["args"].items() if k != "stream"}} for e in events]
    assert read(write(tmp_path, unknown, deviceProperties=GPU)).quality.overlapping == 0


# Steps and what stands beside operators and kernels.


def test_a_step_marked_on_host_and_device(tmp_path: Path) -> None:
    projected = event("gpu_user_annotation", "ProfilerStep#4", 15, 30, 7)
    trace = read(write(tmp_path, [step(4, 10, 20), projected, op("x", 12, 3)]))
    assert (trace.steps.number.tolist(), trace.steps.start_ns.tolist()) == ([4], [0])
    assert trace.steps.duration_ns.tolist() == [20_000]
    assert trace.annotations.on_device.tolist() == [False, True]


@pytest.mark.parametrize("category", ["cpu_op", "Operator"])
def test_a_step_that_is_an_operator(tmp_path: Path, category: str) -> None:
    mark = event(category, "ProfilerStep#9", 0, 50, **{"External id": 1})
    trace = read(write(tmp_path, [mark, op("x", 5, 10, **{"External id": 2})]))
    assert trace.steps.number.tolist() == [9]
    assert names(trace, trace.host_ops.name) == ["x"]
    assert trace.host_ops.parent.tolist() == [-1]


def test_what_is_neither_operator_nor_work_is_passed_over(tmp_path: Path) -> None:
    others = [
        event("cuda_sync", "Stream Sync", 20, 5, 7, device=0, stream=7, correlation=2),
        event("cuda_sync", "stream 7 (sync)", 20, 5, 100007),
        event("cuda_event", "cudaEventRecord", 20, 5, 7, correlation=2),
        event("overhead", "Buffer Flush", 20, 5, -1),
        event("python_function", "train.py(3): step", 0, 90, **{"Python id": 1}),
        event("Trace", "PyTorch Profiler (0)", 0, 200, "PyTorch Profiler"),
        event("mtia_insight", "x", 0, 5),
        event("external_correlation", "x", 0, 5),
        {"ph": "C", "cat": "gpu_pm_counter", "name": "sm__cycles", "pid": 0, "tid": 0, "ts": 5, "args": {"value": 3}},
        {"ph": "C", "cat": "kernel", "name": "counter", "pid": 0, "tid": 0, "ts": 5, "args": {"value": 3}},
        {"ph": "s", "cat": "fwdbwd", "name": "fwdbwd", "id": 1, "pid": 7, "tid": 1, "ts": 5},
        {"ph": "f", "cat": "ac2g", "name": "ac2g", "id": 9, "bp": "e", "pid": 0, "tid": 7, "ts": 5},
        {"ph": "M", "name": "process_name", "pid": 0, "tid": 0, "ts": 0, "args": {"name": "python"}},
        {"ph": "i", "s": "g", "name": "Iteration Start", "pid": "Traces", "tid": "Trace", "ts": 3},
    ]
    plain = read(write(tmp_path, gpu_step(), "plain.json", deviceProperties=GPU))
    full = read(write(tmp_path, [*gpu_step(), *others], "full.json", deviceProperties=GPU))
    assert full.to_json()["events"] == plain.to_json()["events"]
    assert full.span_ns == plain.span_ns
    assert full.quality.events == plain.quality.events + len(others)
    assert counts(full) == counts(plain) == {}
    assert full.with_stacks and not plain.with_stacks


def test_events_without_arguments(tmp_path: Path) -> None:
    bare = [{k: v for k, v in e.items() if k != "args"} for e in gpu_step()]
    trace = read(write(tmp_path, bare, deviceProperties=GPU))
    trace.check()
    assert len(trace.host_ops) == 4 and len(trace.kernels) == 2
    assert trace.kernels.device.tolist() == trace.kernels.stream.tolist() == [-1, -1]
    assert not trace.with_shapes and trace.copies.bytes.tolist() == [-1]
    null = [{**e, "args": None} for e in bare]
    assert read(write(tmp_path, null, deviceProperties=GPU)).to_json()["events"] == trace.to_json()["events"]


# Arguments.


@pytest.mark.parametrize(
    ("percent", "fraction"), [(0, None), (50, 0.5), (100, 1.0), (101, None), (-1, None), ("50", None), (37.5, 0.375)]
)
def test_an_occupancy_of_zero_was_not_computed(tmp_path: Path, percent: Any, fraction: float | None) -> None:
    trace = read(write(tmp_path, [kernel("k", 0, 5, 1, **{"est. achieved occupancy %": percent})]))
    assert trace.launch_shapes[trace.kernels.launch_shape[0]].theoretical_occupancy_fraction == fraction


def test_the_newest_kernels_nest_their_occupancy(tmp_path: Path) -> None:
    nested = {"activeBlocksPerMultiprocessor": 4, "limitingFactors": ["regs"], "blockLimitRegs": 4}
    args = {"occupancy": nested, "est. achieved occupancy %": 25, "registers per thread": 64, "shared memory": 0}
    trace = read(write(tmp_path, [kernel("k", 0, 5, 1, **args)]))
    shape = trace.launch_shapes[0]
    assert (shape.registers_per_thread, shape.shared_bytes, shape.theoretical_occupancy_fraction) == (64, 0, 0.25)


def test_numbers_as_text(tmp_path: Path) -> None:
    told = {"Collective name": "allreduce", "In msg nelems": "1024", "Group size": "2", "Process Group Name": "0"}
    events = [
        op("record_param_comms", 0, 9, **{"External id": "5"}),
        launch(1, 2),
        kernel("nccl", 4, 2, 1, **told),
        copy("Memcpy HtoD", 10, 2, 2, 0),
    ]
    events[1]["args"]["correlation"] = "1"
    events[3]["args"]["bytes"] = "1024"
    trace = read(write(tmp_path, events, distributedInfo={"rank": "3", "world_size": "8"}))
    assert owners(trace, trace.kernels) == {"nccl": "record_param_comms"}
    assert trace.copies.bytes.tolist() == [1024]
    call = trace.collective_calls[0]
    assert (call.in_elements, call.group_size, call.group) == (1024, 2, "0")
    assert (trace.rank, trace.world_size) == (3, 8)


def test_collectives_as_kineto_writes_them(tmp_path: Path) -> None:
    """Groups as text, cut after some ranks; an id of the communicator beyond 63 bits."""
    told = {"Collective name": "allreduce", "Comms Id": 10159970886766084423, "Seq": 4, "Group size": 3}
    events = [
        op("record_param_comms", i * 10, 5, **{**told, "Process Group Ranks": ranks})
        for i, ranks in enumerate(["[0, 1, 2]", "[0, 1, ...]", [0, 1, 2], "", "[0, 1]"])
    ]
    trace = read(write(tmp_path, events))
    groups = [trace.collective_calls[c].group_ranks for c in trace.collectives.call]
    assert groups == [(0, 1, 2), None, (0, 1, 2), None, None]
    assert trace.collectives.sequence.tolist() == [4] * 5
    assert trace.quality.dropped == 0


def test_what_is_told_on_a_kernel_without_a_number_is_taken_from_its_operator(tmp_path: Path) -> None:
    told = {"Collective name": "allreduce", "In msg nelems": 8}
    bare = kernel("nccl", 4, 2, 0, **told)
    del bare["args"]["correlation"]
    trace = read(write(tmp_path, [op("record_param_comms", 0, 9, **told), launch(1, 2), bare]))
    assert (trace.collectives.op.tolist(), trace.collectives.kernel.tolist()) == ([0], [-1])


def test_what_a_compiler_says_of_its_kernel(tmp_path: Path) -> None:
    told = {"kernel_backend": "triton", "kernel_hash": "ab", "kernel_file": "/tmp/k.py", "grid": "grid(8,)"}
    events = [
        op("triton_poi_0", 0, 5, **shapes([4, 4]), **told, num_warps=4, num_stages="2"),
        op("triton_poi_1", 10, 5, **shapes([4, 4]), kernel_backend="triton"),
        op("aten::mm", 20, 5, **shapes([4, 4]), kernel_backend=""),
    ]
    trace = read(write(tmp_path, events))
    made = [trace.signatures[i].kernel for i in trace.host_ops.signature]
    assert made == [
        GeneratedKernel("triton", "ab", "/tmp/k.py", "grid(8,)", 4, 2),
        GeneratedKernel("triton", None, None, None, None, None),
        None,
    ]


def test_lists_of_tensors_of_any_depth(tmp_path: Path) -> None:
    dims = [[[2873320]], [], [[4, 4], [2]], [[[1, 2], [3]]]]
    trace = read(write(tmp_path, [op("x", 0, 5, **{"Input Dims": dims, "Input type": ["TensorList"] * 4})]))
    assert trace.signatures[0].dims == (((2873320,),), (), ((4, 4), (2,)), (((1, 2), (3,)),))


# Text that is not quite JSON.


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("C:/tmp/train.py", r"C:/tmp\train\data.py"),  # kineto 336: Windows paths
        ("quoted", 'quo"ted'),  # pytorch 146900
        ("control", "con\x01trol"),
    ],
)
def test_names_that_break_json_cost_no_other_event(tmp_path: Path, name: str, written: str) -> None:
    text = json.dumps(document([op("before", 0, 5), op(name, 10, 5), op("after", 20, 5)]))
    trace = read(raw(tmp_path / "t.json", text.replace(name, written)))
    assert {"before", "after"} <= set(names(trace, trace.host_ops.name))
    assert len(trace.host_ops) + trace.quality.dropped >= 3


def test_a_value_that_is_not_available_costs_one_event(tmp_path: Path) -> None:
    """Kineto 133: N/A without quotes."""
    text = json.dumps(
        document([op("x", 0, 9), launch(1, 2), kernel("k", 4, 2, 1, bandwidth="NA"), kernel("l", 8, 2, 1)])
    )
    trace = read(raw(tmp_path / "t.json", text.replace('"NA"', "N/A")))
    assert names(trace, trace.kernels.name) == ["l"]
    assert trace.quality.dropped == 1
    assert "1 of 4 events could not be read and were left out" in trace.warnings


def test_names_in_other_encodings(tmp_path: Path) -> None:
    text = json.dumps(document([op("before", 0, 5), op("LATIN", 10, 5)])).encode().replace(b"LATIN", b"caf\xe9")
    path = tmp_path / "t.json"
    path.write_bytes(text)
    assert Counter(names(read(path), read(path).host_ops.name))["before"] == 1
    assert len(read(path).host_ops) == 2


def test_kernels_of_2021_spell_their_external_id_small(tmp_path: Path) -> None:
    late = event("Kernel", "k", 9, 2, 7, **{"external id": 3, "correlation": 99, "device": 0, "stream": 7})
    trace = read(write(tmp_path, [op("x", 0, 5, **{"External id": 3}), late]))
    assert owners(trace, trace.kernels) == {"k": "x"}


def test_memory_was_recorded_in_2021(tmp_path: Path) -> None:
    instant = {"ph": "i", "s": "t", "name": "[memory]", "pid": 7, "tid": 1, "ts": 1, "args": {"Bytes": 4}}
    assert read(write(tmp_path, [instant, op("x", 0, 5)])).with_memory


@pytest.mark.parametrize("base", ["1711964646000000000", 1711964646e9])
def test_a_base_time_that_another_tool_wrote(tmp_path: Path, base: Any) -> None:
    assert read(write(tmp_path, [op("x", 0, 5)], baseTimeNanoseconds=base)).start_unix_ns == 1_711_964_646_000_000_000


def test_blanks_before_colons_cost_no_digits(tmp_path: Path) -> None:
    text = json.dumps({"traceEvents": [op("x", 0, 5)]}).replace('"ts": 0', '"ts" : 1712195495519695.847')
    assert read(raw(tmp_path / "t.json", text)).start_unix_ns == 1_712_195_495_519_695_847


def test_the_peer_of_a_message_as_text(tmp_path: Path) -> None:
    told = {"Collective name": "send", "Dst Rank": "3", "Src Rank": "0", "Group size": 4}
    assert read(write(tmp_path, [op("record_param_comms", 0, 5, **told)])).collective_calls[0].peer == 3


def test_events_of_hpu_are_not_taken_for_kernels(tmp_path: Path) -> None:
    """Kineto defines the category as the host's; some exports put the device's there too: which is which is unknown."""
    trace = read(write(tmp_path, [op("x", 0, 9), event("hpu_op", "launch", 2, 3)]))
    assert (len(trace.kernels), trace.device.name, trace.quality.unknown_devices) == (0, "hpu", 1)
