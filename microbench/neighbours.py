"""How much CPU time did other processes, and the host of a virtual machine, take while something was measured?"""

from __future__ import annotations

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_COUNTED = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal; not idle and waiting for disks
TOLERATED_FRACTION = 0.1  # of one core
_TICKS_S = 0.03  # /proc/stat counts in hundredths of a second, on each of its fields


class Neighbours:
    """Others' CPU time since this was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._others_s = _others_s()

    @property
    def disturbed(self) -> bool:
        """Whether they took more than a tenth of a core; False where the system does not tell."""
        now = _others_s()
        if now is None or self._others_s is None:
            return False
        spent = time.perf_counter() - self._began
        return now - self._others_s > TOLERATED_FRACTION * spent + _TICKS_S


def _others_s() -> float | None:
    """CPU time since boot less that of this process, its threads and the children it has waited for, seconds."""
    try:
        fields = _STAT.read_text().split("\n", 1)[0].split()[1:]
        ticks = sum(int(fields[i]) for i in _COUNTED)
    except (OSError, IndexError, ValueError):
        return None
    return ticks / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])
