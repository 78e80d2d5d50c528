"""Execution traces: one recorded here by torch and joined to the Kineto trace beside it, and others made by hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ExecutionTraceObserver, ProfilerActivity, profile

from probe.errors import TraceError
from probe.machine.device import Device
from probe.readers import assemble, execution_trace, kineto
from probe.readers.events import About, CollectiveEvents, Events, OpEvents, RuntimeEvents, WorkEvents, empty
from probe.trace import Annotations, Trace

SCHEMA = "1.1.1-chakra.0.0.4"
ONE, TWO = [5, 6, 0, 16, 4, "cpu"], [7, 6, 8, 8, 4, "cuda:0"]


def node(number: int, name: str, inputs: list[Any], outputs: list[Any]) -> dict[str, Any]:
    described = {"shapes": [], "types": [], "strides": []}
    attrs = [{"name": "seq_id", "type": "int64", "value": -1}, {"name": "rf_id", "type": "uint64", "value": number}]
    return {
        "id": number + 100, "name": name, "ctrl_deps": 1, "attrs": attrs,
        "inputs": {"values": inputs, **described}, "outputs": {"values": outputs, **described},
    }  # fmt: skip


def document(*nodes: dict[str, Any], schema: str = SCHEMA) -> str:
    return json.dumps({"schema": schema, "pid": 1, "nodes": list(nodes)})


def write(folder: Path, text: str | bytes, name: str = "et.json") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def trace_of(*ops: tuple[str, int]) -> Trace:
    """A trace of operators (name, number), one after another."""
    count = len(ops)
    numbers, zeros = np.arange(count, dtype=np.int64), np.zeros(count, np.int32)
    names = tuple(dict.fromkeys(name for name, _ in ops))
    events = Events(
        names=names, signatures=(), threads=(), launch_shapes=(), collective_calls=(),
        ops=OpEvents(
            name=np.array([names.index(name) for name, _ in ops], np.int32), thread=zeros, start_ns=10 * numbers,
            end_ns=10 * numbers + 5, signature=zeros - 1, external_id=numbers, sequence=zeros - 1,
            record_function=np.array([number for _, number in ops], np.int64), forward_thread=zeros - 1,
        ),
        runtime=empty(RuntimeEvents), kernels=empty(WorkEvents), copies=empty(WorkEvents),
        annotations=empty(Annotations), collectives=empty(CollectiveEvents),
    )  # fmt: skip
    return assemble.trace(events, About("made.json", Device("cpu", "CPU")))


def test_tensors_are_joined_by_number(tmp_path: Path) -> None:
    path = write(tmp_path, document(
        node(0, "[pytorch|profiler|execution_trace|thread]", [], []),
        node(2, "aten::add", [ONE, TWO, 1], [TWO]),
        node(1, "aten::cat", [[ONE, TWO], 0, [1, 2, 3, 4, 5, 6]], [ONE]),
        node(9, "Optimizer.step", [ONE], []),
    ))  # fmt: skip
    found = execution_trace.join(
        trace_of(("aten::cat", 1), ("aten::add", 2), ("aten::mm", 3)), execution_trace.read(path)
    )
    uses = found.uses
    assert uses.op.tolist() == [0, 0, 0, 1, 1, 1]
    assert uses.argument.tolist() == [0, 0, 0, 0, 1, 0] and uses.item.tolist() == [0, 1, 0, 0, 0, 0]
    assert uses.is_output.tolist() == [False, False, True, False, False, True]
    assert uses.tensor.tolist() == [5, 7, 5, 5, 7, 7] and set(uses.storage.tolist()) == {6}
    assert uses.offset.tolist() == [0, 8, 0, 0, 8, 8] and uses.elements.tolist() == [16, 8, 16, 16, 8, 8]
    assert [found.devices[i] for i in uses.device] == ["cpu", "cuda:0", "cpu", "cpu", "cuda:0", "cuda:0"]
    assert (found.matched, found.unmatched_ops, found.unmatched_nodes) == (2, 1, 1)


def test_gzip_and_the_oldest_schema(tmp_path: Path) -> None:
    old = {"id": 3, "name": "aten::add", "rf_id": 4, "inputs": [ONE, 1], "outputs": [TWO], "op_schema": ""}
    path = write(tmp_path, gzip.compress(document(old, schema="1.0.1").encode()), "et.json.gz")
    found = execution_trace.read(path)
    assert found.schema == "1.0.1" and found.record_function.tolist() == [4] and found.uses.tensor.tolist() == [5, 7]


def test_a_recording_of_another_run_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, document(node(1, "aten::mm", [], []), node(2, "aten::add", [], [])))
    with pytest.raises(TraceError, match=r"1 of 2 calls have other names in made\.json: the two are of different runs"):
        execution_trace.join(trace_of(("aten::mm", 1), ("aten::mul", 2)), execution_trace.read(path))


def test_a_few_other_names_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, document(*(node(i, "aten::mm", [ONE], []) for i in range(1, 201))))
    ops = [("aten::mm", i) for i in range(1, 200)] + [("aten::add", 200)]
    found = execution_trace.join(trace_of(*ops), execution_trace.read(path))
    assert (found.matched, found.unmatched_ops, found.unmatched_nodes) == (199, 1, 1)
    assert len(found.uses) == 199 and any("1 calls have another name" in w for w in found.warnings)


def test_numbers_that_occur_twice_are_left_out(tmp_path: Path) -> None:
    recording = execution_trace.read(write(tmp_path, document(*(node(n, "a", [ONE], []) for n in (1, 1, 2, 3)))))
    found = execution_trace.join(trace_of(("a", 1), ("a", 2), ("a", 3), ("a", 3)), recording)
    assert found.matched == 1 and found.uses.op.tolist() == [1]
    assert any("2 nodes of the execution trace share" in warning for warning in found.warnings)


def test_a_trace_without_numbers_says_how_to_record_them(tmp_path: Path) -> None:
    recording = execution_trace.read(write(tmp_path, document(node(1, "a", [ONE], []))))
    found = execution_trace.join(trace_of(("a", -1), ("a", -1)), recording)
    assert found.matched == 0 and len(found.uses) == 0
    assert any("execution_trace_observer=" in warning for warning in found.warnings)


def test_what_can_be_read_of_a_damaged_file_is_kept(tmp_path: Path) -> None:
    text = document(node(1, "aten::mm", [ONE], []), node(2, 'a"b', [ONE], []), node(3, "aten::mm", [TWO], []))
    unescaped = execution_trace.read(write(tmp_path, text.replace(r"a\"b", 'a"b')))
    assert unescaped.record_function.tolist() == [1, 3] and unescaped.dropped == 1
    cut = execution_trace.read(write(tmp_path, text[: text.index('"name": "aten::mm", "ctrl_deps"', 300)]))
    assert cut.record_function.tolist() == [1, 2] and cut.dropped == 1
    assert any("cut or has names with quotation marks" in warning for warning in cut.warnings)


def test_nodes_that_make_no_sense_are_counted(tmp_path: Path) -> None:
    broken = [{"id": 1}, 5, node(1, "a", [[1, 2, 2**70, 1, 4, "cpu"]], []), {**node(2, "b", [], []), "inputs": 7}]
    found = execution_trace.read(write(tmp_path, document(*broken)))  # type: ignore[arg-type]  # a number among nodes
    assert found.names == ("a",) and len(found.uses) == 0 and found.dropped == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"traceEvents": []}', "not an execution trace"),
        (b"", "not an execution trace"),
        (document(schema="2.0.0").encode(), "schema '2.0.0'; probe reads 1.0.x and 1.1.x"),
        (b'{"schema": "1.1.1", "nodes": 5}', "without a list of nodes"),
        (gzip.compress(b'{"schema": "1.1.1"}' * 99, mtime=0)[:20], "gzip|not an execution trace"),
    ],
)
def test_a_file_that_is_no_execution_trace_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(TraceError, match=message) as error:
        execution_trace.read(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such file"):
        execution_trace.read(tmp_path / "none.json")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Kineto trace and the execution trace of the same two steps."""
    folder = tmp_path_factory.mktemp("recorded")
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)
    observer = ExecutionTraceObserver().register_callback(str(folder / "et.json"))
    data = torch.randn(10, 8)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, execution_trace_observer=observer) as made:
        for _ in range(2):
            model(torch.cat([data[:3], data[3:]])).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    made.export_chrome_trace(str(folder / "kineto.json"))
    return folder


