"""How many steps may be recorded so that training stands still no longer than allowed when the recording ends?

Stopping and exporting take time in proportion to the number of events, and on the thread that trains. A calibration
step gives the events of one step and how fast this machine is; `plan` turns them into what may be recorded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from probe.units import format_time

# Seconds per event, torch 2.13, one thread of a 2-core x86-64 VM, 3 to 650 thousand events of add, mm and linear.
# Range over repetitions: stop with shapes 6.2-15, without 1.8-5.0; export 1.8-3.8; gzip 0.8-1.4.
STOP_S = {True: 7.5e-6, False: 2.0e-6}  # with shapes, without; trace_only
WRITE_S = {True: 4.5e-6, False: 3.5e-6}  # export and gzip
STACKS_FACTOR = 2.0  # with stacks there is no trace_only: a Python object is made for every event

# Of the time allowed, what a prediction may use: the same recording took up to 1.7 times longer when repeated.
SAFETY = 0.6
# A step of nothing but tiny operators makes one event in about this time while it is recorded; none makes them faster.
FASTEST_EVENT_S = 0.8e-6
# Below this number of events a stop is mostly fixed costs and says nothing about the machine.
ENOUGH_EVENTS = 500
_MACHINE_RANGE = (0.5, 8.0)


@dataclass(frozen=True)
class Plan:
    """What may be recorded. No steps: `reason` says why, with the remedy."""

    steps: int
    shapes: bool
    pause_s: float  # predicted for `steps`
    reason: str | None = None  # why less than asked


@dataclass
class PauseModel:
    """Seconds of pause per event on this machine; corrected by what each recording really took."""

    stacks: bool = False
    machine: float = 1.0  # times slower than where the constants come from
    measured_s: tuple[float, float] = (0.0, 0.0)  # per event, as seen: without shapes, with

    def calibrate(self, stop_s: float, events: int) -> None:
        """Take the machine's speed from a stop without shapes."""
        if events >= ENOUGH_EVENTS:
            low, high = _MACHINE_RANGE
            self.machine = min(max(stop_s / events / (STOP_S[False] * self._factor), low), high)

    def correct(self, pause_s: float, events: int, *, shapes: bool) -> None:
        """Take the whole pause of a recording instead of the constants, for the cycles that follow."""
        if events >= ENOUGH_EVENTS:
            per_event = pause_s / events
            self.measured_s = (self.measured_s[0], per_event) if shapes else (per_event, self.measured_s[1])

    def pause_s(self, events: float, *, shapes: bool) -> float:
        """Predicted seconds between the end of the last recorded step and the start of the next."""
        seen = self.measured_s[shapes]
        return events * (seen or (STOP_S[shapes] * self._factor + WRITE_S[shapes]) * self.machine)

    @property
    def _factor(self) -> float:
        return STACKS_FACTOR if self.stacks else 1.0


def plan(model: PauseModel, events_per_step: float, requested: int, max_pause_s: float) -> Plan:
    """As many of the `requested` steps as the pause allows; with shapes if one step at least fits with them."""
    allowed = max_pause_s * SAFETY
    for shapes in (True, False):
        one = model.pause_s(max(events_per_step, 1.0), shapes=shapes)
        if one <= allowed:
            steps = min(requested, int(allowed / one))
            reason = _why_less(steps, requested, events_per_step, max_pause_s, shapes=shapes)
            return Plan(steps, shapes, one * steps, reason)
    whole = model.pause_s(events_per_step, shapes=True) / SAFETY
    return Plan(
        0,
        False,
        0.0,
        f"one step has about {events_per_step:.0f} events, and recording it would pause training for about "
        f"{format_time(one, 2)}, more than max_pause_s={max_pause_s:g} allows; "
        f"pass max_pause_s={math.ceil(whole)} to record it",
    )


def _why_less(steps: int, requested: int, events: float, max_pause_s: float, *, shapes: bool) -> str | None:
    if shapes and steps == requested:
        return None
    less = [f"{steps} of {requested} steps"] if steps < requested else []
    less += [] if shapes else ["no shapes"]
    return f"{' and '.join(less)}: a step has about {events:.0f} events and max_pause_s is {max_pause_s:g}"
