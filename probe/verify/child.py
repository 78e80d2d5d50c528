"""A process that verifies one site: tells what it is about to try and what became of it, and may die at any time."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import warnings
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

from probe.verify.task import Task

TRYING, RESULT, FAILED, DONE = "trying", "result", "failed", "done"


def main(task: Task, parent: Connection) -> None:
    """Entry of the process. Messages: (TRYING, name), (RESULT, Result), (FAILED, reason), (DONE, None)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")  # they are of the user's machine, not of the verdict
    logging.disable(logging.WARNING)
    try:
        _run(task, parent)
    except Exception as error:
        parent.send((FAILED, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
    parent.send((DONE, None))
    parent.close()


def _end_with_parent() -> None:
    """Nobody waits for the verdict of a parent that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _run(task: Task, parent: Connection) -> None:
    from probe.verify.bench import bench
    from probe.verify.engine import verify_case

    case = _case(task)
    kept = tuple(c for c in case.candidates if c.name not in task.skip)
    parent.send((TRYING, ""))  # the original
    if kept:
        verify_case(
            replace(case, candidates=kept), bench(task.device, seed=task.seed), task.budget_s,
            trying=lambda name: parent.send((TRYING, name)), done=lambda result: parent.send((RESULT, result)),
        )  # fmt: skip


def _case(task: Task) -> Any:
    from probe.verify.cases import case_of
    from probe.verify.own import own_case

    return case_of(task.site) if task.own is None else own_case(task.site, task.own)
