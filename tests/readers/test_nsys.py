"""Exports of Nsight Systems: databases made here, and real ones checked against plain SQL."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.errors import TraceError, UsageError
from probe.readers import nsys, nsys_database
from probe.readers.nsys_ranges import parse
from probe.trace import Annotations, DeviceWork, Trace

SCHEMA = """
CREATE TABLE StringIds (id INTEGER, value TEXT);
CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER, "end" INTEGER, deviceId INTEGER, streamId INTEGER,
  correlationId INTEGER, globalPid INTEGER, demangledName INTEGER, shortName INTEGER, registersPerThread INTEGER,
  gridX INTEGER, gridY INTEGER, gridZ INTEGER, blockX INTEGER, blockY INTEGER, blockZ INTEGER,
  staticSharedMemory INTEGER, dynamicSharedMemory INTEGER, graphId INTEGER, graphNodeId INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INTEGER, "end" INTEGER, globalTid INTEGER, correlationId INTEGER,
  nameId INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INTEGER, "end" INTEGER, deviceId INTEGER, streamId INTEGER,
  correlationId INTEGER, globalPid INTEGER, bytes INTEGER, copyKind INTEGER, srcKind INTEGER, dstKind INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMSET (start INTEGER, "end" INTEGER, deviceId INTEGER, streamId INTEGER,
  correlationId INTEGER, globalPid INTEGER, bytes INTEGER, memKind INTEGER);
CREATE TABLE NVTX_EVENTS (start INTEGER, "end" INTEGER, eventType INTEGER, text TEXT, textId INTEGER,
  globalTid INTEGER, domainId INTEGER);
"""
NAMES = ((1, "void gemm<float>(float *, int)"), (2, "gemm"), (3, "cudaLaunchKernel_v7000"), (4, "registered"))


def gid(pid: int, tid: int = 0) -> int:
    """A process or thread as nsys numbers it; the upper bits are those of the machine."""
    return 1 << 48 | pid << 24 | tid


class Export:
    """A small export, row by row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, list[tuple[object, ...]]] = {"StringIds": list(NAMES)}
        self.more = ""

    def add(self, table: str, *values: object) -> None:
        self.rows.setdefault(table, []).append(values)

    def kernel(self, start: int, end: int, correlation: int, pid: int = 7, device: int = 0, graph: object = None,
               node: object = None, grid: int = 8) -> None:  # fmt: skip
        shape = (32, grid, 1, 1, 128, 1, 1, 16, 48)
        self.add(nsys.KERNELS, start, end, device, 7, correlation, gid(pid), 1, 2, *shape, graph, node)

    def launch(self, start: int, end: int, correlation: int, pid: int = 7, tid: int = 7, name: int = 3) -> None:
        self.add(nsys.RUNTIME, start, end, gid(pid, tid), correlation, name)

    def copy(self, start: int, end: int, correlation: int, kinds: tuple[int, int, int], size: int = 4) -> None:
        self.add(nsys.COPIES, start, end, 0, 7, correlation, gid(7), size, *kinds)

    def range(self, start: int, end: int | None, text: str | None, pid: int = 7, tid: int = 7, kind: int = 59,
              text_id: int | None = None, domain: int = 0) -> None:  # fmt: skip
        self.add(nsys.RANGES, start, end, kind, text, text_id, gid(pid, tid), domain)

    def write(self) -> Path:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.executescript(SCHEMA + self.more)
            for table, rows in self.rows.items():
                marks = ", ".join("?" * len(rows[0]))
                connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        return self.path

    def read(self) -> Trace:
        trace = nsys.read(self.write())
        trace.check()
        return trace


@pytest.fixture
def export(tmp_path: Path) -> Export:
    return Export(tmp_path / "run #1?100%.sqlite")  # characters that mean something in a URI


def names(trace: Trace, table: DeviceWork | Annotations) -> list[str]:
    return [trace.names[i] for i in table.name]


