"""Each instant of a step is counted once, on what the step waits for; parts add up, on any trace."""

from pathlib import Path

import numpy as np
import pytest
from builders import GPU, copy, event, gpu_step, kernel, launch, op, shapes, step, write
from hypothesis import given, settings
from hypothesis import strategies as st
from real_traces import analysis_of

from probe.analyzers.operators.op_table import group_operators
from probe.analyzers.operators.steps import busy_fraction, cut_by_device, recorded_steps
from probe.analyzers.parts import partition
from probe.analyzers.timeline.device import exposed_s
from probe.analyzers.timeline.pieces import exclusive
from probe.analyzers.timeline.profiler_time import recording_shares, without_profiler
from probe.readers.kineto import read
from probe.results.analysis import PARTS, Bound
from probe.trace import Trace

DISPATCH_S = 2e-6


def parts(trace: Trace, bounds: dict[str, Bound]) -> dict[str, float]:
    """Microseconds per part of a trace's first step; `bounds` by operator name, "unknown" for others."""
    steps = recorded_steps(trace)
    groups = group_operators(trace, steps)
    table = partition(trace, steps, groups, tuple(bounds.get(n, "unknown") for n in groups.name), DISPATCH_S)
    return {part: round(float(table.of(part)[0]) * 1e6, 3) for part in PARTS if table.of(part)[0]}


def idle(trace: Trace, bounds: dict[str, Bound] | None = None) -> dict[str, float]:
    """Microseconds in which nothing runs, by cause, per step."""
    marks = recorded_steps(trace)
    groups = group_operators(trace, marks)
    known = tuple((bounds or {}).get(n, "unknown") for n in groups.name)
    table = partition(trace, cut_by_device(trace, marks), groups, known, DISPATCH_S)
    means = {part: float(table.of(part).mean()) for part in PARTS}
    return {cause: round(s * 1e6, 3) for cause, s in table.idle_s(means).items() if s}


def test_a_cpu_step_is_its_operators_and_the_gaps_between_them(tmp_path: Path) -> None:
    events = [step(1, 0, 200), op("big", 10, 50), op("inner", 20, 10), op("small", 65, 5), op("late", 150, 20)]
    found = parts(read(write(tmp_path, events)), {"big": "memory", "inner": "compute", "small": "overhead"})
    # Gaps: 0-10 and 60-65 are no longer than five dispatches, 70-150 and 170-200 are.
    assert found == {"compute": 10, "memory": 40, "overhead": 5 + 10 + 5, "host": 80 + 30, "unknown": 20}


def test_other_threads_do_not_count_on_a_cpu(tmp_path: Path) -> None:
    events = [step(1, 0, 100), op("aten::main", 0, 100), op("aten::worker", 10, 50, tid=2)]
    found = parts(read(write(tmp_path, events)), {"aten::main": "compute", "aten::worker": "memory"})
    assert found == {"compute": 100}


def test_a_wait_for_what_a_backends_thread_exchanges_is_communication(tmp_path: Path) -> None:
    """Gloo marks what its thread runs; what computes meanwhile hides it, a named range or Python does not."""
    events = [
        step(1, 0, 300), op("aten::mm", 0, 20), event("user_annotation", "gloo:all_reduce", 10, 110, tid=9),
        op("Optimizer.step", 140, 60), event("user_annotation", "gloo:all_reduce", 150, 30, tid=9),
        op("aten::add", 160, 5),
    ]  # fmt: skip
    found = parts(
        read(write(tmp_path, events)), {"aten::mm": "compute", "aten::add": "memory", "Optimizer.step": "host"}
    )
    assert found == {"compute": 20, "communication": 100 + 25, "memory": 5, "host": 20 + 30 + 100}


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


def test_why_the_device_is_idle(tmp_path: Path) -> None:
    """One step with each cause, one after another."""
    loader = event("user_annotation", "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__", 0, 100)
    events = [
        step(1, 0, 3000),
        loader,
        op("aten::add", 100, 20),
        launch(1, 110, 5),
        kernel("add", 118, 82, 1),  # 100-118: dispatching and launching
        launch(2, 130, 5),
        kernel("mul", 203, 97, 2),  # 200-203: the queue held it
        launch(3, 140, 170, name="cudaStreamSynchronize"),  # 300-310, and what is dispatched after it
        op("aten::mul", 312, 8),
        launch(4, 315, 3),
        kernel("mul", 322, 78, 4),
        op("aten::empty", 390, 60),
        launch(5, 400, 50, name="cudaMalloc"),
        op("aten::sort", 460, 540),  # computes on the host, and launches nothing
        launch(6, 1500, 5),  # 1000-1500: Python
        kernel("add", 1510, 90, 6),
    ]
    trace = read(write(tmp_path, events, deviceProperties=GPU))
    assert idle(trace) == {
        "loader": 100,
        "launch": 18 + 10 + 10,  # the pause after cudaMalloc, and the launch of the last kernel
        "queue": 3,
        "sync": 22,
        "allocator": 50,
        "operators": 540,
        "python": 500,
        "end_of_step": 1400,
    }
    busy = 82 + 97 + 78 + 90
    assert sum(idle(trace).values()) == pytest.approx(3000 - busy)


