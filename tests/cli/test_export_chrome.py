"""A trace as Chrome JSON is the same trace after reading it back."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from builders import GPU, copy, event, gpu_step, kernel, launch, op, shapes, step, write
from export_builders import (
    assert_same,
    empty_trace,
    events,
    head,
    resolved,
    small_trace,
    table,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.errors import InputError
from probe.export import chrome, targets
from probe.export import kineto_keys as keys
from probe.export.chrome import _microseconds
from probe.export.chrome_args import _percent
from probe.readers.kineto import read
from probe.readers.kineto_json import kind_of
from probe.trace import (
    Annotations,
    DeviceWork,
    Thread,
)


def test_a_trace_comes_back_from_the_reader_as_it_was(tmp_path: Path) -> None:
    trace = small_trace()
    trace.check()
    for name in ("t.json", "t.json.gz"):
        written = chrome.write([trace], tmp_path / name)
        assert (written.rows, written.unit) == (9, "events")
        assert_same(read(tmp_path / name), trace)


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.json.gz", "b.json.gz"):
        chrome.write([small_trace()], tmp_path / name)
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


@st.composite
def recorded(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Events as a profiler records them: nested calls on two threads, launches with and without their work."""
    found: list[dict[str, Any]] = []
    us = st.integers(0, 2_000_000).map(lambda ns: ns / 1000)
    names = st.sampled_from(["aten::mm", "void k<float>()", 'quoted "x" \\', "µ\n", "=1+1", "ProfilerStep#4"])
    for number in range(draw(st.integers(0, 12))):
        tid = draw(st.sampled_from([1, "worker"]))
        start, length = draw(us), draw(us)
        what = draw(st.sampled_from(["op", "shaped", "launch", "kernel", "copy", "mark"]))
        if what == "op":
            found.append(op(draw(names), start, length, tid, **{"Sequence number": number, "Record function id": 0}))
        elif what == "shaped":
            found.append(op(draw(names), start, length, tid, **shapes([number % 3, 4], [], dtype="double")))
        elif what == "launch":
            found.append(launch(number, start, length, tid=tid))
        elif what == "kernel":
            found.append(
                kernel(draw(names), start, length, draw(st.integers(0, 11)), stream=draw(st.sampled_from([7, 20])))
            )
        elif what == "copy":
            found.append(
                copy(
                    "Memcpy HtoD (Pageable -> Device)", start, length, draw(st.integers(0, 11)), draw(st.integers(0, 9))
                )
            )
        else:
            found.append(
                event(draw(st.sampled_from(["user_annotation", "gpu_user_annotation"])), draw(names), start, length)
            )
    return found


@settings(max_examples=60)
@given(recorded(), st.integers(0, 2**60))
def test_reading_writing_reading_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, found: Any, base: int
) -> None:
    folder = tmp_path_factory.mktemp("export")
    trace = read(write(folder, [*found, op("aten::last", 1, 1)], deviceProperties=GPU, baseTimeNanoseconds=base))
    chrome.write([trace], folder / "again.json")
    assert_same(read(folder / "again.json"), trace)


@pytest.mark.parametrize(
    "name",
    [
        "h100_bert_small", "h100_qwen_0.5b_chat", "mi300x_qwen_0.5b_chat", "a100_nccl_rank0", "a100_triton_kernel",
        "mi300x_compiled_triton", "cpu_only_no_rank", "a100_alexnet_inference", "v100_resnet50_training",
    ],
)  # fmt: skip
def test_real_traces_come_back(foreign_traces: Path, tmp_path: Path, name: str) -> None:
    trace = read(foreign_traces / f"{name}.json.gz")
    copied = tmp_path / f"{name}.json"
    chrome.write([trace], copied)
    assert_same(read(copied), trace)