def test_kernels_are_joined_to_their_launches_and_operators(export: Export) -> None:
    export.range(0, 100, "aten::linear, seq = 4, op_id = 8, sizes = [[2, 3], [4, 3], []], input_op_ids = [(7,0)]")
    export.range(10, 60, "aten::addmm, seq = 4, op_id = 9")
    export.launch(20, 25, 5)
    export.kernel(30, 90, 5)
    trace = export.read()
    ops = trace.host_ops
    assert [trace.names[i] for i in ops.name] == ["aten::linear", "aten::addmm"]
    assert ops.parent.tolist() == [-1, 0] and ops.self_ns.tolist() == [50, 50]
    assert ops.sequence.tolist() == [4, 4] and ops.record_function.tolist() == [8, 9]
    assert trace.signatures[ops.signature[0]].dims == ((2, 3), (4, 3), ()) and ops.signature[1] == -1
    assert trace.with_shapes and trace.kernels.op.tolist() == [1] and trace.kernels.launch.tolist() == [0]
    assert names(trace, trace.kernels) == ["void gemm<float>(float *, int)"]
    assert trace.names[trace.runtime_calls.name[0]] == "cudaLaunchKernel"  # without nsys's version
    shape = trace.launch_shapes[trace.kernels.launch_shape[0]]
    assert (shape.grid, shape.block, shape.registers_per_thread, shape.shared_bytes) == ((8, 1, 1), (128, 1, 1), 32, 64)
    assert (trace.threads[0].process, trace.threads[0].id) == ("7", "7")


def test_of_several_processes_the_busiest_is_read_and_the_others_are_named(export: Export) -> None:
    for pid, count in ((7, 1), (9, 2)):
        for i in range(count):
            export.launch(10 * i, 10 * i + 1, correlation=i + 1, pid=pid)  # the same numbers in both processes
            export.kernel(10 * i + 2, 10 * i + 5, correlation=i + 1, pid=pid)
    path = export.write()
    assert [(p.pid, p.device_work, p.events) for p in nsys.processes(path)] == [(7, 1, 2), (9, 2, 4)]
    trace = nsys.read(path)
    assert len(trace.kernels) == 2 and trace.threads[0].process == "9"
    assert "2 processes in the export: process 9 with 2 device activities was read, those of 7 were not" in (
        trace.warnings
    )
    assert len(nsys.read(path, process=7).kernels) == 1
    with pytest.raises(UsageError, match="has no events of process 8; it has those of 7, 9"):
        nsys.read(path, process=8)


rows = st.lists(
    st.tuples(st.sampled_from([7, 9, 11]), st.integers(0, 6), st.integers(0, 1000), st.integers(0, 50)), max_size=30
)


@settings(max_examples=40)
@given(kernels=rows, launches=rows)
def test_the_join_is_that_of_plain_sql(
    tmp_path_factory: pytest.TempPathFactory, kernels: list[tuple[int, ...]], launches: list[tuple[int, ...]]
) -> None:
    export = Export(tmp_path_factory.mktemp("nsys") / "a.sqlite")
    seen: set[tuple[int, int]] = set()
    for pid, correlation, start, duration in launches:
        if (pid, correlation) not in seen:  # a process numbers its calls once
            export.launch(start, start + duration, correlation, pid=pid)
            seen.add((pid, correlation))
    for pid, correlation, start, duration in kernels:
        export.kernel(start, start + duration, correlation, pid=pid)
    path = export.write()
    with closing(sqlite3.connect(path)) as connection:
        expected = connection.execute(
            "SELECT k.globalPid >> 24 & 0xFFFFFF, k.start, r.start FROM CUPTI_ACTIVITY_KIND_KERNEL k LEFT JOIN "
            "CUPTI_ACTIVITY_KIND_RUNTIME r ON r.correlationId = k.correlationId AND "
            "r.globalTid >> 24 = k.globalPid >> 24"
        ).fetchall()
    found: list[tuple[int, int, int | None]] = []
    for process in nsys.processes(path):
        trace = nsys.read(path, process.pid)
        for row, launch in enumerate(trace.kernels.launch.tolist()):
            began = None if launch < 0 else int(trace.runtime_calls.start_ns[launch]) + trace.start_unix_ns
            found.append((process.pid, int(trace.kernels.start_ns[row]) + trace.start_unix_ns, began))
    assert sorted(found, key=str) == sorted(expected, key=str)


