"""What keeps the engine from concluding too much, and its time from being eaten: clocks, neighbours, shares."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
from fake_bench import Clock, Numbers, case_with, doubled

from probe.verify.bench import Bench, bench
from probe.verify.case import Side
from probe.verify.clocks import CpuTimer
from probe.verify.engine import _timing_s, verify_case
from probe.verify.ratios import Pairs
from probe.verify.verdict import Memory, decide


def pairs(ratio: float, *, contended: bool) -> Pairs:
    """Original `ratio` times as slow, on a machine without noise of its own."""
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal((2, 65)))
    return Pairs(tuple(ratio * noise[0]), tuple(noise[1]), contended)


@pytest.mark.parametrize(
    ("ratio", "quiet", "contended"),
    [
        (1.5, "accept", "accept"),
        (1.2, "accept", "inconclusive"),
        (0.9, "reject", "inconclusive"),
        (0.6, "reject", "reject"),
    ],
)
def test_beside_others_only_clear_cases_are_concluded(ratio: float, quiet: str, contended: str) -> None:
    assert decide(pairs(ratio, contended=False), Memory())[0] == quiet
    verdict, reason = decide(pairs(ratio, contended=True), Memory())
    assert verdict == contended
    if contended == "inconclusive":
        assert reason.startswith("other processes took CPU time meanwhile")


@dataclass(frozen=True)
class Neighbour:
    """Somebody who computes, or not."""

    disturbed: bool


@pytest.mark.parametrize(("disturbed", "verdict"), [(True, "inconclusive"), (False, "accept")])
def test_neighbours_are_watched_while_pairs_are_timed(disturbed: bool, verdict: str) -> None:
    clock = Clock()
    on = Bench("cpu", "a fake CPU", clock, 0, clock, lambda: Neighbour(disturbed))
    (result,) = verify_case(case_with(clock, doubled(clock, 8e-3)), on, 60.0)
    assert result.verified.verdict == verdict, result.reason


def test_a_single_thread_is_judged_by_cpu_time() -> None:
    timer = CpuTimer(threads=1)
    judged = timer.window(lambda: time.sleep(0.02), 1)
    assert judged < timer.other_s >= 0.02 and timer.other == "the clock"
    timer = CpuTimer(threads=2)
    assert timer.window(lambda: time.sleep(0.02), 1) >= 0.02 > timer.other_s
    assert timer.other == "CPU time"


def test_the_other_clock_is_told() -> None:
    def build(inputs: Numbers) -> Side:
        return doubled(Clock(), 0.0)(inputs)

    case = replace(case_with(Clock(), build), original=build)
    (result,) = verify_case(case, bench("cpu"), 1.0)
    assert "× by " in result.reason


def test_what_was_not_recorded_is_told() -> None:
    clock = Clock()
    case = replace(case_with(clock, doubled(clock, 5e-3)), assumed=("0.5 stands for a number",))
    (result,) = verify_case(case, Bench("cpu", "a fake CPU", clock, 0, clock), 60.0)
    assert result.reason.endswith("; not recorded: 0.5 stands for a number")


@pytest.mark.parametrize(
    ("left_s", "share_s", "pair_s", "given_s"),
    [
        (9.0, 10.0, 0.01, 9.0),  # what is left
        (-50.0, 10.0, 0.01, 5.0),  # compiling took it all: half of the share …
        (-50.0, 4.0, 0.01, 3.0),  # … but three seconds …
        (-50.0, 2.0, 0.01, 2.0),  # … and no more than the share
        (-50.0, 20.0, 0.6, 14.4),  # enough for a first look
    ],
)
def test_timing_has_a_part_of_the_share_for_itself(
    left_s: float, share_s: float, pair_s: float, given_s: float
) -> None:
    assert _timing_s(left_s, share_s, pair_s) == pytest.approx(given_s)


def test_neither_the_original_nor_another_candidate_eats_the_time_of_the_rest() -> None:
    clock = Clock()
    slow, quick = doubled(clock, 10e-3), doubled(clock, 5e-3)
    begun: list[int] = []

    def importing(inputs: Numbers) -> Side:
        clock.now += 0.0 if begun else 100.0
        begun.append(1)
        return slow(inputs)

    def compiling(inputs: Numbers) -> Side:
        clock.now += 100.0
        return quick(inputs)

    case = replace(case_with(clock, compiling, quick), original=importing)
    results = verify_case(case, Bench("cpu", "a fake CPU", clock, 0, clock), 20.0)
    found = {result.candidate: result for result in results}
    assert found["candidate 1"].verified.verdict == "accept", found["candidate 1"].reason
