"""What is written for other tools: the same trace after reading it back, tables with every name resolved."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from builders import GPU, copy, event, gpu_step, kernel, launch, op, shapes, step, write
from hypothesis import given, settings
from hypothesis import strategies as st

import probe
from probe.cli import export as cli
from probe.device import Device
from probe.errors import InputError, ProbeError, UnavailableError, UsageError
from probe.export import chrome, csv_file, json_file, parquet_file, targets
from probe.export.chrome import _microseconds
from probe.export.chrome_args import _percent
from probe.export.tables import NAMES, Export
from probe.readers.kineto import read
from probe.trace import (
    Annotations,
    CollectiveCall,
    Collectives,
    DeviceWork,
    GeneratedKernel,
    HostOps,
    LaunchShape,
    RuntimeCalls,
    Signature,
    Steps,
    Table,
    Thread,
    Trace,
)

SECOND = 10**9


def table(kind: type[Any], rows: Sequence[Sequence[Any]] = ()) -> Any:
    """A table of these rows, with the columns' own types."""
    types = {"Int32s": np.int32, "Int64s": np.int64, "Mask": np.bool_}
    columns = [*zip(*rows, strict=True)] or [()] * len(fields(kind))
    return kind(*(np.array(c, types[str(f.type)]) for f, c in zip(fields(kind), columns, strict=True)))


def small_trace(rank: int | None = 3, start_unix_ns: int = 1_700_000_000_123_456_789, **changes: Any) -> Trace:
    """One step with every kind of row; the kernel is a collective, its name is a formula to a spreadsheet."""
    made = Trace(
        path="runs/rank3.json",
        device=Device("cuda", "NVIDIA Test GPU", compute_capability="9.0", sm_count=132, memory_bytes=1 << 36),
        names=("ProfilerStep#7", "aten::mm", "cudaLaunchKernel", '=HYPERLINK("http://evil")', "Memset (Device)", "cuX"),
        signatures=(
            Signature(
                ((4, 8), ((2,), (3,)), ()), ("float", "TensorList", "Scalar"), ((8, 1), ((1,), (1,)), ()), ("", "", "2")
            ),
            Signature(((4,),), ("float",), kernel=GeneratedKernel("triton", "abc", "/tmp/k.py", "grid(8,)", 4, None)),
        ),
        threads=(Thread("7", "7"), Thread("python", "007"), Thread("0", "20")),
        launch_shapes=(LaunchShape((8, 1, 1), (128, 1, 1), 32, 0, 0.29), LaunchShape((), ())),
        host_ops=table(HostOps, [
            (1, 0, 5_001, 50_003, -1, 35_002, 0, 11, 4, 9, 0),
            (1, 0, 10_000, 20_000, 0, 10_000, 1, 12, -1, 0, -1),
            (1, 1, 0, 1, -1, 1, -1, -1, -1, -1, -1),
        ]),
        runtime_calls=table(RuntimeCalls, [(2, 0, 12_345, 13_000, 100, 1), (5, 0, 30_000, 31_000, 101, 0)]),
        kernels=table(DeviceWork, [(3, 15_002, 18_009, 0, 20, 100, 0, 1, -1, 0, False, 17)]),
        copies=table(DeviceWork, [(4, 40_000, 40_000, 0, 20, 101, 1, 0, 512, -1, False, -1)]),
        annotations=table(Annotations, [(0, 0, 0, 90_000, False), (0, 2, 15_002, 40_000, True)]),
        collective_calls=(CollectiveCall("allreduce", "Float", 10, 10, "0", 2, (0, 1)),),
        collectives=table(Collectives, [(0, 1, 0, 5)]),
        steps=table(Steps, [(7, 0, 90_000)]),
        step_thread=0,
        start_unix_ns=start_unix_ns,
        rank=rank,
        world_size=None if rank is None else 8,
        with_shapes=True,
    )  # fmt: skip
    return replace(made, **changes)


def empty_trace() -> Trace:
    rows = {name: table(type(getattr(small_trace(), name))) for name in (*EVENT_TABLES, "collectives", "steps")}
    return replace(small_trace(), names=(), threads=(), step_thread=-1, signatures=(), launch_shapes=(), **rows)