def test_copies_and_memsets_are_named_as_kineto_names_them(export: Export) -> None:
    export.copy(0, 5, 1, (1, 0, 2), size=400)
    export.copy(10, 15, 2, (2, 2, 1))
    export.copy(20, 25, 3, (8, 2, 2))
    export.copy(30, 35, 4, (11, 4, 2))
    export.add(nsys.SETS, 40, 45, 0, 7, 5, gid(7), 64, 2)
    trace = export.read()
    assert names(trace, trace.copies) == [
        "Memcpy HtoD (Pageable -> Device)", "Memcpy DtoH (Device -> Pinned)", "Memcpy DtoD (Device -> Device)",
        "Memcpy HtoD (Managed -> Device)", "Memset (Device)",
    ]  # fmt: skip
    assert trace.copies.crosses_bus.tolist() == [True, True, False, True, False]
    assert trace.copies.bytes.tolist() == [400, 4, 4, 4, 64]


def test_the_exports_own_enumerations_win(export: Export) -> None:
    export.copy(0, 5, 1, (1, 0, 2))
    export.more = (
        "CREATE TABLE ENUM_CUDA_MEMCPY_OPER (id INTEGER, name TEXT, label TEXT);"
        "CREATE TABLE ENUM_CUDA_MEM_KIND (id INTEGER, name TEXT, label TEXT);"
    )
    export.add("ENUM_CUDA_MEMCPY_OPER", 1, "CUDA_MEMCPY_KIND_DTOH", "Device-to-Host")
    export.add("ENUM_CUDA_MEM_KIND", 0, "CUDA_MEMOPR_MEMORY_KIND_DEVICE", "Device")
    trace = export.read()
    assert names(trace, trace.copies) == ["Memcpy DtoH (Device -> Unknown)"]


def test_work_of_graphs_is_marked(export: Export) -> None:
    export.kernel(0, 5, 1)
    export.kernel(10, 15, 2, graph=0, node=0)  # how older exports write "none"
    export.kernel(20, 25, 3, graph=12, node=99)
    export.kernel(30, 35, 3, node=98)
    trace = export.read()
    assert trace.kernels.graph.tolist() == [-1, -1, 12, 0] and trace.quality.replayed == 2


def test_graphs_recorded_as_a_whole_are_device_work(export: Export) -> None:
    export.launch(0, 5, 1)
    export.more = (
        'CREATE TABLE CUPTI_ACTIVITY_KIND_GRAPH_TRACE (start INTEGER, "end" INTEGER, deviceId INTEGER, '
        "streamId INTEGER, correlationId INTEGER, globalPid INTEGER, graphId INTEGER);"
    )
    export.add(nsys.GRAPHS, 10, 90, 0, 7, 1, gid(7), 3)
    trace = export.read()
    assert names(trace, trace.kernels) == ["CUDA graph 3"] and trace.kernels.graph.tolist() == [3]
    assert trace.kernels.duration_ns.tolist() == [80] and trace.kernels.launch.tolist() == [0]
    assert any("--cuda-graph-trace=node" in warning for warning in trace.warnings)


def test_ranges_of_the_user_are_annotations(export: Export) -> None:
    export.range(0, 100, "forward")
    export.range(10, 20, "FSDP::pre_forward (a, b), op_id = 12")
    export.range(20, 30, None, text_id=4)
    export.range(30, 70, "late", kind=60)
    export.range(40, 50, "ncclAllReduce", domain=1)
    export.range(40, 50, "anything", domain=2)
    export.range(0, None, "NCCL", kind=75, domain=1)
    export.range(60, None, "mark", kind=34)
    export.range(80, None, "never closed")
    trace = export.read()
    assert sorted(names(trace, trace.annotations)) == [
        "FSDP::pre_forward (a, b)", "NCCL: ncclAllReduce", "domain 2: anything", "forward", "late", "registered",
    ]  # fmt: skip
    assert len(trace.host_ops) == 0 and trace.quality.events == 7 and trace.quality.dropped == 0
    assert any("1 NVTX ranges were open" in warning for warning in trace.warnings)


