"""What did the run come to, and what did leaving the block take? The one line that a session prints."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter_ns

from probe.runs.run import Cycle

TELLING_S = 0.1  # a pause that nobody bounded is told from here on


class Closing:
    """How long each thing took that leaving the block waits for; `seconds` by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._before = 0

    def begin(self) -> int:
        """The loop is over: the time (ns) at which it was."""
        self._before = perf_counter_ns()
        return self._before

    def done(self, what: str) -> None:
        """One thing is done."""
        before, self._before = self._before, perf_counter_ns()
        self.seconds[what] = (self._before - before) * 1e-9

    def told(self, bound_s: float) -> str:
        """What it took and what took longest, where that is more than anybody expects; else nothing."""
        whole_s = sum(self.seconds.values())
        if whole_s <= max(bound_s, TELLING_S):
            return ""
        largest = max(self.seconds, key=lambda name: self.seconds[name])
        return f", leaving the block took {whole_s:.1f} s ({largest} {self.seconds[largest]:.1f} s)"


def last_line(path: Path | None, steps: int, cycles: Sequence[Cycle], warnings: Sequence[str], closing: str) -> str:
    """What was recorded and where it is. steps: all that were timed; of the recorded ones, how many were asked for."""
    where = f"run in {path} — probe analyze {shlex.quote(str(path))}" if path is not None else "no run was written"
    told = f" ({len(warnings)} warnings: {warnings[0]})" if len(warnings) > 1 else ""
    told = f" (warning: {warnings[0]})" if len(warnings) == 1 else told
    return f"probe: {_recorded(steps, [c for c in cycles if c.file])}{closing}, {where}{told}"


def _recorded(steps: int, traces: Sequence[Cycle]) -> str:
    if not traces:
        return f"no trace, {steps} step times"
    recorded, asked = sum(c.steps for c in traces), sum(c.requested_steps for c in traces)
    of = f" of {asked}" if recorded < asked else ""
    plural = "" if recorded == 1 and not of else "s"
    return f"{recorded}{of} step{plural} recorded, pause {max(c.end_pause_s for c in traces):.2f} s"


def say(line: str) -> None:
    """Print one line on standard error, where there is one."""
    if sys.stderr is None:
        return
    try:
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - the one place
    except (OSError, ValueError):  # closed, or a pipe that nobody reads
        return
