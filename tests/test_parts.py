"""Each instant of a step is counted once, on what the step waits for; parts add up, on any trace."""

from pathlib import Path

import numpy as np
import pytest
from builders import GPU, copy, event, gpu_step, kernel, launch, op, shapes, step, write
from hypothesis import given, settings
from hypothesis import strategies as st

import probe
from probe.analysis import PARTS, Bound
from probe.analyzers.op_table import group_operators
from probe.analyzers.parts import exclusive, partition, recording_shares, without_profiler
from probe.analyzers.steps import recorded_steps
from probe.readers.kineto import read
from probe.trace import Trace

DISPATCH_S = 2e-6


def parts(trace: Trace, bounds: dict[str, Bound]) -> dict[str, float]:
    """Microseconds per part of a trace's first step; `bounds` by operator name, "unknown" for others."""
    steps = recorded_steps(trace)
    groups = group_operators(trace, steps)
    table = partition(trace, steps, groups, tuple(bounds.get(n, "unknown") for n in groups.name), DISPATCH_S)
    return {part: round(float(table.of(part)[0]) * 1e6, 3) for part in PARTS if table.of(part)[0]}


def test_a_cpu_step_is_its_operators_and_the_gaps_between_them(tmp_path: Path) -> None:
    events = [step(1, 0, 200), op("big", 10, 50), op("inner", 20, 10), op("small", 65, 5), op("late", 150, 20)]
    found = parts(read(write(tmp_path, events)), {"big": "memory", "inner": "compute", "small": "overhead"})
    # Gaps: 0-10 and 60-65 are no longer than five dispatches, 70-150 and 170-200 are.
    assert found == {"compute": 10, "memory": 40, "overhead": 5 + 10 + 5, "host": 80 + 30, "unknown": 20}


def test_other_threads_do_not_count_on_a_cpu(tmp_path: Path) -> None:
    events = [step(1, 0, 100), op("main", 0, 100), op("worker", 10, 50, tid=2)]
    assert parts(read(write(tmp_path, events)), {"main": "compute", "worker": "memory"}) == {"compute": 100}


def test_the_wait_for_the_loader_is_the_host_whatever_runs_in_it(tmp_path: Path) -> None:
    loader = event("user_annotation", "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", 0, 60)
    events = [step(1, 0, 100), loader, op("aten::stack", 20, 10), op("aten::mm", 60, 40)]
    assert parts(read(write(tmp_path, events)), {"aten::mm": "compute"}) == {"host": 60, "compute": 40}


def test_a_gpu_step_is_its_kernels_then_what_they_wait_for(tmp_path: Path) -> None:
    trace = read(write(tmp_path, gpu_step(), deviceProperties=GPU))
    found = parts(trace, {"aten::addmm": "compute", "aten::add": "memory"})
    # Kernels 20-50 and 52-57, the copy from the host 60-68; before, between and after them the host dispatches
    # (operators until 65, short gaps) or does something else (68-100).
    assert found == {"compute": 30, "memory": 5, "host": 8 + 32, "overhead": 25}


def test_communication_counts_where_nothing_computes(tmp_path: Path) -> None:
    events = [
        step(1, 0, 100),
        op("aten::mm", 0, 5),
        launch(1, 1),
        kernel("gemm", 10, 40, 1),
        op("record_param_comms", 6, 5),
        launch(2, 7),
        kernel("ncclDevKernel_AllReduce", 30, 60, 2, stream=9),
    ]
    found = parts(read(write(tmp_path, events, deviceProperties=GPU)), {"aten::mm": "compute"})
    assert found["compute"] == 40
    assert found["communication"] == 40


def test_waiting_in_a_synchronisation_is_overhead(tmp_path: Path) -> None:
    events = [step(1, 0, 100), launch(1, 0, 90, name="cudaDeviceSynchronize"), copy("Memcpy DtoH", 95, 5, 1, 8)]
    found = parts(read(write(tmp_path, events, deviceProperties=GPU)), {})
    assert found == {"overhead": 95, "host": 5}


def test_other_threads_and_long_host_work_are_not_dispatching(tmp_path: Path) -> None:
    """A loader's copy on its own thread, or a sort on the CPU, does not make an idle device launch-bound."""
    events = [step(1, 0, 100_000), op("aten::add", 10, 20), launch(1, 15), kernel("add", 20, 2000, 1)]
    side = [op("aten::copy_", 3000, 90_000, tid=9)]
    sort = [op("aten::sort", 3000, 90_000)]
    for extra in ([], side, sort):
        found = parts(read(write(tmp_path, events + extra, deviceProperties=GPU)), {"aten::add": "memory"})
        assert found["host"] > 97_000


