"""Operators are grouped by name and arguments, and their times add up to the trace's."""

from pathlib import Path

import numpy as np
import pytest
from builders import GPU, copy, gpu_step, kernel, launch, op, shapes, step, write
from real_traces import trace_in

from probe.analyzers.operators.op_table import dtypes_text, group_operators, operators, shapes_text
from probe.analyzers.operators.steps import busy_fraction, recorded_steps, step_of
from probe.readers.kineto import read
from probe.results.analysis import Operator
from probe.trace import Signature, Trace


def table(trace: Trace) -> list[Operator]:
    """The rows of the report, most time first."""
    steps = recorded_steps(trace)
    rows = [row for _, row in operators(group_operators(trace, steps), steps, trace.on_device)]
    return sorted(rows, key=lambda row: -row.share_fraction)


def test_calls_with_the_same_arguments_are_one_row_per_step(tmp_path: Path) -> None:
    events = [step(1, 0, 100), step(2, 100, 100)]
    events += [op("aten::mm", t, 10, **shapes([4, 4], [4, 4])) for t in (10, 110, 130)]
    events += [op("aten::mm", 50, 30, **shapes([8, 8], [8, 8]))]
    rows = table(read(write(tmp_path, events)))
    assert [(r.shapes, r.calls, r.self_s) for r in rows] == [
        ("[4, 4] × [4, 4]", 1.5, pytest.approx(15e-6)),
        ("[8, 8] × [8, 8]", 0.5, pytest.approx(15e-6)),
    ]
    assert rows[0].spread_s == pytest.approx(10e-6)
    assert rows[0].share_fraction == pytest.approx(0.15)


def test_device_time_goes_to_the_innermost_operator(tmp_path: Path) -> None:
    rows = {r.name: r for r in table(read(write(tmp_path, gpu_step(), deviceProperties=GPU)))}
    assert rows["aten::addmm"].device_s == pytest.approx(30e-6)
    assert rows["aten::linear"].device_s == 0
    assert rows["aten::copy_"].device_s == pytest.approx(8e-6)
    assert rows["aten::addmm"].kernels[0].name == "sgemm"
    assert next(iter(rows)) == "aten::addmm"


def test_work_outside_every_step_is_counted_and_left_out(tmp_path: Path) -> None:
    events = [*gpu_step(), kernel("early", 1, 2, 999), op("late", 200, 5), launch(50, 201), kernel("late", 210, 5, 50)]
    trace = read(write(tmp_path, events, deviceProperties=GPU))
    groups = group_operators(trace, recorded_steps(trace))
    assert groups.excluded_work == 2
    assert not any(r.name == "late" for r in table(trace))


def test_work_that_no_operator_launched_is_named_after_its_kernel(tmp_path: Path) -> None:
    events = [step(1, 0, 100), op("x", 1, 1), launch(5, 10), kernel("triton_fused", 20, 10, 5)]
    rows = table(read(write(tmp_path, events, deviceProperties=GPU)))
    assert rows[0].name == "triton_fused"
    assert rows[0].calls == 1
    assert rows[0].device_s == pytest.approx(10e-6)


def test_without_marks_the_span_is_one_step(tmp_path: Path) -> None:
    trace = read(write(tmp_path, [op("a", 10, 5), op("b", 30, 10)]))
    steps = recorded_steps(trace)
    assert steps.duration_ns.tolist() == [30_000]
    assert [r.share_fraction for r in table(trace)] == [pytest.approx(1 / 3), pytest.approx(1 / 6)]


def test_an_instant_belongs_to_the_step_it_lies_in(tmp_path: Path) -> None:
    trace = read(write(tmp_path, [step(1, 0, 10), step(2, 20, 10)]))
    asked = np.array([0, 9_999, 10_000, 15_000, 20_000, 30_000])
    assert step_of(trace.steps, asked).tolist() == [0, 0, -1, -1, 1, -1]


def test_busy_time_counts_overlapping_work_once(tmp_path: Path) -> None:
    events = [step(1, 0, 100), kernel("a", 10, 20, 1), kernel("b", 20, 20, 2, stream=8), copy("c", 90, 50, 3, 4)]
    trace = read(write(tmp_path, events, deviceProperties=GPU))
    assert busy_fraction(trace, trace.steps) == pytest.approx(0.4)


def test_real_traces_lose_no_host_time(foreign_traces: Path) -> None:
    """Self times of all operators that start in a step add up to the table's."""
    for path in sorted(foreign_traces.rglob("*.json.gz")):
        trace = trace_in(path)
        steps = recorded_steps(trace)
        inside = step_of(steps, trace.host_ops.start_ns) >= 0
        expected = trace.host_ops.self_ns[inside].sum() / 1e9 / len(steps)
        assert sum(r.self_s for r in table(trace)) == pytest.approx(expected), path


@pytest.mark.parametrize(
    ("signature", "sizes", "dtypes"),
    [
        (Signature(((2, 3), ()), ("float", "Scalar")), "[2, 3]", "float"),
        (Signature(((), (4,)), ("float", "c10::BFloat16")), "[] × [4]", "float, c10::BFloat16"),
        (Signature((((5, 5), (5, 5)), ()), ("GenericList", "Int")), "2 × [5, 5]", ""),
        (Signature((((5, 5), (6,)),), ("TensorList",)), "2 tensors", ""),
        (Signature(((),), ("",)), "", ""),
    ],
)
def test_arguments_in_words(signature: Signature, sizes: str, dtypes: str) -> None:
    assert (shapes_text(signature), dtypes_text(signature)) == (sizes, dtypes)
