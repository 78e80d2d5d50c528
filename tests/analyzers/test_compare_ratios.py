"""Speed-ups and their intervals: against hand-made figures, simulations and what must hold for any input."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.analyzers.compare.ratios import Cost, cost, geometric_mean, judge, mean_noise, verdict
from probe.results.comparison import Judged
from probe.stats import summarise

times = st.floats(1e-9, 1e3)
samples = st.lists(times, min_size=2, max_size=30)
OPPOSITE = {"faster": "slower", "slower": "faster", "~": "~"}


def test_six_samples_have_the_interval_of_order_statistics() -> None:
    values = [3.0, 1.0, 2.0, 5.0, 4.0, 6.0, 7.0]
    found = cost(values)
    assert (found.value, found.interval, found.n) == (4.0, summarise(values).interval, 7)


def test_three_samples_have_students_interval() -> None:
    found = cost([math.exp(x) for x in (0.0, 0.1, 0.2)])
    half = 4.303 * 0.1 / math.sqrt(3)
    assert found.interval == pytest.approx((math.exp(0.1 - half), math.exp(0.1 + half)))
    assert found.value == pytest.approx(math.exp(0.1))


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_small_samples_cover_as_often_as_they_say(n: int) -> None:
    """Of intervals from n log-normal samples 95 % hold the true median; 2000 draws leave 1.5 % of doubt."""
    rng = np.random.default_rng(n)
    hits = 0
    for _ in range(2000):
        interval = cost(np.exp(rng.normal(0.0, 0.05, n))).interval
        assert interval is not None
        hits += interval[0] <= 1.0 <= interval[1]
    assert hits / 2000 == pytest.approx(0.95, abs=0.015)


def test_one_sample_has_no_interval_and_no_verdict() -> None:
    found = judge(cost([2.0]), cost([1.0, 1.0, 1.0]))
    assert (found.ratio, found.interval, found.verdict) == (2.0, None, "~")
    assert found.reason == "no interval: one sample of BASE"


def test_two_samples_far_apart_have_no_interval() -> None:
    assert cost([1e-9, 1.0]).interval is None


@given(samples, samples)
def test_swapping_the_sides_turns_everything_round(base: list[float], new: list[float]) -> None:
    there, back = judge(cost(base), cost(new)), judge(cost(new), cost(base))
    assert back.verdict == OPPOSITE[there.verdict]
    assert back.ratio == pytest.approx(1 / there.ratio if there.ratio else 0.0)
    if there.interval is not None:
        assert back.interval == pytest.approx((1 / there.interval[1], 1 / there.interval[0]))


@given(samples, samples)
def test_the_interval_holds_the_ratio_and_decides(base: list[float], new: list[float]) -> None:
    found = judge(cost(base), cost(new))
    if found.interval is None:
        assert found.verdict == "~"
        return
    low, high = found.interval
    assert low * (1 - 1e-9) <= (found.ratio or 0.0) <= high * (1 + 1e-9)
    if found.verdict != "~":
        assert low > 1 or high < 1
    assert (found.reason is None) == (found.verdict != "~")


@given(samples)
def test_nothing_is_faster_than_itself(values: list[float]) -> None:
    found = judge(cost(values), cost(values))
    assert found.verdict == "~"
    assert found.ratio == pytest.approx(1.0)


def test_a_change_below_the_floor_is_noise_however_sure_it_is() -> None:
    sure = verdict(1.008, (1.007, 1.009))
    assert (sure.verdict, sure.reason) == ("~", "within the noise of 1.01×")
    assert verdict(1.02, (1.015, 1.025)).verdict == "faster"
    assert verdict(1.02, (1.015, 1.025), floor=0.05).verdict == "~"
    assert verdict(1 / 1.02, (0.975, 0.985)).verdict == "slower"


def test_the_mean_is_geometric_and_does_not_narrow_with_numbers() -> None:
    rows = [Judged(2.0, (1.5, 3.0), "faster"), Judged(0.5, (0.4, 0.6), "slower"), Judged(None, None, "~")]
    found = geometric_mean(rows)
    assert found.ratio == pytest.approx(1.0)
    assert found.interval == pytest.approx((math.sqrt(0.6), math.sqrt(1.8)))
    assert geometric_mean(rows * 50).interval == pytest.approx(found.interval)


def test_the_mean_of_nothing_says_so() -> None:
    found = geometric_mean([Judged(2.0, None, "~")])
    assert (found.ratio, found.verdict) == (None, "~")
    assert mean_noise([]) == 0.01
    assert mean_noise([0.0, 3.0]) == pytest.approx(1.0)


def test_zero_is_not_divided_by() -> None:
    zero = Cost(0.0, None, 3)
    assert judge(zero, cost([1.0, 2.0])).ratio is None
    assert judge(cost([1.0, 2.0]), zero).verdict == "~"