@pytest.mark.parametrize(
    ("text", "name", "operator", "sequence", "number"),
    [
        ("aten::mm, seq = 12, op_id = 3", "aten::mm", True, 12, 3),
        ("aten::view, op_id = 314290", "aten::view", True, -1, 314290),
        ("AddmmBackward0, seq = 12, op_id = 3", "AddmmBackward0", True, 12, 3),
        ("detach_, op_id = 5", "detach_", True, -1, 5),
        ("Optimizer.step#SGD.step, op_id = 5", "Optimizer.step#SGD.step", False, -1, 5),
        ("my range, really", "my range, really", False, -1, -1),
        ("a, seq = x", "a, seq = x", False, -1, -1),
        ("aten::mm", "aten::mm", False, -1, -1),  # without a number it is not of emit_nvtx
    ],
)
def test_the_text_of_a_range(text: str, name: str, operator: bool, sequence: int, number: int) -> None:
    found = parse(text)
    assert (found.name, found.operator, found.sequence, found.record_function) == (name, operator, sequence, number)


@given(
    name=st.sampled_from(["aten::mm", "aten::_foreach_add_", "autograd::engine::evaluate_function: MmBackward0"]),
    sequence=st.integers(-1, 10**9),
    number=st.integers(0, 10**9),
    sizes=st.lists(st.lists(st.integers(0, 10**6), max_size=4), max_size=5),
)
def test_what_torch_writes_is_read_back(name: str, sequence: int, number: int, sizes: list[list[int]]) -> None:
    text = name + (f", seq = {sequence}" if sequence >= 0 else "") + (f", op_id = {number}" if number else "")
    text += f", sizes = {sizes}, input_op_ids = [(1,0), (2,1)]" if sizes else ""
    found = parse(text)
    assert found.name == name and found.sequence == sequence and found.record_function == (number or -1)
    assert (found.signature.dims if found.signature else ()) == tuple(tuple(size) for size in sizes)


def steps_of(export: Export, *ranges: tuple[int, int, str]) -> list[tuple[int, int]]:
    for start, end, text in ranges:
        export.range(start, end, text)
    steps = export.read().steps
    return list(zip(steps.number.tolist(), steps.duration_ns.tolist(), strict=True))


def test_steps_marked_as_torch_marks_them(export: Export) -> None:
    assert steps_of(export, (0, 9, "ProfilerStep#4"), (0, 100, "step 1"), (100, 200, "step 2")) == [(4, 9)]


@pytest.mark.parametrize("name", ["step {}", "iteration {}", "train_step_{}", "TrainStep{}", "Iter[{}]"])
def test_steps_marked_by_the_user(export: Export, name: str) -> None:
    assert steps_of(export, (0, 9, name.format(8)), (10, 20, name.format(9))) == [(8, 9), (9, 10)]


@pytest.mark.parametrize(
    "ranges",
    [
        [(0, 9, "step 1")],  # one is no series
        [(0, 9, "step 1"), (8, 20, "step 2")],  # they overlap
        [(0, 9, "step 2"), (10, 20, "step 1")],  # they do not grow
        [(0, 9, "step 1"), (10, 20, "step 1")],
        [(0, 9, "layer 1"), (10, 20, "layer 2")],  # nothing says that they are steps
        [(0, 9, "stepper 1"), (10, 20, "stepper 2")],
    ],
)
def test_what_is_no_series_of_steps(export: Export, ranges: list[tuple[int, int, str]]) -> None:
    assert steps_of(export, *ranges) == []


def test_of_two_series_the_longer_marks_the_steps(export: Export) -> None:
    inner = [(10 * i, 10 * i + 3, f"sub step {i}") for i in range(4)]
    outer = [(0, 15, "step 0"), (20, 40, "step 1")]
    assert steps_of(export, *inner, *outer) == [(0, 15), (1, 20)]


GPUS = (
    "CREATE TABLE TARGET_INFO_GPU (id INTEGER, name TEXT, computeMajor INTEGER, computeMinor INTEGER, "
    "smCount INTEGER, totalMemory INTEGER);"
    "CREATE TABLE TARGET_INFO_CUDA_DEVICE (gpuId INTEGER, cudaId INTEGER, pid INTEGER);"
    "CREATE TABLE TARGET_INFO_SESSION_START_TIME (utcEpochNs INTEGER);"
)