EVENT_TABLES = ("host_ops", "runtime_calls", "kernels", "copies", "annotations")


def resolved(trace: Trace) -> dict[str, Any]:
    """All that a trace says, with numbers replaced by what they refer to: names and threads may be numbered otherwise.

    Rows that are sorted by thread are put in the order of the threads' names, and references to them follow.
    """
    texts = {
        "name": trace.names, "thread": trace.threads, "signature": trace.signatures,
        "launch_shape": trace.launch_shapes, "call": trace.collective_calls,
    }  # fmt: skip
    names = [(t.process, t.id) for t in trace.threads]
    by_name = np.array([sorted(names).index(n) for n in names], int)
    orders = {n: np.argsort(by_name[getattr(trace, n).thread], kind="stable") for n in ("host_ops", "runtime_calls")}
    places = {n: np.append(np.argsort(order), -1) for n, order in orders.items()}
    references = {"op": places["host_ops"], "parent": places["host_ops"], "launch": places["runtime_calls"]}

    def column(table: str, name: str, values: Any) -> list[Any]:
        if table in orders:
            values = values[orders[table]]
        if name in references:
            values = references[name][values]
        known = texts.get(name)
        return values.tolist() if known is None else [known[i] if i >= 0 else None for i in values.tolist()]

    found = {
        name: {n: column(name, n, c) for n, c in getattr(trace, name).columns()}
        for name in (*EVENT_TABLES, "collectives", "steps")
    }
    step_thread = trace.threads[trace.step_thread] if trace.step_thread >= 0 else None
    about = ("device", "rank", "world_size", "start_unix_ns", "with_shapes")
    return {**found, "step_thread": step_thread, **{name: getattr(trace, name) for name in about}}


def assert_same(found: Trace, wanted: Trace) -> None:
    left, right = resolved(found), resolved(wanted)
    assert left.keys() == right.keys()
    for key in left:
        assert left[key] == right[key], key


def events(path: Path, ph: str = "X") -> list[dict[str, Any]]:
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [e for e in json.loads(text)["traceEvents"] if e["ph"] == ph]


def head(path: Path) -> dict[str, Any]:
    return {k: v for k, v in json.loads(path.read_bytes()).items() if k != "traceEvents"}


# Chrome JSON


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


@settings(max_examples=60, deadline=None)
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


# many ranks


def ranks(*starts: int, **changes: Any) -> list[Trace]:
    return [small_trace(rank, 1_700_000_000 * SECOND + start, **changes) for rank, start in enumerate(starts)]


def test_ranks_stand_one_below_the_other_on_one_clock(tmp_path: Path) -> None:
    written = chrome.write(ranks(5_000, 0, 2_000), tmp_path / "t.json", offsets_ns={1: 1_000, 2: -500})
    assert written.warnings == ()
    found = events(tmp_path / "t.json")
    kernels = [e for e in found if e["cat"] == "kernel"]
    assert [e["ts"] for e in kernels] == [19.002, 15.002, 15.502]
    assert head(tmp_path / "t.json")["baseTimeNanoseconds"] == 1_700_000_000 * SECOND + 1_000
    meta = events(tmp_path / "t.json", "M")
    names = {e["pid"]: e["args"]["name"] for e in meta if e["name"] == "process_name"}
    order = {e["pid"]: e["args"]["sort_index"] for e in meta if e["name"] == "process_sort_index"}
    assert [names[pid] for pid in sorted(order, key=order.__getitem__) if "python" not in names[pid]] == [
        f"rank {rank} {what}" for rank in range(3) for what in ("CPU", "CPU", "GPU 0")
    ]
    assert len(names) == 9