def test_work_of_an_earlier_step_takes_the_class_of_its_name(tmp_path: Path) -> None:
    events = [
        step(1, 0, 100),
        kernel("gemm", 0, 30, 900),
        op("aten::mm", 31, 5),
        launch(1, 32),
        kernel("gemm", 40, 60, 1),
    ]
    found = parts(read(write(tmp_path, events, deviceProperties=GPU)), {"aten::mm": "compute"})
    assert found["compute"] == 90


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30), st.integers(1, 2)), max_size=20))
def test_parts_add_up_for_any_operators(tmp_path_factory, spans) -> None:  # type: ignore[no-untyped-def]
    events = [step(1, 5, 50)] + [op(f"o{i}", s, d, tid=t) for i, (s, d, t) in enumerate(spans)]
    trace = read(write(tmp_path_factory.mktemp("parts"), events))
    assert sum(parts(trace, {}).values()) == pytest.approx(50)


def test_exclusive_pieces_are_self_time(tmp_path: Path) -> None:
    trace = read(write(tmp_path, [op("a", 0, 100), op("b", 10, 20), op("c", 15, 5), op("d", 50, 10), op("e", 200, 5)]))
    ops = trace.host_ops
    starts, ends, rows = exclusive(ops.start_ns, ops.end_ns, ops.parent, np.ones(len(ops), bool))
    assert np.bincount(rows, weights=ends - starts).tolist() == ops.self_ns.tolist()


def test_the_profilers_time_is_taken_from_where_it_lies() -> None:
    mean = dict.fromkeys(PARTS, 0.0) | {"compute": 6.0, "overhead": 3.0, "host": 1.0}
    corrected, said = without_profiler(mean, 8.0, {"overhead": 1.0}, 1e9)
    assert corrected == mean | {"overhead": 1.0}
    assert said is not None
    split, _ = without_profiler(mean, 8.0, {"overhead": 0.5, "compute": 0.5}, 1e9)
    assert (split["overhead"], split["compute"]) == (2.0, 5.0)
    scaled, _ = without_profiler(mean, 3.5, {"overhead": 1.0}, 1e9)
    assert scaled["overhead"] == 0
    assert sum(scaled.values()) == pytest.approx(3.5)
    assert scaled["compute"] / scaled["host"] == pytest.approx(6.0)
    noise, _ = without_profiler(mean, 5.0, {"overhead": 1.0}, calls=1000)
    assert noise["overhead"] / noise["compute"] == pytest.approx((3.0 - 3e-3) / 6.0)
    slower, _ = without_profiler(mean, 11.0, {"overhead": 1.0}, 1e9)
    assert sum(slower.values()) == pytest.approx(11.0)
    assert without_profiler(mean, None, {}, 0.0) == (mean, None)


def test_recording_lengthens_what_encloses_the_call(tmp_path: Path) -> None:
    events = [
        step(1, 0, 300),
        op("outer", 10, 50),
        op("a", 20, 5),
        op("b", 30, 5),
        op("near", 65, 5),
        op("far", 200, 5),
    ]
    trace = read(write(tmp_path, events))
    groups = group_operators(trace, recorded_steps(trace))
    bounds: tuple[Bound, ...] = tuple("memory" if n == "outer" else "overhead" for n in groups.name)
    shares = recording_shares(trace, groups, bounds, DISPATCH_S)
    assert shares == {"memory": 2 / 5, "overhead": 2 / 5, "host": 1 / 5}


def test_operators_with_shapes(tmp_path: Path) -> None:
    trace = read(write(tmp_path, [step(1, 0, 10), op("aten::mm", 0, 10, **shapes([2, 2], [2, 2]))]))
    assert parts(trace, {"aten::mm": "compute"}) == {"compute": 10}


def test_parts_add_up_on_every_real_trace(foreign_traces: Path) -> None:
    for path in sorted(foreign_traces.rglob("*.json.gz")):
        analysis = probe.analyze(path)
        total = sum(v or 0.0 for k, v in analysis.time_s.items() if k != "step")
        assert total == pytest.approx(analysis.time_s["step"], rel=0.01), path
        for part in PARTS:
            low, high = analysis.time_interval_s[part] or (0.0, 0.0)
            assert low - 1e-12 <= (analysis.time_s[part] or 0.0) <= high + 1e-12, (path, part)
