"""Verify sites in processes of their own: what crashes, hangs or runs out of memory costs itself and nothing else."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

from probe.microbench.harness import Clock
from probe.results.findings import Verified
from probe.verify import child
from probe.verify.engine import Result, rank
from probe.verify.task import Task

START_S = 60.0  # a process may take to import torch and to run the original
LEAST_S = 90.0  # a candidate may take so long beside its suggestion's share: torch.compile may need 70 s
MOST_RESTARTS = 4
LEAST_SHARE_S = 1.0  # with less nothing is begun
Entry = Callable[[Task, Connection], None]


@dataclass
class _Run:
    """What is known of one task so far."""

    task: Task
    results: list[Result] = field(default_factory=list)
    trying: str = ""
    ended: bool = False


def verify_all(
    tasks: Sequence[Task], budget_s: float, *, clock: Clock = time.monotonic, entry: Entry = child.main,
    told: Callable[[int, Sequence[Result]], None] = lambda number, results: None, least_s: float = LEAST_S,
) -> list[tuple[Result, ...]]:  # fmt: skip
    """The results of each task, the best first, in the order of the tasks. An interruption keeps what is there.

    The budget is shared as time goes: what a task leaves, the others have. told: called when a task is done.
    """
    end = clock() + budget_s
    found: list[tuple[Result, ...]] = []
    for number, task in enumerate(tasks):
        share_s = max(end - clock(), 0.0) / (len(tasks) - number)
        if share_s < LEAST_SHARE_S:
            found.append((unresolved(task, "the budget was spent before its turn; raise --budget"),))
            continue
        run = _Run(replace(task, budget_s=share_s))
        try:
            _supervise(run, clock, entry, least_s)
        except KeyboardInterrupt:
            found.append(_sorted(run) or (unresolved(task, "interrupted"),))
            found += [(unresolved(rest, "interrupted"),) for rest in tasks[number + 1 :]]
            return found
        found.append(_sorted(run))
        told(number, found[-1])
    return found


def _sorted(run: _Run) -> tuple[Result, ...]:
    return tuple(sorted(run.results, key=rank))


def _supervise(run: _Run, clock: Clock, entry: Entry, least_s: float) -> None:
    """Start processes until every candidate has a result; one that dies takes only what it was trying with it."""
    end = clock() + run.task.budget_s
    for _ in range(MOST_RESTARTS):
        reason = _one_process(run, entry, least_s)
        if run.ended:
            return
        if not run.trying:
            run.results.append(unresolved(run.task, f"the original does not run here: {reason}"))
            return
        run.results.append(_rejected(run, reason))
        tried = tuple(result.candidate for result in run.results)
        run.task = replace(run.task, skip=tried, budget_s=max(end - clock(), LEAST_SHARE_S))
        run.trying = ""


def _one_process(run: _Run, entry: Entry, least_s: float) -> str:
    """Run one process to its end or its deadline; why it ended, where that was not by itself."""
    context: Any = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=entry, args=(run.task, there), daemon=True)
    process.start()
    there.close()
    try:
        for allowed_s in iter(lambda: _allowed_s(run, least_s), None):
            if not here.poll(allowed_s):
                return f"hangs: nothing came of it in {allowed_s:.0f} s"
            try:
                _take(run, here.recv())
            except EOFError:
                process.join(START_S)
                return _cause(process.exitcode)
            if run.ended:
                break
        return ""
    finally:
        _end(process)
        here.close()


def _allowed_s(run: _Run, least_s: float) -> float:
    """How long the process may be silent."""
    return run.task.budget_s + least_s


def _take(run: _Run, message: tuple[str, Any]) -> None:
    """What the process says."""
    kind, content = message
    if kind == child.TRYING:
        run.trying = content
    elif kind == child.RESULT:
        run.results.append(content)
        run.trying = ""
    elif kind == child.FAILED:
        failed = _rejected(run, content) if run.trying else unresolved(run.task, content)
        run.results.append(failed)
    else:
        run.ended = True


def _end(process: Any) -> None:
    """Kill it if it still runs, and wait for it: nothing is left behind."""
    process.join(0.5)
    if process.is_alive():
        process.kill()
    process.join()


def _cause(code: int | None) -> str:
    """What an exit code says."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        killed = name == "SIGKILL"
        return f"crashes: its process ended by {name}" + (", as a machine out of memory does" if killed else "")
    return f"crashes: its process ended with code {code}"


def _nothing(device: str) -> Verified:
    return Verified("inconclusive", None, None, 0, None, None, None, None, None, None, device)


def unresolved(task: Task, reason: str) -> Result:
    """Nothing could be said of any candidate."""
    name = task.own.name if task.own else "any replacement"
    return Result(name, "", _nothing(task.device), reason)


def _rejected(run: _Run, reason: str) -> Result:
    """The candidate that was being tried is to blame."""
    return Result(run.trying, "", replace(_nothing(run.task.device), verdict="reject"), reason)
