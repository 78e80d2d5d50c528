"""Bare steps leave out those that were still warming up; throughput is that of the rest."""

import numpy as np
import pytest

from probe.analyzers.steps import run_times, warm
from probe.run import PHASES, RankPart, StepTimes


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