def test_the_events_are_those_that_were_recorded(foreign_traces: Path, tmp_path: Path) -> None:
    """Without probe's reader on the way back: names, arguments and times of the two files, as decimals."""
    recorded_file = foreign_traces / "h100_qwen_0.5b_chat.json.gz"
    chrome.write([read(recorded_file)], tmp_path / "t.json.gz")
    left, right = _decimal(tmp_path / "t.json.gz"), _decimal(recorded_file)
    for category in ("cpu_op", "cuda_runtime", "kernel", "gpu_memcpy"):
        ours, theirs = left[category], right[category]
        assert sorted(e[:4] for e in ours) == sorted(e[:4] for e in theirs), category
        known = {key for e in ours for key in e[4]}
        for e in theirs:
            if e[4].get("est. achieved occupancy %") == 0:  # which stands for "not computed"
                del e[4]["est. achieved occupancy %"]
        wanted = {e[:4]: {k: v for k, v in e[4].items() if k in known and k != "External id"} for e in theirs}
        assert all({k: v for k, v in e[4].items() if k != "External id"} == wanted[e[:4]] for e in ours), category


def _decimal(path: Path) -> dict[str, list[Any]]:
    """Name, absolute start and duration in nanoseconds, thread and arguments of the events of each category."""
    content = json.loads(gzip.decompress(path.read_bytes()), parse_float=Decimal)
    found: dict[str, list[Any]] = {}
    for e in content["traceEvents"]:
        if e["ph"] == "X":
            start = Decimal(content["baseTimeNanoseconds"]) + e["ts"] * 1000
            row = (e["name"], start, e["dur"] * 1000, f"{e['pid']} {e['tid']}", e["args"])
            found.setdefault(e["cat"], []).append(row)
    return found


@given(st.integers(-(2**63), 2**63))
def test_times_are_exact(nanoseconds: int) -> None:
    text = _microseconds(nanoseconds)
    whole, _, decimals = text.partition(".")
    assert len(decimals) == 3
    assert int(whole + decimals) == nanoseconds


@given(st.one_of(st.integers(1, 100).map(lambda p: p / 100), st.floats(0.001, 1.0).map(lambda p: p * 100 / 100)))
def test_a_reader_gets_the_same_occupancy(fraction: float) -> None:
    percent = _percent(fraction)
    assert percent is not None
    assert percent / 100 == pytest.approx(fraction, rel=1e-15)
    assert percent / 100 == fraction or fraction * 100 != round(fraction * 100)


def test_the_head_comes_first_and_tells_clock_rank_and_device(tmp_path: Path) -> None:
    chrome.write([small_trace()], tmp_path / "t.json")
    found = head(tmp_path / "t.json")
    assert found["baseTimeNanoseconds"] == 1_700_000_000_123_456_789
    assert found["distributedInfo"] == {"rank": 3, "world_size": 8}
    assert found["deviceProperties"] == [
        {
            "id": 0,
            "name": "NVIDIA Test GPU",
            "totalGlobalMem": 1 << 36,
            "computeMajor": 9,
            "computeMinor": 0,
            "numSms": 132,
        }
    ]
    assert set(found) == {
        "schemaVersion", "deviceProperties", "distributedInfo", "record_shapes", "displayTimeUnit",
        "baseTimeNanoseconds",
    }  # fmt: skip


def test_an_arrow_leads_from_each_launch_to_its_work(tmp_path: Path) -> None:
    trace = small_trace()
    replayed = table(DeviceWork, [(3, 15_000 + n, 15_001 + n, 0, 20, 100, 0, 1, -1, 0, False, 5) for n in range(3)])
    chrome.write([replace(trace, kernels=replayed)], tmp_path / "t.json")
    starts, ends = events(tmp_path / "t.json", "s"), events(tmp_path / "t.json", "f")
    assert [e["id"] for e in starts] == [e["id"] for e in ends]
    assert len({e["id"] for e in starts}) == 4  # a number each, though three share a launch
    slices = [(e["pid"], e["tid"], e["ts"]) for e in events(tmp_path / "t.json")]
    assert all((e["pid"], e["tid"], e["ts"]) in slices for e in starts + ends)
    assert all(e["bp"] == "e" for e in ends)
    assert [e["ts"] for e in starts] == [12.345] * 3 + [30.0]


