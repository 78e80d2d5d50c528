"""Tasks for the engine's tests: workers import them by name."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from probe.errors import TraceError


def double(number: int) -> int:
    return 2 * number


def fail_on_three(number: int) -> int:
    if number == 3:
        raise TraceError("rank3.json: cut")
    return number


def defect(number: int) -> int:
    return {}[number]


class OddError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def odd(number: int) -> int:
    raise OddError(number, number)


def out_of_memory(number: int) -> int:
    raise MemoryError


def killed_on_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def killed_once(path: str) -> str:
    """As for memory: the first attempt dies, the second, alone, does not."""
    mark = Path(path)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return path


def about(_: int) -> dict[str, Any]:
    sys.stdout.write("text that must not disturb the pipe\n")
    sys.stdout.flush()
    return {
        "pid": os.getpid(),
        "torch": "torch" in sys.modules,
        "main": sys.modules["__main__"].__dict__.get("__file__"),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "blas": os.environ.get("OPENBLAS_NUM_THREADS"),
    }


def sleep_and_tell(folder: str) -> None:
    """Write down this process's number, then take very long."""
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)