def test_no_number_means_two_things(tmp_path: Path) -> None:
    chrome.write(ranks(0, 1, 2), tmp_path / "t.json")
    found = events(tmp_path / "t.json")
    calls = [e["args"]["correlation"] for e in found if e["cat"].startswith("cuda_")]
    work = [e["args"]["correlation"] for e in found if e["cat"] in ("kernel", "gpu_memset")]
    ids = [e["args"]["External id"] for e in found if e["cat"] == "cpu_op" and "External id" in e["args"]]
    assert len(set(calls)) == len(calls) == 6
    assert sorted(calls) == sorted(work)
    assert len(set(ids)) == len(ids) == 6
    places = {(e["pid"], e["tid"]) for e in found}
    assert len({tid for _, tid in places} | {pid for pid, _ in places}) == 3 * (3 + 3)
    arrows = [e["id"] for e in events(tmp_path / "t.json", "s")]
    assert len(set(arrows)) == len(arrows) == 6
    whole = read(tmp_path / "t.json")
    assert (whole.kernels.launch >= 0).all()
    assert whole.rank is None


def test_real_ranks_in_one_file(foreign_traces: Path, tmp_path: Path) -> None:
    traces = [read(foreign_traces / "v100_dlrm_4_of_8_ranks" / f"rank{rank}.json.gz") for rank in range(4)]
    written = chrome.write(traces, tmp_path / "t.json.gz")
    assert written.warnings == ()
    whole = read(tmp_path / "t.json.gz")
    assert len(whole.kernels) == sum(len(t.kernels) for t in traces)
    assert whole.start_unix_ns == min(t.start_unix_ns for t in traces)
    late = [t.start_unix_ns - whole.start_unix_ns for t in traces]
    assert sorted(whole.kernels.start_ns) == sorted(
        int(start) + late[i] for i, t in enumerate(traces) for start in t.kernels.start_ns
    )
    launched = {(whole.names[k], whole.names[o]) for k, o in _launched(whole)}
    assert launched == {(t.names[k], t.names[o]) for t in traces for k, o in _launched(t)}


def _launched(trace: Trace) -> set[tuple[int, int]]:
    """Names of kernels and of the operators that launched them."""
    work = trace.kernels.where(trace.kernels.op >= 0)
    return set(zip(work.name.tolist(), trace.host_ops.name[work.op].tolist(), strict=True))


@pytest.mark.parametrize("starts", [(0, 1_700_000_000 * SECOND), (1, 10**17)])
def test_clocks_of_different_runs_are_not_mixed(tmp_path: Path, starts: tuple[int, int]) -> None:
    traces = [small_trace(rank, start) for rank, start in enumerate(starts)]
    written = chrome.write(traces, tmp_path / "t.json")
    assert len(written.warnings) == 1
    assert [e["ts"] for e in events(tmp_path / "t.json") if e["cat"] == "kernel"] == [15.002, 15.002]


def test_an_offset_for_a_rank_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rank 9"):
        chrome.write(ranks(0, 1), tmp_path / "t.json", offsets_ns={9: 1})
    assert list(tmp_path.iterdir()) == []


def test_traces_of_one_rank_are_told_apart(tmp_path: Path) -> None:
    traces = [
        small_trace(0, path="a/cycle1.json"),
        small_trace(0, path="a/cycle2.json"),
        small_trace(None, path="x.json"),
    ]
    chrome.write(traces, tmp_path / "t.json")
    names = {e["args"]["name"] for e in events(tmp_path / "t.json", "M") if e["name"] == "process_name"}
    assert {"rank 0 cycle1.json GPU 0", "rank 0 cycle2.json GPU 0", "x.json GPU 0"} <= names


# tables


