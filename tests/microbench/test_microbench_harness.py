"""Does the harness stop when it should, interleave, and summarise? On a fake clock."""

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from probe.errors import UnavailableError
from probe.kernels.cpu import machine_code
from probe.machine import environment
from probe.microbench import memory, neighbours
from probe.microbench.cpu import cache_latency
from probe.microbench.harness import LEAST_SPAN_S, Effort, Variant, measure, paced, repeats_for, timed
from probe.microbench.neighbours import Reading
from probe.microbench.suite import Context


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
    [timing] = measure([_variant(clock, "a", [LEAST_SPAN_S])], Effort(budget_s=100), clock)

    assert timing.seconds.n == 8
    assert timing.seconds.min == pytest.approx(LEAST_SPAN_S / 10)
    assert timing.flags == ()


def test_short_steady_windows_are_watched_for_a_while() -> None:
    """Eight windows of a millisecond fit into one bad moment of the machine."""
    clock = FakeClock()
    measure([_variant(clock, "a", [1e-3])], Effort(budget_s=100), clock)
    assert LEAST_SPAN_S <= clock.now < 1.5 * LEAST_SPAN_S

    clock = FakeClock()
    measure([_variant(clock, "a", [1e-3])], Effort(budget_s=0.04), clock)
    assert 0.02 <= clock.now < 0.03


def test_too_few_windows_are_flagged() -> None:
    clock = FakeClock()
    [one] = measure([_variant(clock, "a", [10.0])], Effort(budget_s=1), clock)
    [six] = measure([_variant(clock, "a", [1.0])], Effort(budget_s=6, least=6, most=6), clock)
    [five] = measure([_variant(clock, "a", [1.0])], Effort(budget_s=6, least=5, most=5), clock)

    assert (one.flags, six.flags, five.flags) == (("few-windows",), (), ("few-windows",))


def test_preparing_that_took_the_whole_budget_leaves_the_least_windows() -> None:
    clock = FakeClock()
    [timing] = measure([_variant(clock, "a", [1e-3, 2e-3])], Effort(budget_s=-3.0), clock)

    assert timing.seconds.n == 8


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


needs_linux = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="asks Linux what others do")


@pytest.fixture
def rivals() -> Iterator[None]:
    """A process that computes, for each CPU, since longer than a short measurement looks back."""
    burn = "import time; end = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    started = [subprocess.Popen([sys.executable, "-c", burn]) for _ in range(os.cpu_count() or 1)]
    try:
        time.sleep(0.2)  # they are up
        neighbours.note()
        time.sleep(1.2 * neighbours.LOOKBACK_S)
        yield
    finally:
        for rival in started:
            rival.kill()
            rival.wait()


@needs_linux
@pytest.mark.parametrize("window_s", [0.05, 0.5e-3], ids=["long", "short"])
def test_a_competing_process_is_flagged(window_s: float, rivals: None) -> None:
    """Windows that all take longer alike have no spread; what others did in the meantime tells it."""
    steady = Variant("steady", lambda: time.sleep(window_s) or 1.0, 1.0)  # type: ignore[func-returns-value]
    (found,) = measure([steady], Effort(budget_s=8 * window_s))

    assert not found.seconds.contended
    assert found.flags == ("contended",)


@needs_linux
def test_each_chase_beside_a_competing_process_is_flagged(rivals: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its windows may all be slow alike, because a neighbour takes cache and memory even on another core."""
    device = environment.cpu_device()
    try:
        machine_code.load(device.isa)
    except UnavailableError as reason:
        pytest.skip(str(reason))
    monkeypatch.setattr(memory, "LARGEST_BYTES", 2 * memory.MIB)
    monkeypatch.setattr(memory, "total_cache_bytes", lambda device: 0)
    found = list(cache_latency.run(Context(device, 0.05, quick=True)))

    assert [m.params["size_bytes"] for m in found] == [1 << e for e in range(21, 11, -1)]
    assert all("contended" in m.flags for m in found)


def test_a_short_measurement_is_judged_by_the_half_second_that_ends_with_it() -> None:
    kept = deque(Reading(at, 100 + at) for at in (0.0, 5.0, 9.3, 9.6, 9.9))

    def since_s(begin_s: float, kept: deque[Reading] = kept) -> float:
        return neighbours.baseline(kept, Reading(begin_s, 100 + begin_s), 10.0).at_s

    assert since_s(9.4) == 9.4  # long enough by itself
    assert since_s(9.99) == 9.3  # the last that is half a second old
    assert since_s(9.99, deque([Reading(1.0, 0.0), Reading(9.7, 0.0)])) == 9.7  # the first is of another time
    assert since_s(9.99, deque()) == 9.99


@pytest.mark.parametrize(("others_fraction", "disturbed"), [(0.0, False), (0.1, False), (0.3, True), (2.0, True)])
def test_a_tenth_of_a_core_is_tolerated(
    others_fraction: float, disturbed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = {"s": 1000.0}
    monkeypatch.setattr(neighbours, "time", SimpleNamespace(perf_counter=lambda: now["s"]))
    monkeypatch.setattr(neighbours, "_others_s", lambda: others_fraction * now["s"])
    monkeypatch.setattr(neighbours, "_readings", deque())
    neighbours.note()
    now["s"] += 0.6
    seen = neighbours.Neighbours()
    now["s"] += 0.01

    assert seen.disturbed is disturbed


def test_where_the_system_does_not_tell_nobody_is_blamed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(neighbours, "_STAT", tmp_path / "no such file")

    assert neighbours.note() is None
    assert not neighbours.Neighbours().disturbed
