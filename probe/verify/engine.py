"""Is each replacement of a site faster, and right? Numbers first, then memory, then time; one verdict per candidate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Generic

from probe.errors import UsageError
from probe.microbench.harness import Clock, Window, paced, repeats_for
from probe.results.findings import Verdict, Verified
from probe.sites import Site
from probe.stats import Summary, summarise
from probe.units import format_bytes, significant
from probe.verify.bench import Bench, bench, isolated
from probe.verify.case import Candidate, Case, I, Side
from probe.verify.cases import case_of
from probe.verify.clocks import CpuTimer
from probe.verify.cold import SPENT_S, cold_ratio
from probe.verify.memory import available_bytes, peak_bytes
from probe.verify.numeric import Baseline, Gate, baselines, gate
from probe.verify.pairs import measure
from probe.verify.ratios import Pairs
from probe.verify.verdict import LEAST_PAIRS, Memory, decide

BUDGET_S = 60.0
ROOM = 0.8  # of the available memory may be needed: the rest of the machine goes on living
WARM_CALLS = 1  # before the repeats are chosen; the check of the numbers has warmed everything else
LEAST_TIMING_S = 3.0  # is left for the pairs, however long compiling and checking took …
TIMING_PART = 0.5  # … and this part of the candidate's share, and of the budget, whatever came before it took
LAYOUTS = 3  # unrecorded pairs before the first look
ORDER: tuple[Verdict, ...] = ("accept", "trade", "inconclusive", "reject")


@dataclass(frozen=True)
class Result:
    """What became of one candidate. `reason` says why the verdict is what it is; times are seconds per call."""

    candidate: str
    code_line: str
    verified: Verified
    reason: str
    seconds_before: Summary | None = None
    seconds_after: Summary | None = None
    noise: float | None = None  # how far the same code differed from itself: ratios.Pairs.noise


@dataclass(frozen=True)
class _Ground(Generic[I]):
    """What all candidates of a case are held against."""

    case: Case[I]
    bench: Bench
    baselines: Sequence[Baseline[I]]
    inputs: I  # what is timed
    peak_bytes: int | None


class _OriginalFailedError(Exception):
    """The original raised while it was timed; the candidate is not to blame."""


def verify(
    site: Site,
    *,
    device: str = "cpu",
    budget_s: float = BUDGET_S,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> tuple[Result, ...]:
    """Run every candidate of `site` against the original on `device`; the best accepted one comes first.

    Takes about `budget_s` seconds at most: the timing is bounded by it, the numbers are checked in any case.
    Raises UsageError or UnavailableError for a device or budget that cannot be used; what is wrong with the record
    or with a candidate is in the results.
    """
    return verify_case(case_of(site), bench(device, seed=seed, clock=clock), budget_s)


def verify_case(
    case: Case[I], on: Bench, budget_s: float = BUDGET_S, *, trying: Callable[[str], None] = lambda name: None,
    done: Callable[[Result], None] = lambda result: None,
) -> tuple[Result, ...]:  # fmt: skip
    """As `verify`, for a case at hand: with the user's own candidates, or the original as its own.

    trying, done: called before and after each candidate, with its name and with its result.
    """
    if not budget_s > 0:
        raise UsageError(f"a budget of {budget_s} s leaves no time to measure; use a positive number of seconds")
    end = on.clock() + budget_s
    obstacle = case.objection or _too_large(case, on.device)
    if obstacle:
        return _all_unresolved(case, on, obstacle, done)
    with isolated(on.device):
        try:
            ground = _ground(case, on)
        except Exception as error:  # whatever torch raises on this record: there is nothing to compare with
            reason = f"the original does not run here: {_said(error)}"
            return _all_unresolved(case, on, reason, done)
        found = []
        left_s = max(TIMING_PART * budget_s, end - on.clock())  # the original's first run may import for long
        least_s = TIMING_PART * left_s / max(len(case.candidates), 1)  # others may overdraw: compiling takes long
        for candidate, share_s in paced(case.candidates, left_s, on.clock):
            trying(candidate.name)
            found.append(_judge(ground, candidate, max(share_s, least_s)))
            done(found[-1])
        return tuple(sorted(found, key=rank))


def _all_unresolved(case: Case[I], on: Bench, reason: str, done: Callable[[Result], None]) -> tuple[Result, ...]:
    """Nothing could be compared with any candidate."""
    found = tuple(_unresolved(candidate, on, reason) for candidate in case.candidates)
    for result in found:
        done(result)
    return found


def _too_large(case: Case[I], device: str) -> str | None:
    """Why the recorded sizes do not fit this machine; they are never made smaller in silence."""
    available = available_bytes(device)
    if available is None or case.need_bytes <= ROOM * available:
        return None
    need, free = format_bytes(case.need_bytes), format_bytes(available)
    return f"too large for this machine: judging it takes about {need}, {free} are free; verify where it was recorded"


def _ground(case: Case[I], on: Bench) -> _Ground[I]:
    """Run the original: its values, its float64 reference, its memory."""
    import torch

    against = baselines(case, on.device, on.seed)
    inputs = case.timed.make(torch.Generator(on.device).manual_seed(on.seed))
    return _Ground(case, on, against, inputs, peak_bytes(case.original, inputs, on.device))


def _judge(ground: _Ground[I], candidate: Candidate[I], budget_s: float) -> Result:
    """One candidate; an exception of its own is a rejection."""
    on = ground.bench
    deadline = on.clock() + budget_s
    if candidate.objection:
        return _unresolved(candidate, on, candidate.objection)
    try:
        outside = candidate.guard(ground.inputs) if candidate.guard is not None else None
        if outside:
            return _unresolved(candidate, on, f"not offered, outside its guard: {outside}")
        numbers = gate(ground.case, candidate, ground.baselines)
        if numbers.failure:
            return _result(candidate, on, "reject", numbers.failure, numbers)
        memory = Memory(ground.peak_bytes, peak_bytes(candidate.build, ground.inputs, on.device))
        pairs = _timed(ground, candidate, deadline - on.clock(), budget_s)
    except _OriginalFailedError as error:
        return _unresolved(candidate, on, f"the original does not run here: {_said(error)}")
    except Exception as error:  # the candidate's: it may be any code
        return _result(candidate, on, "reject", f"fails: {_said(error)}")
    verdict, reason = decide(pairs, memory)
    chosen = f"not recorded: {', '.join(ground.case.assumed)}" if ground.case.assumed else ""
    said = "; ".join(filter(None, (reason, pairs.other, candidate.note(), _cold(ground, candidate, deadline), chosen)))
    return _result(candidate, on, verdict, said, numbers, memory, pairs)


def _cold(ground: _Ground[I], candidate: Candidate[I], deadline: float) -> str:
    """What single calls with cold caches showed; "" where the time does not suffice. It decides nothing."""
    on, inputs = ground.bench, ground.inputs
    if deadline - on.clock() < SPENT_S:
        return ""
    sides = [_window(build(inputs), 1, on, []) for build in (ground.case.original, candidate.build)]
    for side in sides:
        side()
    found = cold_ratio(sides[0], sides[1], on.device, on.clock)
    return f"with cold caches {significant(found[0])}× in {found[1]} pairs" if found else ""


def _timed(ground: _Ground[I], candidate: Candidate[I], left_s: float, share_s: float) -> Pairs:
    """Interleaved pairs of the original and the candidate, in what is left of the share, or a part of it at least."""
    on, inputs = ground.bench, ground.inputs
    repeats_old, old_s = _repeats(ground.case.original(inputs), on)
    repeats_new, new_s = _repeats(candidate.build(inputs), on)
    others: tuple[list[float], list[float]] = ([], [])

    def build() -> tuple[Window, Window]:
        old = _window(ground.case.original(inputs), repeats_old, on, others[0])
        return _blamed(old), _window(candidate.build(inputs), repeats_new, on, others[1])

    watch = on.watch() if on.watch is not None else None
    pairs = measure(build, _timing_s(left_s, share_s, old_s + new_s), on.seed, on.clock)
    return replace(pairs, contended=watch is not None and watch.disturbed, other=_by_other_clock(others, on))


def _timing_s(left_s: float, share_s: float, pair_s: float) -> float:
    """Seconds for the pairs, though checking and compiling used up the share: enough for a first look, if it can be."""
    enough_s = (LEAST_PAIRS + LAYOUTS) * pair_s
    return max(left_s, min(max(TIMING_PART * share_s, LEAST_TIMING_S, enough_s), share_s))


def _by_other_clock(others: tuple[list[float], list[float]], on: Bench) -> str:
    """2.1× by CPU time; "" where there is one clock."""
    old, new = (median(side) if side else 0.0 for side in others)
    return f"{significant(old / new)}× by {on.timer.other}" if old and new and isinstance(on.timer, CpuTimer) else ""


def _repeats(side: Side, on: Bench) -> tuple[int, float]:
    """Calls per window, so that it is long against the clock and short against a time slice; and its seconds."""
    on.timer.window(side.call, WARM_CALLS)
    repeats = repeats_for(lambda calls: on.timer.window(side.call, calls))
    return repeats, on.timer.window(side.call, repeats)


def _window(side: Side, repeats: int, on: Bench, others: list[float]) -> Window:
    """Seconds per call over one window; what another clock showed goes to `others`."""

    def window() -> float:
        seconds = on.timer.window(side.call, repeats) / repeats
        if isinstance(on.timer, CpuTimer):
            others.append(on.timer.other_s / repeats)
        return seconds

    return window


def _blamed(window: Window) -> Window:
    """An exception in it is the original's."""

    def blamed() -> float:
        try:
            return window()
        except Exception as error:
            raise _OriginalFailedError(_said(error)) from error

    return blamed


