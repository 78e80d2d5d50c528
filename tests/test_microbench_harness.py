"""Does the harness stop when it should, interleave, and summarise? On a fake clock."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from probe.microbench.harness import Effort, Variant, measure, paced, repeats_for, timed


class FakeClock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> float:
        self.now += seconds
        return seconds


def _variant(clock: FakeClock, name: str, seconds: list[float], log: list[str] | None = None) -> Variant:
    state = {"at": 0}

    def window() -> float:
        if log is not None:
            log.append(name)
        state["at"] += 1
        return clock.sleep(seconds[state["at"] % len(seconds)])

    return Variant(name, window, work=10)


def test_steady_windows_end_after_the_least_number() -> None:
    clock = FakeClock()
    [timing] = measure([_variant(clock, "a", [1e-3])], Effort(budget_s=100), clock)

    assert timing.seconds.n == 8
    assert timing.seconds.min == pytest.approx(1e-4)
    assert timing.flags == ()


def test_noisy_windows_use_the_budget_and_are_flagged() -> None:
    clock = FakeClock()
    scattered = [1e-3 * (1 + (7919 * i % 101) / 50) for i in range(101)]
    [timing] = measure([_variant(clock, "a", scattered)], Effort(budget_s=0.5), clock)

    assert clock.now == pytest.approx(0.5, abs=5e-3)
    assert timing.flags == ("contended",)
    assert timing.seconds.min == pytest.approx(1e-4)


def test_variants_take_turns() -> None:
    clock, log = FakeClock(), []
    measure([_variant(clock, n, [1e-3], log) for n in "ab"], Effort(budget_s=1), clock)

    assert log[:6] == ["a", "b", "a", "b", "a", "b"]
    assert log.count("a") == log.count("b")


def test_a_window_longer_than_the_budget_runs_once() -> None:
    clock = FakeClock()
    [timing] = measure([_variant(clock, "a", [10.0])], Effort(budget_s=1), clock)

    assert timing.seconds.n == 1


def test_without_a_budget_there_is_grace_for_short_windows() -> None:
    clock = FakeClock()
    [timing] = measure([_variant(clock, "a", [1e-3, 2e-3])], Effort(budget_s=0), clock)

    assert timing.seconds.n == 8


def test_the_most_windows_are_a_bound() -> None:
    clock = FakeClock()
    [timing] = measure([_variant(clock, "a", [1e-6, 3e-6])], Effort(budget_s=10, most=50), clock)

    assert timing.seconds.n == 50


def test_repeats_fill_a_window_whatever_the_first_took() -> None:
    calls = []

    def window_of(n: int) -> float:
        calls.append(n)
        return 1e-6 * n + (5e-3 if len(calls) == 1 else 0.0)

    assert repeats_for(window_of, 0.5e-3) == pytest.approx(500, rel=0.01)


def test_repeats_of_something_long_is_one() -> None:
    assert repeats_for(lambda n: 2.0 * n) == 1


def test_paced_gives_later_items_what_is_left() -> None:
    clock, shares, fractions = FakeClock(), [], []
    for _, share in paced("abcd", 8.0, clock, fractions.append):
        shares.append(share)
        clock.sleep(5.0 if len(shares) == 1 else share)

    assert shares == [2.0, 1.0, 1.0, 1.0]
    assert fractions == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_timed_uses_the_clock_it_is_given() -> None:
    clock = FakeClock()

    assert timed(lambda: clock.sleep(0.25), clock)() == 0.25


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="asks Linux what others do")
def test_a_competing_process_is_flagged() -> None:
    """Windows that all take longer alike have no spread; what others did in the meantime tells it."""
    burn = "import time; end = time.monotonic() + 30\nwhile time.monotonic() < end: pass"
    rivals = [subprocess.Popen([sys.executable, "-c", burn]) for _ in range(os.cpu_count() or 1)]
    try:
        time.sleep(0.2)  # they are up
        steady = Variant("steady", lambda: time.sleep(0.05) or 1.0, 1.0)  # type: ignore[func-returns-value]
        (found,) = measure([steady], Effort(budget_s=0.4))
    finally:
        for rival in rivals:
            rival.kill()
            rival.wait()
    assert not found.seconds.contended
    assert found.flags == ("contended",)
