"""Bare steps leave out those that were still warming up; throughput is that of the rest."""

from pathlib import Path

import numpy as np
import pytest
from builders import GPU, kernel, launch, op, step, write

import probe
from probe.analyzers.operators.steps import AHEAD, cut_by_device, recorded_steps, run_times, warm
from probe.readers.kineto import read
from probe.readers.narrow import Selection, narrow
from probe.runs.run import PHASES, RankPart, StepTimes
from probe.trace import Trace


def steps(durations_ms: list[float], phases: list[tuple[str, int]], **columns: object) -> StepTimes:
    codes = np.concatenate([np.full(count, PHASES.index(name), np.uint8) for name, count in phases])
    nanoseconds = (np.array(durations_ms) * 1e6).astype(np.int64)
    return StepTimes(nanoseconds, codes, total=len(nanoseconds), **columns)  # type: ignore[arg-type]


LSTM = steps(
    [4807, 3147, 3985, 3304, 1049, 83, 80, 86, 130, 131, 132, 83, 84, 82, 83, 85],
    [("wait", 4), ("calibrate", 1), ("warmup", 3), ("active", 3), ("after", 5)],
)


def test_slow_steps_at_the_beginning_are_no_bare_steps() -> None:
    times = run_times(RankPart(steps=LSTM))
    assert times.bare_mean_s == pytest.approx(0.0834)
    assert times.profiled_mean_s == pytest.approx(0.131)
    assert times.n == 16


def test_a_slow_step_in_the_middle_stays() -> None:
    mixed = steps([100, 10, 10, 40, 10, 10], [("wait", 6)])
    assert warm(mixed).tolist() == [False, True, True, True, True, True]


def test_throughput_counts_the_bare_steps() -> None:
    told = steps([100, 10, 10, 10], [("wait", 4)], samples=np.array([5.0, 5.0, np.nan, 5.0]))
    assert run_times(RankPart(steps=told)).throughput.samples_per_s == pytest.approx(10 / 0.02)


def test_no_steps() -> None:
    assert run_times(RankPart()).mean_s is None


def looped(folder: Path, kernel_us: int, mark_us: int = 20, lost: int = 0) -> Trace:
    """Three steps that launch a kernel each, which run one after another; before them the work of a lost step."""
    events = [step(n, mark_us * n, mark_us) for n in range(3)]
    events += [op("aten::mm", mark_us * n + 2, 6) for n in range(3)]
    events += [launch(n + 1, mark_us * n + 5, 2) for n in range(3)]
    at = 10 + lost
    events += [kernel("k", 0, lost, 99)] if lost else []
    events += [kernel("k", max(at + kernel_us * n, mark_us * n + 10), kernel_us, n + 1) for n in range(3)]
    return read(write(folder, events, deviceProperties=GPU))


def test_steps_of_a_loop_that_runs_ahead_are_the_devices(tmp_path: Path) -> None:
    trace = looped(tmp_path, kernel_us=100)
    cut = cut_by_device(trace, recorded_steps(trace))
    assert (cut.start_ns / 1000).tolist() == [0, 110, 210]
    assert (cut.end_ns / 1000).tolist() == [110, 210, 310]
    analysis = probe.analyze(tmp_path / "trace.json")
    assert AHEAD in analysis.warnings
    assert sum(row.share_fraction for row in analysis.ops) <= 1
    assert analysis.time_s["step"] == pytest.approx(310e-6 / 3)


def test_work_of_the_steps_before_is_not_the_first_ones(tmp_path: Path) -> None:
    trace = looped(tmp_path, kernel_us=100, lost=500)
    assert (cut_by_device(trace, recorded_steps(trace)).start_ns / 1000).tolist() == [500, 610, 710]


def test_steps_that_wait_for_the_device_are_as_marked(tmp_path: Path) -> None:
    trace = looped(tmp_path, kernel_us=8)
    assert cut_by_device(trace, trace.steps) is trace.steps
    assert AHEAD not in probe.analyze(tmp_path / "trace.json").warnings


def test_a_window_without_steps_is_the_step(tmp_path: Path) -> None:
    """What reaches into it is there as a whole; the step is no longer than the window."""
    events = [op("aten::long", 0, 100), op("aten::mm", 100, 20), op("aten::late", 130, 500)]
    trace = narrow(read(write(tmp_path, events)), Selection(window_ns=(90_000, 140_000)))
    assert len(trace.host_ops) == 3
    assert recorded_steps(trace).duration_ns.tolist() == [50_000]