def test_processes_threads_and_streams_have_names(tmp_path: Path) -> None:
    chrome.write([small_trace()], tmp_path / "t.json")
    names = [(e["name"], e["pid"], e["args"].get("name")) for e in events(tmp_path / "t.json", "M")]
    assert ("process_name", 7, "rank 3 CPU") in names
    assert ("process_name", 0, "rank 3 GPU 0") in names
    assert ("thread_name", 0, "stream 20") in names
    placed = {(e["pid"], e["tid"]) for e in events(tmp_path / "t.json")}
    named = {(e["pid"], e["tid"]) for e in events(tmp_path / "t.json", "M") if e["name"] == "thread_name"}
    assert placed <= named


def test_a_host_process_with_a_devices_number_stays_apart_from_the_device(tmp_path: Path) -> None:
    trace = small_trace(threads=(Thread("0", "1"), Thread("python", "007"), Thread("0", "20")))
    chrome.write([trace], tmp_path / "t.json")
    places = {e["cat"]: e["pid"] for e in events(tmp_path / "t.json")}
    assert places["kernel"] != places["cpu_op"]
    names = {e["pid"]: e["args"]["name"] for e in events(tmp_path / "t.json", "M") if e["name"] == "process_name"}
    assert (names[0], names[places["kernel"]]) == ("rank 3 CPU", "rank 3 GPU 0")
    assert_same(read(tmp_path / "t.json"), trace)


def test_steps_without_marks_get_marks(tmp_path: Path) -> None:
    for thread in (0, -1):
        trace = small_trace(annotations=table(Annotations), step_thread=thread)
        chrome.write([trace], tmp_path / "t.json")
        found = read(tmp_path / "t.json")
        assert resolved(found)["steps"] == resolved(trace)["steps"]


def test_nothing_is_no_reason_to_fail(tmp_path: Path) -> None:
    assert chrome.write([empty_trace()], tmp_path / "t.json").rows == 0
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"] == []


def test_names_that_no_encoding_holds_are_written(tmp_path: Path) -> None:
    trace = small_trace(names=("ProfilerStep#7", "a\ud800b", "cudaLaunchKernel", "\0", "Memset (Device)", "cuX"))
    chrome.write([trace], tmp_path / "t.json")
    assert "a\ud800b" in {e["name"] for e in events(tmp_path / "t.json")}
    for format in ("csv", "parquet", "json"):
        if format != "parquet" or pytest.importorskip("pyarrow"):
            targets.write(targets.choose("x", f"{tmp_path}/{format}.{format}", format), [trace])


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("probe.export.chrome._Events._work", broken)
    with pytest.raises(InputError, match="No space left"):
        chrome.write([small_trace()], tmp_path / "t.json.gz")
    assert list(tmp_path.iterdir()) == []


def test_a_step_recorded_by_the_builders(tmp_path: Path) -> None:
    trace = read(write(tmp_path, [*gpu_step(), step(4, 101, 9)], deviceProperties=GPU))
    chrome.write([trace], tmp_path / "again.json")
    assert_same(read(tmp_path / "again.json"), trace)


def test_the_reader_knows_every_category_that_is_written() -> None:
    kinds = {
        keys.OPERATOR: "op", keys.RUNTIME: "runtime", keys.DRIVER: "runtime", keys.KERNEL: "kernel", keys.COPY: "copy",
        keys.SET: "copy", keys.ANNOTATION: "annotation", keys.DEVICE_ANNOTATION: "device annotation",
    }  # fmt: skip
    assert {category: kind_of(category) for category in kinds} == kinds
