"""Summaries hold for any samples, and the median's interval has the coverage it claims."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.stats import fewest_for_interval, median_interval_ranks, percentile, student_quantile, summarise

samples = st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=200)


@given(samples)
def test_order_of_the_figures(values: list[float]) -> None:
    summary = summarise(values)
    low, high = summary.interval
    assert summary.min <= low <= summary.median <= high <= summary.max
    assert summary.n == len(values)


@given(samples)
def test_the_median_is_numpys(values: list[float]) -> None:
    assert summarise(values).median == pytest.approx(np.median(values))


def test_an_even_number_of_samples() -> None:
    assert summarise([1, 2, 3, 4]).median == 2.5


@pytest.mark.parametrize("n", [6, 10, 25, 101, 1000])
def test_the_interval_covers_the_median_in_95_of_100_cases(n: int) -> None:
    rng = np.random.default_rng(n)
    low, high = median_interval_ranks(n)
    drawn = np.sort(rng.standard_normal((4000, n)), axis=1)
    covered = np.mean((drawn[:, low] <= 0) & (drawn[:, high] >= 0))
    assert covered > 0.94
    assert high - low < n


def test_a_few_samples_give_their_whole_range() -> None:
    assert median_interval_ranks(1) == (0, 0)
    assert median_interval_ranks(4) == (0, 3)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.975, 0.99, 0.999])
def test_fewer_samples_than_that_have_no_interval(confidence: float) -> None:
    """Oracle: all samples lie on one side of the median with probability 2 · ½ⁿ."""
    n = fewest_for_interval(confidence)
    assert 1 - 2 * 0.5**n >= confidence and (n == 1 or 1 - 2 * 0.5 ** (n - 1) < confidence)
    assert (fewest_for_interval(), fewest_for_interval(0.975)) == (6, 7)


@pytest.mark.parametrize(
    ("freedom", "published"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (30, 2.042), (120, 1.980)],
)
def test_students_quantiles_are_the_published_ones(freedom: int, published: float) -> None:
    assert student_quantile(freedom) == pytest.approx(published, rel=2e-3)


def test_contention_shows_as_a_median_far_above_the_minimum() -> None:
    assert not summarise([1.0, 1.01, 1.02]).contended
    assert summarise([1.0, 1.2, 1.3]).contended


def test_no_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        summarise([])


def test_percentiles_are_linear_between_samples() -> None:
    assert percentile([0.0, 10.0], 95) == 9.5
