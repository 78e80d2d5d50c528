"""Is the working tree slower than a base? Sessions of both in turn, until it is known or the budget is spent."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from probe.analyzers.gates.evidence import Session
from probe.analyzers.gates.limits import Limits
from probe.analyzers.gates.paired import judge
from probe.analyzers.gates.sequential import LOOKS
from probe.errors import UsageError
from probe.gate.checkout import Checkout, checked_out, here
from probe.gate.command import Command
from probe.gate.session import Plan, Taken, take
from probe.gate.workers import Start, workers
from probe.results.gate_result import GateResult, Side

BUDGET_S = 180.0
SESSION_PART = 5  # a session's blocks may take so much of the budget: 1 / 5, at most LONGEST_S
LONGEST_S = 12.0
WAITING = 2.0  # wall time by CPU time of a step

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What to compare and how sure to be."""

    command: Command
    against: str = "HEAD"
    limits: Limits = field(default_factory=Limits)
    budget_s: float = BUDGET_S
    seed: int = 0
    install: bool = True
    cwd: Path = Path()  # of the working tree


def check(request: Request, progress: Progress | None = None) -> GateResult:
    """Run base and working tree in turn and judge. Raises for what cannot be run; a verdict is never a guess."""
    if not request.budget_s > 0:
        raise UsageError(f"--budget {request.budget_s:g}: give seconds above 0")
    new = here(request.cwd)
    with checked_out(request.against, new, install=request.install) as base:
        return _until_known(request, base, new, progress or (lambda text: None))


def _until_known(request: Request, base: Checkout, new: Checkout, progress: Progress) -> GateResult:
    begin = time.monotonic()
    taken: list[Taken] = []
    longest_s = 0.0
    result: GateResult | None = None
    while len(taken) < LOOKS[-1]:
        left_s = request.budget_s - (time.monotonic() - begin)
        if taken and left_s < longest_s and (len(taken) >= LOOKS[0] or left_s <= 0):
            break
        started = time.monotonic()
        taken.append(_session(request, base, new, len(taken)))
        longest_s = max(longest_s, time.monotonic() - started)
        result = _judged(request, base, new, taken)
        progress(f"session {len(taken)}: {result.summary}")
        if _exact_failure(result) or (len(taken) in LOOKS and result.verdict != "inconclusive"):
            break
    assert result is not None
    return replace(result, warnings=tuple(_warnings(taken)))


def _exact_failure(result: GateResult) -> bool:
    """Whether a count fails: more sessions would not change that."""
    return any(m.verdict == "fail" and m.unit != "s" for m in result.metrics)


def _session(request: Request, base: Checkout, new: Checkout, number: int) -> Taken:
    plan = Plan(min(request.budget_s / SESSION_PART, LONGEST_S), costs=number == 0, seed=request.seed + number)
    starts: tuple[Start, ...] = tuple(
        (side.name, request.command.task(side), side.cwd, side.python, {}) for side in (base, new)
    )
    with workers(*starts) as (left, right):
        return take(left, right, plan)


def _judged(request: Request, base: Checkout, new: Checkout, taken: Sequence[Taken]) -> GateResult:
    sessions: list[Session] = [t.session for t in taken]
    last = taken[-1]
    on_gpu = last.base.on_gpu or last.new.on_gpu
    sides = [Side(checkout.name, ready.device, ready.torch) for checkout, ready in ((base, last.base), (new, last.new))]
    return judge(sessions, request.limits, "wall_time" if on_gpu else "cpu_time", *sides)


def _warnings(taken: Sequence[Taken]) -> list[str]:
    found = []
    first = taken[0]
    if first.base.torch != first.new.torch:
        found.append(f"torch {first.base.torch} in the base, {first.new.torch} in the working tree")
    if first.base.threads != first.new.threads:
        found.append(f"{first.base.threads} threads in the base, {first.new.threads} in the working tree")
    waited = [float(np.median(t.session.wall.base) / np.median(t.session.blocks.base)) for t in taken]
    if statistics.median(waited) > WAITING:
        found.append("steps took more than twice their CPU time: they waited, for other processes or for I/O")
    return found
