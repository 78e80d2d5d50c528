"""The interval of a paired speed-up is the bootstrap's and covers what it claims; the verdict follows from it alone."""

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from probe.verify.pairs import measure
from probe.verify.ratios import Pairs, bootstrap_ranks
from probe.verify.verdict import LEAST_PAIRS, LOOK_CONFIDENCE, LOOKS, Memory, decide, pace, settled

MIB = 1 << 20


def pairs(ratio: float, n: int = 65, noise: float = 0.01, seed: int = 0) -> Pairs:
    """Original `ratio` times as slow as the candidate, both with lognormal noise."""
    rng = np.random.default_rng(seed)
    old, new = np.exp(noise * rng.standard_normal((2, n)))
    return Pairs(tuple(ratio * old), tuple(new))


@pytest.mark.parametrize("n", [21, 22, 65, 155])
def test_the_ranks_are_those_of_drawn_resamples(n: int) -> None:
    drawn = np.random.default_rng(n).integers(0, n, (20_000, n))
    medians = np.sort(drawn, axis=1)[:, (n - 1) // 2]  # the lower median: ranks are exact, nothing is averaged
    low, high = bootstrap_ranks(n)
    assert np.mean(medians <= low) <= 0.025 + 0.004
    assert np.mean(medians <= low + 1) > 0.025 - 0.004
    assert high == n - 1 - low


@pytest.mark.parametrize("n", [21, 37, 155, 1601])
def test_the_interval_covers_the_true_ratio_in_95_of_100_cases(n: int) -> None:
    ratios = np.sort(np.random.default_rng(n).standard_cauchy((4000, n)), axis=1)  # no mean, heavy tails
    low, high = bootstrap_ranks(n)
    assert 0.94 < np.mean((ratios[:, low] <= 0) & (ratios[:, high] >= 0)) < 0.99


def test_few_pairs_give_their_whole_range() -> None:
    assert bootstrap_ranks(1) == (0, 0)
    assert bootstrap_ranks(3) == (0, 2)


def test_a_look_can_reach_its_confidence_from_the_least_number_of_pairs_on() -> None:
    assert LOOKS[0] == LEAST_PAIRS
    assert bootstrap_ranks(LEAST_PAIRS, LOOK_CONFIDENCE)[0] > 0


def test_the_noise_is_how_far_consecutive_samples_of_one_side_differ() -> None:
    assert Pairs((1.0, 2.0, 1.0, 2.0), (1.0, 1.0, 1.0, 1.0)).noise == pytest.approx(np.log(2))
    assert Pairs((1.0,) * 50 + (9.0,), (1.0,) * 51).noise == 0
    assert Pairs((1.0,), (1.0,)).noise == 0


def test_a_clear_gain_is_accepted() -> None:
    verdict, reason = decide(pairs(1.5), Memory())
    assert verdict == "accept"
    assert "over 65 pairs" in reason


@pytest.mark.parametrize(
    ("ratio", "before", "after", "expected"),
    [
        (1.5, 100 * MIB, 50 * MIB, "accept"),
        (1.5, 100 * MIB, 130 * MIB, "trade"),
        (1.5, MIB // 2, MIB, "accept"),
        (0.8, 100 * MIB, 50 * MIB, "trade"),
        (1.0, 100 * MIB, 50 * MIB, "trade"),
        (1.0, 100 * MIB, 95 * MIB, "inconclusive"),
        (0.8, 100 * MIB, 95 * MIB, "reject"),
        (0.8, None, 50 * MIB, "reject"),
    ],
)
def test_time_and_memory_decide_together(ratio: float, before: int | None, after: int, expected: str) -> None:
    assert decide(pairs(ratio), Memory(before, after))[0] == expected


def test_a_gain_below_five_percent_is_no_difference() -> None:
    verdict, reason = decide(pairs(1.02), Memory())
    assert (verdict, reason.split(":")[0]) == ("inconclusive", "no difference beyond 5 %")


def test_an_interval_over_the_threshold_does_not_decide() -> None:
    verdict, reason = decide(pairs(1.05, noise=0.1), Memory())
    assert verdict == "inconclusive"
    assert "does not decide" in reason


def test_less_memory_at_no_price_is_a_trade_though_the_gain_in_time_is_not_sure() -> None:
    less = Memory(64 << 20, 16 << 20)
    verdict, reason = decide(pairs(1.05, noise=0.1), less)
    assert verdict == "trade" and reason.startswith("no slower (1.0") and "64 MiB → 16 MiB" in reason
    assert decide(pairs(0.96, noise=0.2), less)[0] == "inconclusive"  # it may be slower by more than 5 %
    assert decide(replace(pairs(1.05, noise=0.1), contended=True), less)[0] == "inconclusive"


def test_too_few_pairs_do_not_decide() -> None:
    assert decide(pairs(3.0, n=LEAST_PAIRS - 1), Memory())[0] == "inconclusive"
    assert "only 0" in decide(Pairs((), ()), Memory())[1]


def test_a_noisy_machine_refuses_what_is_within_its_noise_and_no_more() -> None:
    verdict, reason = decide(pairs(1.4, n=1601, noise=0.5), Memory())
    assert verdict == "inconclusive"
    assert "too busy" in reason
    assert decide(pairs(0.7, n=1601, noise=0.5), Memory())[0] == "inconclusive"
    assert decide(pairs(4.0, n=1601, noise=0.5), Memory())[0] == "accept"
    assert decide(pairs(0.25, n=1601, noise=0.5), Memory())[0] == "reject"


class Machine:
    """A clock that simulated windows advance; `noise` gives the factor on each window's time."""

    def __init__(self, noise: Callable[[], float]) -> None:
        self.now = 0.0
        self.noise = noise
        self.builds = 0

    def clock(self) -> float:
        return self.now

    def window(self, seconds: float) -> Callable[[], float]:
        def run() -> float:
            taken = seconds * self.noise()
            self.now += taken
            return taken

        return run

    def build(self, old_s: float, new_s: float) -> Callable[[], tuple[Callable[[], float], Callable[[], float]]]:
        def build() -> tuple[Callable[[], float], Callable[[], float]]:
            self.builds += 1
            return self.window(old_s), self.window(new_s)

        return build


def test_measuring_stops_at_the_first_look_that_decides_and_at_the_budget() -> None:
    machine = Machine(lambda: 1.0)
    assert measure(machine.build(0.02, 0.01), 60.0, 0, machine.clock).n == LOOKS[0]
    assert machine.builds == 3
    rng = random.Random(1)
    machine = Machine(lambda: rng.lognormvariate(0, 0.2))
    between = measure(machine.build(1.05e-2, 1e-2), 1.0, 0, machine.clock)
    assert 40 <= between.n <= 60
    assert machine.now < 1.1


def test_a_decision_within_a_moment_is_not_trusted() -> None:
    machine = Machine(lambda: 1.0)
    measure(machine.build(2e-3, 1e-3), 60.0, 0, machine.clock)
    assert machine.now >= 0.5


def quiet(rng: random.Random) -> Callable[[], float]:
    return lambda: rng.lognormvariate(0, 0.02)


def loud(rng: random.Random) -> Callable[[], float]:
    return lambda: rng.lognormvariate(0, 0.24)


def spikes(rng: random.Random) -> Callable[[], float]:
    return lambda: (1 + rng.paretovariate(1.1)) if rng.random() < 0.2 else rng.lognormvariate(0, 0.05)


def bursts(rng: random.Random) -> Callable[[], float]:
    """A neighbour that comes and goes and doubles everything while it is there."""
    busy = False

    def noise() -> float:
        nonlocal busy
        busy ^= rng.random() < 0.05
        return (2 if busy else 1) * rng.lognormvariate(0, 0.05)

    return noise


def drift(rng: random.Random) -> Callable[[], float]:
    level = 0.0

    def noise() -> float:
        nonlocal level
        level = 0.99 * level + rng.gauss(0, 0.05)
        return float(np.exp(level))

    return noise


def second_is_faster(rng: random.Random) -> Callable[[], float]:
    """The second window of a pair finds warm caches."""
    calls = 0

    def noise() -> float:
        nonlocal calls
        calls += 1
        return (1.0 if calls % 2 else 0.7) * rng.lognormvariate(0, 0.05)

    return noise


@pytest.mark.parametrize("model", [quiet, loud, spikes, bursts, drift, second_is_faster])
def test_equals_are_accepted_in_less_than_one_of_a_hundred_runs(model: Callable[..., Callable[[], float]]) -> None:
    runs, accepted = 1000, 0
    for seed in range(runs):
        machine = Machine(model(random.Random(seed)))
        budget_s = (0.05, 0.2, 0.6)[seed % 3]
        accepted += decide(measure(machine.build(1e-3, 1e-3), budget_s, seed, machine.clock), Memory())[0] == "accept"
    assert accepted < runs / 100


@pytest.mark.parametrize("ratio", [1.3, 0.8])
def test_clear_cases_never_flip(ratio: float) -> None:
    for seed in range(100):
        rng = random.Random(seed)
        machine = Machine(lambda rng=rng: rng.lognormvariate(0, 0.15))  # type: ignore[misc]
        found = measure(machine.build(ratio * 1e-3, 1e-3), 5.0, seed, machine.clock)
        assert decide(found, Memory())[0] == ("accept" if ratio > 1 else "reject")
        assert settled(found)
        assert pace(found, 0.95) != "unknown"
