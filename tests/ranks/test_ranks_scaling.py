"""Scaling efficiency against figures worked out by hand; intervals checked by simulation."""

import numpy as np
import pytest
from rank_builders import simulate, summaries, summary

from probe.analyzers.ranks.scaling import scaling, scaling_job
from probe.errors import UsageError
from probe.results.scaling import ScalingJob


def job(ranks: int, step_s: float, n: int = 9, work: float | None = None) -> ScalingJob:
    return ScalingJob(ranks, tuple(step_s * (1 + 0.001 * (i - n // 2)) for i in range(n)), work)


def test_weak_scaling_is_the_ratio_of_step_times() -> None:
    found = scaling([job(32, 0.125), job(8, 0.1)])
    assert found.mode == "weak" and "same work in a step" in found.assumption
    assert [p.world_size for p in found.points] == [8, 32]
    assert found.points[0].efficiency_fraction == 1 and found.points[0].efficiency_interval_fraction is None
    assert found.points[1].efficiency_fraction == pytest.approx(0.8)
    assert found.points[1].speedup == pytest.approx(3.2)


def test_strong_scaling_divides_the_same_work() -> None:
    found = scaling([job(8, 0.1), job(32, 0.03125)], "strong")
    assert found.points[1].efficiency_fraction == pytest.approx(0.8)
    assert found.points[1].speedup == pytest.approx(3.2)


def test_counted_work_decides_where_every_job_knows_it() -> None:
    found = scaling([job(8, 0.1, work=256), job(16, 0.1, work=384)])
    assert found.mode == "throughput" and found.points[1].efficiency_fraction == pytest.approx(0.75)
    assert scaling([job(8, 0.1, work=256), job(16, 0.1)]).mode == "weak"


def test_the_interval_encloses_the_ratio_of_all_medians_inside() -> None:
    low, high = scaling([job(1, 0.1), job(2, 0.1)]).points[1].efficiency_interval_fraction or (1.0, 1.0)
    assert low == pytest.approx(0.0996 / 0.1004) and high == pytest.approx(0.1004 / 0.0996)
    assert scaling([job(1, 0.1), job(2, 0.1, n=6)]).points[1].efficiency_interval_fraction is None


def test_intervals_hold_the_truth_at_least_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        times = [tuple(scale * rng.lognormal(0, 0.05, 15)) for scale in (0.1, 0.125)]
        point = scaling([ScalingJob(8, times[0]), ScalingJob(16, times[1])]).points[1]
        low, high = point.efficiency_interval_fraction or (2.0, 0.0)
        held += low <= 0.8 <= high
    assert held >= 190


def test_what_is_missing_or_double_is_said() -> None:
    found = scaling([job(1, 0.1), job(1, 0.1), job(2, 0.1, n=3), ScalingJob(4, ())])
    assert len(found.points) == 3
    assert any("4 ranks has no steps" in text for text in found.warnings)
    assert any("2 jobs have 1 rank:" in text for text in found.warnings)
    assert any("3 steps are too few" in text for text in found.warnings)


def test_one_job_is_not_a_scaling() -> None:
    with pytest.raises(UsageError, match="two numbers of ranks"):
        scaling([job(8, 0.1)])
    with pytest.raises(UsageError, match=r"two numbers of ranks.*all of these have 1; `probe compare`"):
        scaling([job(1, 0.1), job(1, 0.007)])
    with pytest.raises(UsageError, match="samples or tokens"):
        scaling([job(8, 0.1), job(16, 0.1)], "throughput")


def test_a_job_is_made_of_the_steps_that_its_ranks_share() -> None:
    whole = summaries(simulate(0, ranks=2, collectives=40), step_s=0.05)
    found = scaling_job([*whole[:1], summary(1, 2, [0] * 3, [1] * 3, step=[2, 3, 4], step_s=0.07)], work_per_step=64)
    assert found.world_size == 2 and found.step_s == pytest.approx((0.06, 0.06)) and found.work_per_step == 64
    with pytest.raises(UsageError, match="no steps are marked"):
        scaling_job([summary(0, 2, [0], [1])])
