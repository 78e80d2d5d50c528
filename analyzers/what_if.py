"""How much shorter does the step get, not the operator, if something takes less time? The step is replayed for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from probe.analyzers.critical_path.graph import Graph, build
from probe.analyzers.critical_path.replay import Changes, Replay
from probe.analyzers.operators.steps import recorded_steps
from probe.trace import Steps, Trace


def step_time(trace: Trace, changes: Changes) -> float:
    """Mean seconds of a step of `trace` with the changes; for many questions about one trace take a WhatIf."""
    return WhatIf(trace, recorded_steps(trace)).step_s(changes)


@dataclass(frozen=True, eq=False)
class WhatIf:
    """Questions about the steps of one trace; what answers them is built when the first is asked."""

    trace: Trace
    marks: Steps

    @cached_property
    def graph(self) -> Graph:
        """What waits for what."""
        return build(self.trace, self.marks)

    @cached_property
    def _replay(self) -> Replay:
        return Replay(self.trace, self.graph)

    @cached_property
    def recorded_s(self) -> float:
        """Mean seconds of a step as recorded."""
        return self._replay.step_s()

    @cached_property
    def replayed_s(self) -> float:
        """The same with nothing changed, from walking the graph: as recorded, or the graph is wrong."""
        return self._replay.step_s(Changes())

    def step_s(self, changes: Changes) -> float:
        """Mean seconds of a step with the changes."""
        return self._replay.step_s(changes)

    def step_saving_s(self, rows: Collection[int], fraction: float = 1.0, *, host: bool = True) -> float:
        """Seconds by which the step gets shorter if these operators lose that share of their time, on host and device.

        host: whether they lose it on the host as well. It is never more than what they lose, and nothing where all of
        it passes while the step waits for something else.
        """
        return self.saving_s(dict.fromkeys(rows, 1.0 - fraction), host=host)

    def saving_s(self, kept: Mapping[int, float], *, host: bool = True) -> float:
        """Seconds by which the step gets shorter if each operator, by its row, keeps that share of its time."""
        if not kept:
            return 0.0
        return max(self.recorded_s - self.step_s(Changes(ops=kept, host=host)), 0.0)

    def cap(self, saving_s: float | None, rows: Collection[int], spent_s: float) -> float | None:
        """`saving_s`, or what of it shortens the step where that is less.

        rows: the operators that take the time; spent_s: what they take per step. A saving that no operator's time
        holds, as that of a wait, stays as it is.
        """
        if saving_s is None or not len(rows) or spent_s <= 0 or saving_s <= 0:
            return saving_s
        return min(saving_s, self.step_saving_s(rows, min(saving_s / spent_s, 1.0)))