def rows_of(path: Path) -> list[dict[str, str]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_table_as_csv(tmp_path: Path) -> None:
    written = csv_file.write(Export([small_trace()]), "ops", tmp_path / "ops.csv")
    first, inner, last = rows_of(tmp_path / "ops.csv")
    assert written.rows == 3
    assert first["name"] == "aten::mm"
    assert (first["rank"], first["row"], first["process"], first["thread"]) == ("3", "0", "7", "7")
    assert (first["start_ns"], first["end_ns"], first["duration_ns"], first["self_ns"]) == (
        "5001", "50003", "45002", "35002",
    )  # fmt: skip
    assert json.loads(first["input_dims"]) == [[4, 8], [[2], [3]], []]
    assert json.loads(inner["generated_kernel"])["backend"] == "triton"
    assert (inner["parent_row"], inner["sequence"]) == ("0", "")
    assert last["external_id"] == last["input_dims"] == last["parent_row"] == ""


def test_csv_runs_nothing_in_a_spreadsheet(tmp_path: Path) -> None:
    csv_file.write(Export([small_trace()]), "kernels", tmp_path / "kernels.csv.gz")
    assert rows_of(tmp_path / "kernels.csv.gz")[0]["name"] == '\'=HYPERLINK("http://evil")'


@given(st.text())
def test_inert_text_is_never_a_formula_and_loses_nothing(text: str) -> None:
    found = csv_file.inert(text)
    assert not found.startswith(tuple("=+-@\t\r\n"))
    assert found.removeprefix("'") == text


def test_all_tables_of_many_ranks_agree_in_all_formats(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    traces = ranks(0, 7_000)
    export = Export(traces)
    json_file.write(export, tmp_path / "all.json")
    whole = json.loads((tmp_path / "all.json").read_text())
    assert whole["schema"] == "probe.export/1"
    assert whole["origin_unix_ns"] == 1_700_000_000 * SECOND
    assert tuple(whole["tables"]) == NAMES
    for name in NAMES:
        csv_file.write(export, name, tmp_path / "t.csv")
        written = parquet_file.write(export, name, tmp_path / "t.parquet")
        columns = parquet.read_table(tmp_path / "t.parquet")
        assert columns.to_pydict() == whole["tables"][name]
        assert written.rows == columns.num_rows == 2 * len(columns["rank"]) // 2
        assert columns.schema.metadata[b"origin_unix_ns"] == str(1_700_000_000 * SECOND).encode()
        assert all(
            t in (pyarrow.int64(), pyarrow.string(), pyarrow.float64(), pyarrow.bool_()) for t in columns.schema.types
        )
        text = [["" if v is None else csv_file.inert(v) if isinstance(v, str) else str(v) for v in r.values()]
                for r in columns.to_pylist()]  # fmt: skip
        assert [list(r.values()) for r in rows_of(tmp_path / "t.csv")] == text
        assert set(whole["tables"][name]["rank"]) == {0, 1}


def test_every_column_of_a_table_is_written() -> None:
    """A column that is added to a table of the trace must not be forgotten here."""
    renamed = {
        "parent": "parent_row", "signature": "input_dims", "launch": "launch_row", "kernel": "kernel_row",
        "record_function": "record_function_id", "call": "kind", "launch_shape": "grid",
    }  # fmt: skip
    export, trace = Export([small_trace()]), small_trace()
    own = {"ops": "host_ops"}
    for name in NAMES:
        rows: Table = getattr(trace, own.get(name, name))
        left_out = {"op"} | (
            {"bytes", "crosses_bus"} if name == "kernels" else {"launch_shape"} if name == "copies" else set()
        )
        wanted = {renamed.get(column, column) for column, _ in rows.columns() if column not in left_out}
        assert wanted <= set(export.kinds(name)), name


def test_chunks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = Export(ranks(0, 1))
    for number in range(2):
        json_file.write(export, tmp_path / f"{number}.json")
        chrome.write(ranks(0, 1), tmp_path / f"{number}.trace.json")
        monkeypatch.setattr("probe.export.tables.Export.chunks.__defaults__", (1,), raising=True)
        monkeypatch.setattr("probe.export.chrome._CHUNK", 1)
    assert (tmp_path / "0.json").read_text() == (tmp_path / "1.json").read_text()
    two = [sorted(map(repr, events(tmp_path / f"{number}.trace.json"))) for number in range(2)]
    assert two[0] == two[1]


def test_times_on_the_common_axis(tmp_path: Path) -> None:
    export = Export(ranks(9, 0), offsets_ns={0: 1})
    found = [v for chunk in export.chunks("steps") for v in chunk["start_ns"].values()]
    assert found == [10, 0]


def test_parquet_without_pyarrow_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UnavailableError, match=r"pip install 'torch-probe\[export\]'"):
        targets.refuse(targets.choose("t.json", str(tmp_path / "t.parquet"), None), "t.json", force=False)


# the command


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `probe export` in an empty directory on two ranks; returns what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe, "api", SimpleNamespace(load_all=lambda source: tuple(ranks(0, 1))), raising=False)
    app = typer.Typer()
    app.command()(cli.command)

    def call(*arguments: str) -> str:
        app(args=list(arguments), standalone_mode=False)
        return capsys.readouterr().out

    return call


