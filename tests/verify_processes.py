"""Entries of child processes that go wrong in every way; importable, so that a spawned process finds them."""

import os
import time
from multiprocessing.connection import Connection

from probe.results.findings import Verified
from probe.verify import child
from probe.verify.engine import Result
from probe.verify.task import Task


def result(name: str, verdict: str = "accept", speedup: float = 2.0) -> Result:
    """What a candidate of that name came to."""
    verified = Verified(verdict, speedup, (1.5, 2.5), 21, None, None, None, None, None, None, "here")  # type: ignore[arg-type]
    return Result(name, "", verified, "as told")


def crashes_at_second(task: Task, parent: Connection) -> None:
    """Three candidates, the second of which aborts the process."""
    for name in ("first", "second", "third"):
        if name not in task.skip:
            parent.send((child.TRYING, name))
            if name == "second":
                os.abort()
            parent.send((child.RESULT, result(name, speedup=3.0 if name == "third" else 2.0)))
    parent.send((child.DONE, None))


def hangs(task: Task, parent: Connection) -> None:
    """One candidate that never ends."""
    if "endless" not in task.skip:
        parent.send((child.TRYING, "endless"))
        time.sleep(600)
    parent.send((child.DONE, None))


def dies_at_once(task: Task, parent: Connection) -> None:
    """The original already ends the process."""
    parent.send((child.TRYING, ""))
    os._exit(3)


def fine(task: Task, parent: Connection) -> None:
    """One candidate that is accepted."""
    parent.send((child.RESULT, result("fine")))
    parent.send((child.DONE, None))