def test_the_device_is_the_one_that_worked_most(export: Export) -> None:
    export.more = GPUS
    export.add("TARGET_INFO_GPU", 0, "NVIDIA A", 8, 0, 108, 40)
    export.add("TARGET_INFO_GPU", 1, "NVIDIA B", 9, 0, 132, 80)
    export.add("TARGET_INFO_CUDA_DEVICE", 1, 0, 7)  # the process sees GPU 1 as its device 0
    export.add("TARGET_INFO_SESSION_START_TIME", 1_000_000)
    export.kernel(50, 60, 1)
    trace = export.read()
    assert (trace.device.name, trace.device.compute_capability, trace.device.sm_count) == ("NVIDIA B", "9.0", 132)
    assert trace.device.memory_bytes == 80 and trace.start_unix_ns == 1_000_050


def test_a_device_that_cannot_be_told_is_unknown(export: Export) -> None:
    export.more = GPUS
    export.add("TARGET_INFO_GPU", 0, "NVIDIA A", 8, 0, 108, 40)
    export.add("TARGET_INFO_GPU", 1, "NVIDIA B", 9, 0, 132, 80)
    export.kernel(50, 60, 1)
    trace = export.read()
    assert (trace.device.kind, trace.device.name, trace.device.sm_count) == ("cuda", "unknown device", None)
    assert any("does not say which GPU" in warning for warning in trace.warnings)


def test_work_on_several_devices_keeps_its_device(export: Export) -> None:
    export.kernel(0, 10, 1, device=0)
    export.kernel(5, 15, 2, device=3)
    trace = export.read()
    assert trace.kernels.device.tolist() == [0, 3]
    assert any("used 2 GPUs" in warning for warning in trace.warnings)


def test_rows_that_cannot_be_are_counted(export: Export) -> None:
    export.kernel(0, 10, 1)
    export.kernel(10, 5, 2)
    export.add(nsys.RUNTIME, None, 5, gid(7, 7), 1, 3)
    trace = export.read()
    assert len(trace.kernels) == 1 and trace.quality.dropped == 2 and trace.quality.events == 3


def test_rows_are_read_in_pieces(export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nsys_database, "CHUNK", 3)
    monkeypatch.setattr(nsys_database, "IDS", 2)
    for i in range(10):
        export.kernel(10 * i, 10 * i + 5, i)
        export.range(10 * i, 10 * i + 5, f"aten::mm, seq = {i}, op_id = {i + 1}")
        export.add("StringIds", 100 + i, f"text {i}")
        export.range(10 * i, 10 * i + 5, None, text_id=100 + i)
    trace = export.read()
    assert len(trace.kernels) == 10 and trace.host_ops.sequence.tolist() == list(range(10))
    assert names(trace, trace.annotations) == [f"text {i}" for i in range(10)]


def test_an_export_with_few_tables_and_columns(tmp_path: Path) -> None:
    path = tmp_path / "few.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute('CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER, "end" INTEGER)')
        connection.execute("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (5, 9)")
    trace = nsys.read(path)
    assert names(trace, trace.kernels) == ["unknown"] and trace.kernels.duration_ns.tolist() == [4]
    assert trace.kernels.launch_shape.tolist() == [-1] and trace.kernels.device.tolist() == [-1]


def test_an_export_without_gpu_work_says_how_to_record_it(tmp_path: Path) -> None:
    path = tmp_path / "cpu.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE META_DATA_EXPORT (name TEXT, value TEXT)")
    assert any("nsys profile --trace=cuda,nvtx" in warning for warning in nsys.read(path).warnings)


def test_tables_that_do_not_tell_the_process(tmp_path: Path) -> None:
    export = Export(tmp_path / "a.sqlite")
    export.more = "ALTER TABLE CUPTI_ACTIVITY_KIND_MEMSET DROP COLUMN globalPid;"
    export.kernel(0, 5, 1, pid=7)
    export.kernel(0, 5, 1, pid=9)
    export.add(nsys.SETS, 0, 5, 0, 7, 1, 64, 2)
    assert any("CUPTI_ACTIVITY_KIND_MEMSET does not tell its process" in w for w in export.read().warnings)


