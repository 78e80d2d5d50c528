"""When is another recording due, in a loop that is watched for ever? By the clock, on demand, or after a slow step.

Looked at about once a second, and never in between: step() knows only the number of the step at which to look again.
torch's profiler cannot look back. After a slow step the next ones are recorded; where slow steps come at even
distances (an evaluation, a checkpoint, a rebuilt cache), the recording waits for the next one and holds it.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probe.session.steps import StepLog
from probe.units import format_time

TRIGGER = "trigger"  # touch this file in the run directory to have the next steps recorded
LOOK_S = 1.0
BASELINE = 2000  # newest bare steps by which a slow one is told
FEWEST = 20  # of them, before any is called slow
SLOW_REST_S = 60.0  # between two recordings of slow steps
EVEN_FRACTION = 0.05  # by which distances between slow steps may differ


@dataclass(frozen=True)
class Asked:
    """A recording that is due: why, and the step that it should hold (None: the next ones)."""

    why: str
    step: int | None = None


class Watch:
    """What asks for recordings; `look` about once a second, on the loop's thread."""

    def __init__(
        self, log: StepLog, directory: Path, *, every_s: float | None, slow: float | None, on_demand: bool,
        lead: int, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """lead: steps between the begin of a cycle and the middle of what it records."""
        self._log = log
        self._file = directory / TRIGGER
        self._every_s = every_s
        self._slow = slow
        self._on_demand = on_demand
        self._lead = lead
        self._clock = clock
        self._rested = clock()  # when the last recording ended
        self._slow_at = self._planned_at = -math.inf
        self._touched_ns = self._touch()  # as it was left behind, by an earlier run perhaps
        self._signalled = False
        self._handler: Any = None
        self._baseline: deque[int] = deque(maxlen=BASELINE)
        self._row = 1  # of the log, from which on steps were not looked at; step 0 is cold
        self._slow_steps: deque[int] = deque(maxlen=4)
        self._expected: Asked | None = None

    def begin(self) -> None:
        """Listen for SIGUSR2, where the program does not and this is the main thread."""
        number = getattr(signal, "SIGUSR2", None)
        if not self._on_demand or number is None or threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(number) is signal.SIG_DFL:
            self._handler = self._told
            signal.signal(number, self._handler)

    def end(self) -> None:
        """Leave the signal as it was, unless the program has set a handler since."""
        handler, self._handler = self._handler, None
        if handler is not None and signal.getsignal(signal.SIGUSR2) is handler:
            signal.signal(signal.SIGUSR2, signal.SIG_DFL)

    def _told(self, number: int, frame: Any) -> None:
        self._signalled = True

    def rest(self, steps: int) -> None:
        """Bare steps follow, from number `steps` on: a recording has ended, or none has begun."""
        self._rested = self._clock()
        self._row = max(1, -(-steps // self._log.stride))

    def learn(self, first: int, end: int) -> None:
        """Steps that were bare before the first recording are compared with, too."""
        self._baseline.extend(self._log.durations_ns[max(1, first) : end])

    def pace(self, step_ns: int) -> int:
        """After how many steps to look again."""
        until_s = LOOK_S
        if self._every_s is not None:
            until_s = min(until_s, max(0.0, self._rested + self._every_s - self._clock()))
        return max(1, int(until_s * 1e9 / max(step_ns, 1)))

    def look(self, steps: int) -> Asked | None:
        """What asks for a recording now, if anything; the first that does."""
        slow = self._look_for_slow(steps) if self._slow is not None else None
        return self._by_user() or self._by_clock() or self._by_plan(steps) or slow

    def until(self, steps: int) -> int | None:
        """The number of steps after which a planned recording begins."""
        if self._expected is None or self._expected.step is None:
            return None
        return max(steps + 1, self._expected.step - self._lead)

    def _by_user(self) -> Asked | None:
        if not self._on_demand:
            return None
        if self._signalled:
            self._signalled = False
            return Asked("SIGUSR2")
        touched_ns, before_ns = self._touch(), self._touched_ns
        self._touched_ns = touched_ns
        if touched_ns is None or touched_ns == before_ns:  # not "later": the wall clock may have been set back
            return None
        return Asked(f"the file {TRIGGER}")

    def _touch(self) -> int | None:
        """When the file was touched, by the wall clock; None where it is not there."""
        try:
            return self._file.stat().st_mtime_ns
        except OSError:
            return None

    def _by_clock(self) -> Asked | None:
        if self._every_s is None or self._clock() - self._rested < self._every_s:
            return None
        return Asked(f"every {self._every_s:g} s")

    def _by_plan(self, steps: int) -> Asked | None:
        """The recording that waits for a slow step, when that is near."""
        expected = self._expected
        if expected is None or expected.step is None or steps < expected.step - self._lead:
            return None
        self._expected = None
        return expected if steps <= expected.step else None

    def _look_for_slow(self, steps: int) -> Asked | None:
        """Compare the steps since the last look with those before them."""
        stride, row = self._log.stride, self._row
        fresh = self._log.durations_ns[row:]
        self._row = row + len(fresh)
        limit = self._limit_ns()
        self._baseline.extend(fresh)
        found = None
        for index, duration in enumerate(fresh):
            if limit is not None and duration > limit:
                found = self._note(steps, (row + index) * stride, duration, limit)
        return found

    def _limit_ns(self) -> float | None:
        if self._slow is None or len(self._baseline) < FEWEST:
            return None
        return self._slow * float(np.percentile(np.fromiter(self._baseline, np.int64), 95))

    def _note(self, steps: int, step: int, duration: int, limit: float) -> Asked | None:
        """A slow step: record the next ones, or wait for the next slow one where it can be foretold."""
        self._slow_steps.append(step)
        usual = limit / (self._slow or 1.0)
        why = f"slow step {step}: {format_time(duration * 1e-9)}, p95 {format_time(usual * 1e-9)}"
        distance = self.distance()
        now = self._clock()
        if distance is not None and self._expected is None and now - self._planned_at >= SLOW_REST_S:
            due = step + distance * max(1, -(-(steps + self._lead + 1 - step) // distance))
            self._expected = Asked(f"{why}; one every {distance} steps, so {due} is recorded", due)
            self._planned_at = self._slow_at = now
        elif now - self._slow_at >= SLOW_REST_S:
            self._slow_at = now
            return Asked(why)
        return None

    def distance(self) -> int | None:
        """Steps from one slow step to the next, where the last three came evenly."""
        if len(self._slow_steps) < 3:
            return None
        first, second, third = list(self._slow_steps)[-3:]
        before, after = second - first, third - second
        if min(before, after) < 2 or abs(after - before) > max(1.0, EVEN_FRACTION * after):
            return None
        return after
