"""By which clock is work on a CPU judged? CPU time where one thread does it, else the monotonic clock; both are read.

CPU time does not count when the process is not running, which on a shared machine is most of the noise. With several
threads it is the sum of them all, and waiting for one another counts: then only the clock on the wall tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class CpuTimer:
    """Times calls that are done when they return, by both clocks."""

    def __init__(self, threads: int) -> None:
        self.by_cpu_time = threads == 1
        self.other_s = 0.0  # what the clock that does not judge showed of the last window

    @property
    def other(self) -> str:
        """The clock that does not judge."""
        return "the clock" if self.by_cpu_time else "CPU time"

    def window(self, call: Callable[[], object], calls: int) -> float:
        """Seconds by the clock that judges."""
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            call()
        cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - start
        judged_s, self.other_s = (cpu_s, wall_s) if self.by_cpu_time else (wall_s, cpu_s)
        return judged_s
