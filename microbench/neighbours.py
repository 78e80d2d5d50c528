"""How much CPU time did other processes, and the host of a virtual machine, take while something was measured?

The system counts CPU time in hundredths of a second, which tells nothing about a measurement of some milliseconds. A
short one is therefore judged by the half second that ends with it: whoever computed then is likely to have disturbed
it. What neighbours do with caches and memory alone, in other virtual machines say, is not to be seen from here.
"""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
_COUNTED = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal; not idle and waiting for disks
TOLERATED_FRACTION = 0.1  # of one core
LOOKBACK_S = 0.5  # long enough that a tenth of a core is more than what the counters round off
FORGOTTEN_S = 5.0  # what was read before says nothing about now
_TICKS_S = 0.03  # /proc/stat counts in hundredths of a second, on each of its fields
_BETWEEN_S = 0.02  # readings that are kept


@dataclass(frozen=True)
class Reading:
    """Others' CPU time since the machine was started, read at `at_s` of this process's clock; both in seconds."""

    at_s: float
    others_s: float


class Neighbours:
    """What others take of the CPUs from when this is made on, or in the half second before where that is longer."""

    def __init__(self) -> None:
        self._begin = note()

    @property
    def disturbed(self) -> bool:
        """Whether they took more than a tenth of a core; False where the system does not tell."""
        now = note()
        if now is None or self._begin is None:
            return False
        since = baseline(_readings, self._begin, now.at_s)
        return now.others_s - since.others_s > TOLERATED_FRACTION * (now.at_s - since.at_s) + _TICKS_S


def note() -> Reading | None:
    """Read the counters and keep what they say for a measurement that ends soon; None where there are none."""
    others_s = _others_s()
    if others_s is None:
        return None
    reading = Reading(time.perf_counter(), others_s)
    if not _readings or reading.at_s - _readings[-1].at_s >= _BETWEEN_S:
        _readings.append(reading)
    return reading


def baseline(kept: deque[Reading], begin: Reading, now_s: float) -> Reading:
    """From which reading on a measurement is judged that began with `begin`: see the module's docstring."""
    if now_s - begin.at_s >= LOOKBACK_S:
        return begin
    recent = [reading for reading in kept if now_s - reading.at_s <= FORGOTTEN_S and reading.at_s <= begin.at_s]
    old = [reading for reading in recent if now_s - reading.at_s >= LOOKBACK_S]
    return old[-1] if old else next(iter(recent), begin)


def _others_s() -> float | None:
    """CPU time since boot less that of this process, its threads and the children it has waited for, seconds."""
    try:
        fields = _STAT.read_text().split("\n", 1)[0].split()[1:]
        ticks = sum(int(fields[i]) for i in _COUNTED)
    except (OSError, IndexError, ValueError):
        return None
    return ticks / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


_readings: deque[Reading] = deque(maxlen=round(2 * LOOKBACK_S / _BETWEEN_S))