def test_what_starts_much_later_than_its_launch_has_no_known_cause(tmp_path: Path) -> None:
    events = [step(1, 0, 5000), launch(1, 0, 10), kernel("add", 4900, 100, 1)]
    trace = read(write(tmp_path, events, deviceProperties=GPU))
    assert parts(trace, {"add": "memory"})["idle"] == 4890
    assert idle(trace) == {"launch": 10, "queue": 4890}


def test_a_watchdog_that_polls_is_no_cause(tmp_path: Path) -> None:
    """Another thread's cudaEventQuery does not make a device idle that waits for Python."""
    events = [step(1, 0, 1000), launch(1, 0, 5), kernel("add", 5, 95, 1), launch(2, 900, 5), kernel("add", 910, 90, 2)]
    polling = [launch(100 + n, 100 + 10 * n, 9, name="cudaEventQuery", tid=5) for n in range(80)]
    assert idle(read(write(tmp_path, events + polling, deviceProperties=GPU)))["python"] == 800


def test_a_cpu_steps_pauses_have_causes(tmp_path: Path) -> None:
    events = [step(1, 0, 500), op("aten::mm", 5, 95), op("aten::add", 103, 97), op("aten::mul", 300, 50)]
    assert idle(read(write(tmp_path, events))) == {"launch": 5 + 3, "python": 100, "end_of_step": 150}


def test_a_workers_operators_count_where_the_main_thread_waits(tmp_path: Path) -> None:
    """Autograd's thread works while the main thread is in backward()."""
    events = [step(1, 0, 100), op("aten::fwd", 0, 30), op("aten::bwd", 32, 58, tid=2), op("aten::opt", 92, 8)]
    bounds: dict[str, Bound] = {"aten::fwd": "compute", "aten::bwd": "memory", "aten::opt": "memory"}
    assert parts(read(write(tmp_path, events)), bounds) == {"compute": 30, "memory": 66, "overhead": 4}


def test_communication_behind_computation_has_nothing_to_gain(tmp_path: Path) -> None:
    """A collective of 60 µs of which 20 µs are alone on the device."""
    events = [
        step(1, 0, 200),
        op("aten::mm", 0, 5),
        launch(1, 1),
        kernel("gemm", 10, 100, 1),
        op("record_param_comms", 6, 5),
        launch(2, 7),
        kernel("ncclDevKernel_AllReduce", 70, 60, 2, stream=9),
    ]
    trace = read(write(tmp_path, events, deviceProperties=GPU))
    marks = recorded_steps(trace)
    groups = group_operators(trace, marks)
    found = dict(zip(groups.name, exposed_s(trace, groups, marks).tolist(), strict=True))
    assert found["record_param_comms"] == pytest.approx(20e-6)
    assert np.isnan(found["aten::mm"])


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30), st.integers(1, 2)), min_size=1, max_size=20))
def test_idle_time_adds_up_for_any_device_work(tmp_path_factory, spans) -> None:  # type: ignore[no-untyped-def]
    events = [step(1, 5, 50), op("aten::o", 0, 30)]
    events += [launch(n, s, d + 1) for n, (s, d, _) in enumerate(spans)]
    events += [kernel("k", s + 2, d, n, stream=t) for n, (s, d, t) in enumerate(spans)]
    trace = read(write(tmp_path_factory.mktemp("idle"), events, deviceProperties=GPU))
    steps = cut_by_device(trace, recorded_steps(trace))
    busy = busy_fraction(trace, steps) or 0.0
    assert sum(idle(trace).values()) == pytest.approx((1 - busy) * float(steps.duration_ns.mean()) / 1e3, abs=0.01)


@settings(max_examples=60)
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
        analysis = analysis_of(path)
        total = sum(v or 0.0 for k, v in analysis.time_s.items() if k != "step")
        assert total == pytest.approx(analysis.time_s["step"], rel=0.01), path
        for part in PARTS:
            low, high = analysis.time_interval_s[part] or (0.0, 0.0)
            assert low - 1e-12 <= (analysis.time_s[part] or 0.0) <= high + 1e-12, (path, part)
        idle_s = sum(analysis.idle_s.values())
        busy = analysis.utilisation.device_busy_fraction or 0.0
        assert idle_s == pytest.approx((1 - busy) * (analysis.time_s["step"] or 0.0), rel=1e-3, abs=1e-9), path