def _result(
    candidate: Candidate[I],
    on: Bench,
    verdict: Verdict,
    reason: str,
    numbers: Gate | None = None,
    memory: Memory | None = None,
    pairs: Pairs | None = None,
) -> Result:
    """What is known, in the form of the contract; None for what was not reached."""
    timed = pairs if pairs is not None and pairs.n else None
    before, after = numbers.error(gradient=False) if numbers else (None, None)
    gradient_before, gradient_after = numbers.error(gradient=True) if numbers else (None, None)
    verified = Verified(
        verdict=verdict,
        speedup=timed.speedup if timed else None,
        interval=timed.interval() if timed else None,
        n=timed.n if timed else 0,
        peak_bytes_before=memory.before_bytes if memory else None,
        peak_bytes_after=memory.after_bytes if memory else None,
        error_before=before,
        error_after=after,
        gradient_error_before=gradient_before,
        gradient_error_after=gradient_after,
        device=on.name,
    )
    seconds = (summarise(timed.old_s), summarise(timed.new_s), timed.noise) if timed else (None, None, None)
    return Result(candidate.name, candidate.code_line, verified, reason, *seconds)


def _unresolved(candidate: Candidate[I], on: Bench, reason: str) -> Result:
    """Nothing could be compared."""
    return _result(candidate, on, "inconclusive", reason)


def rank(result: Result) -> tuple[int, float]:
    """Accepted ones first, then by speed."""
    return ORDER.index(result.verified.verdict), -(result.verified.speedup or 0.0)


def _said(error: BaseException) -> str:
    """The exception in one line."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return f"{name}: {text[:200]}" if text and not isinstance(error, _OriginalFailedError) else text or name