def test_torch_records_what_is_read(recorded: Path) -> None:
    trace, recording = kineto.read(recorded / "kineto.json"), execution_trace.read(recorded / "et.json")
    found = execution_trace.join(trace, recording)
    names = [trace.names[i] for i in trace.host_ops.name]
    assert recording.dropped == 0 and found.unmatched_ops == 0 and found.matched == len(names)
    assert set(found.devices) == {"cpu"} and found.warnings == ()
    uses, cat = found.uses, names.index("aten::cat")
    parts = uses.where((uses.op == cat) & ~uses.is_output)
    assert parts.item.tolist() == [0, 1] and parts.elements.tolist() == [24, 56] and parts.offset.tolist() == [0, 24]
    assert len(set(parts.storage.tolist())) == 1 and len(set(parts.tensor.tolist())) == 2
    out = int(uses.tensor[(uses.op == cat) & uses.is_output][0])
    product = uses.where((uses.op == names.index("aten::addmm")) & ~uses.is_output)
    assert product.tensor[1] == out and product.argument.tolist() == [0, 1, 2]  # the product reads what cat wrote


def test_the_tensors_have_the_recorded_shapes(recorded: Path) -> None:
    """The oracle: Kineto wrote the sizes of the same arguments down on its own."""
    trace = kineto.read(recorded / "kineto.json")
    uses = execution_trace.join(trace, execution_trace.read(recorded / "et.json")).uses
    checked = 0
    for op, argument, item, is_output, elements in zip(
        *(column.tolist() for column in (uses.op, uses.argument, uses.item, uses.is_output, uses.elements)), strict=True
    ):
        if not is_output and trace.host_ops.signature[op] >= 0:
            dims = trace.signatures[trace.host_ops.signature[op]].dims[argument]
            dims = dims[item] if dims and isinstance(dims[0], tuple) else dims
            assert int(np.prod(dims, dtype=np.int64)) == elements
            checked += 1
    assert checked > 100