def damaged(path: Path) -> None:
    export = Export(path)
    for i in range(3000):
        export.kernel(i, i + 1, i)
    export.write()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def other(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE users (id INTEGER)")


def old(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (timestamp INTEGER)")


def wordy(path: Path) -> None:
    export = Export(path)
    export.add(nsys.RUNTIME, "soon", 5, gid(7, 7), 1, 3)
    export.write()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b'{"traceEvents": []}'), "not an SQLite database"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: None, "cannot be read"),
        (damaged, "damaged"),
        (other, "not of Nsight Systems"),
        (old, "no column start or end"),
        (wordy, "text where numbers belong"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, make: object, message: str) -> None:
    path = tmp_path / "a.sqlite"
    make(path)  # type: ignore[operator]  # each is called with the path
    with pytest.raises(TraceError, match=message) as error:
        nsys.read(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_report_is_told_how_to_become_an_export(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"nsys export --type sqlite .*run\.nsys-rep"):
        nsys.read(tmp_path / "run.nsys-rep")


def test_a_file_that_is_being_written(export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nsys_database, "_WAIT_S", 0.01)
    path = export.write()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TraceError, match="another program is writing to it"):
            nsys.read(path)


def test_reading_changes_nothing(export: Export) -> None:
    path = export.write()
    before = path.read_bytes()
    nsys.read(path)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


@pytest.fixture
def samples(foreign_traces: Path) -> Path:
    """Exports made by others; the test is skipped where they are not at hand."""
    folder = foreign_traces.parent / "samples" / "nsys"
    if not folder.is_dir():
        pytest.skip("no folder samples/nsys beside the traces recorded by others")
    return folder


TOTALS = 'SELECT count(*), coalesce(sum("end" - start), 0) FROM {} WHERE "{}" >> 24 & 0xFFFFFF = ?'


@pytest.mark.parametrize("name", ["h100_2gpu_1s", "mfu_2gpu_before"])
def test_totals_of_real_exports_are_those_of_plain_sql(samples: Path, name: str) -> None:
    path = samples / f"{name}.sqlite"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        for process in nsys.processes(path):
            trace = nsys.read(path, process.pid)
            trace.check()
            expected = [
                connection.execute(TOTALS.format(table, column), (process.pid,)).fetchone()
                for table, column in (
                    (nsys.KERNELS, "globalPid"), (nsys.COPIES, "globalPid"), (nsys.SETS, "globalPid"),
                    (nsys.RUNTIME, "globalTid"), (nsys.RANGES, "globalTid"),
                )
            ]  # fmt: skip
            kernels, copies, calls = trace.kernels, trace.copies, trace.runtime_calls
            ranges = [trace.host_ops, trace.annotations]
            assert (len(kernels), int(kernels.duration_ns.sum())) == expected[0]
            assert (len(copies), int(copies.duration_ns.sum())) == tuple(np.add(expected[1], expected[2]).tolist())
            assert (len(calls), int((calls.end_ns - calls.start_ns).sum())) == expected[3]
            spent = sum(int((r.end_ns - r.start_ns).sum()) for r in ranges)
            assert (sum(map(len, ranges)), spent) == expected[4] and trace.quality.clamped == 0
            joined = connection.execute(
                f"SELECT count(*) FROM {nsys.KERNELS} k JOIN {nsys.RUNTIME} r ON r.correlationId = k.correlationId "
                "AND r.globalTid >> 24 = k.globalPid >> 24 WHERE k.globalPid >> 24 & 0xFFFFFF = ?",
                (process.pid,),
            ).fetchone()[0]
            assert int((kernels.launch >= 0).sum()) == joined


def test_a_real_export_names_operators_and_copies(samples: Path) -> None:
    trace = nsys.read(samples / "mfu_2gpu_before.sqlite")
    assert {"aten::linear", "c10d::alltoall_base_", "FlashAttnFunc"} <= {trace.names[i] for i in trace.host_ops.name}
    assert "Memcpy HtoD (Pageable -> Device)" in names(trace, trace.copies)
    assert int((trace.host_ops.sequence >= 0).sum()) > 0
    assert trace.device.name == "unknown device"  # the table of GPUs is not in this file


def test_an_export_that_tells_no_process(samples: Path) -> None:
    trace = nsys.read(samples / "healthy_1pct.sqlite")
    assert len(trace.kernels) == 400 and trace.quality.unlaunched == 0
    assert trace.device.name == "NVIDIA H100 80GB HBM3"