def test_by_default_a_chrome_trace_under_a_new_name(run: Any, tmp_path: Path) -> None:
    for name in ("step-chrome.json.gz", "step-chrome-2.json.gz", "step-chrome-3.json.gz"):
        out = run("/data/step.pt.trace.json.gz")
        assert out == f"{name}: 18 events\n"
        assert (tmp_path / name).is_file()


def test_by_default_one_file_a_table(run: Any, tmp_path: Path) -> None:
    run("runs/exp1/", "--format", "csv")
    run("runs/exp1", "--format", "csv")
    assert {p.name for p in (tmp_path / "exp1-csv").iterdir()} == {f"{name}.csv" for name in NAMES}
    assert {p.name for p in (tmp_path / "exp1-csv-2").iterdir()} == {f"{name}.csv" for name in NAMES}
    run("runs/exp1", "--format", "json", "--table", "kernels")
    assert list(json.loads((tmp_path / "exp1-tables.json").read_text())["tables"]) == ["kernels"]


@pytest.mark.parametrize(
    ("options", "file", "column"),
    [
        (("-o", "x.csv"), "x.csv", "self_ns"),
        (("-o", "x.csv", "--table", "kernels"), "x.csv", "registers_per_thread"),
        (("-o", "new/", "--format", "csv", "--table", "steps"), "new/steps.csv", "number"),
        (("-o", "new", "--format", "csv"), "new/copies.csv", "bytes"),
        (("--table", "copies", "--format", "csv"), "step-copies.csv", "bytes"),
        (("-o", "x.data", "--format", "csv"), "x.data", "self_ns"),
    ],
)
def test_where_tables_go(run: Any, tmp_path: Path, options: tuple[str, ...], file: str, column: str) -> None:
    run("step.json", *options)
    assert len(rows_of(tmp_path / file)) > 0
    assert column in rows_of(tmp_path / file)[0]


def test_a_directory_takes_a_file_of_any_format(run: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    run("step.json", "-o", "out")
    run("step.json", "-o", "out", "--format", "json")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"step-chrome.json.gz", "step-tables.json"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--format", "pdf"), "choose from chrome"),
        (("--table", "kernels"), "has no tables"),
        (("--format", "csv", "--table", "kernel"), "choose from ops"),
        (("-o", "x.csv", "--table", "ops", "--table", "kernels"), "one table, not 2"),
        (("-o", "no/x.json"), "there is no directory no"),
        (("-o", "no/where/", "--format", "csv"), "no/where"),
        (("-o", "kept.json"), "exists already and is kept"),
        (("-o", "x" * 300), "File name too long"),
        (("-o", "x" * 240), "File name too long"),  # with what a part is called until it is whole
        (("-o", "kept.json/x", "--format", "csv"), "Not a directory"),
        (("-o", "full", "--format", "csv"), "exists already and is kept"),
        (("-o", "source.json", "--force"), "is the trace that is to be exported"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(run: Any, tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    (tmp_path / "full").mkdir()
    for file in ("kept.json", "full/steps.csv", "source.json"):
        (tmp_path / file).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ProbeError) as raised:
        run("source.json", *options)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "kept.json").read_text() == "mine"


def test_force_overwrites(run: Any, tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_text("mine")
    run("step.json", "-o", "kept.json", "--force")
    assert events(tmp_path / "kept.json")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("format", ["chrome", "csv", "json", "parquet"])
def test_a_full_disk_is_one_line(run: Any, format: str) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match="/dev/full: cannot be written: No space left"):
        run("step.json", "-o", "/dev/full", "--format", format)


def test_a_pipe_gets_the_content_and_nothing_else(run: Any, tmp_path: Path) -> None:
    assert run("step.json", "-o", "/dev/null", "--format", "csv") == ""


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
