"""How long was every step, and what happened in it? Kept in memory, bounded, one array per column."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field

CAPACITY = 1_000_000  # kept steps: 8 MB a column; past it every second one is dropped, again and again
NEVER = 1 << 62  # a number of steps that no loop reaches
COLUMNS = ("samples", "tokens", "micro_batches", "data_wait_ns")
_MISSING = {"micro_batches": 1.0, "data_wait_ns": 0.0}


@dataclass
class Series:
    """A user's metric: its value and the number of the step in which it was given."""

    unit: str
    steps: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))


class StepLog:
    """Durations and what was said with each step.

    Row k belongs to step k * stride, where `stride` (a power of two) starts at 1 and doubles whenever `capacity` rows
    are full. `durations_ns` is public because step() appends to it directly: a call more would cost a third.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.durations_ns: array[int] = array("q")
        self.columns: dict[str, array[float]] = {}
        self.series: dict[str, Series] = {}
        self.phases: list[tuple[str, int]] = []  # phase, number of its first step
        self.stride = 1
        self.capacity = capacity

    def add_phase(self, phase: str, first_step: int) -> None:
        """From `first_step` on the steps belong to `phase`; a phase that got no step is forgotten."""
        if self.phases and self.phases[-1][1] == first_step:
            self.phases.pop()
        if not self.phases or self.phases[-1][0] != phase:
            self.phases.append((phase, first_step))

    def phase_runs(self, steps: int) -> list[tuple[str, int]]:
        """Each phase in order with its number of steps, of `steps` altogether."""
        edges = [first for _, first in self.phases[1:]] + [steps]
        runs = [(phase, end - first) for (phase, first), end in zip(self.phases, edges, strict=False)]
        return [run for run in runs if run[1] > 0]

    def note(self, step: int, **values: float) -> None:
        """Columns of a step that has more than a duration; nothing where the step's row is not kept."""
        if step % self.stride:
            return
        row = step // self.stride
        for name, value in values.items():
            if value != _MISSING.get(name):
                self._padded(name, row).append(value)

    def _padded(self, name: str, rows: int) -> array[float]:
        """The column, filled up to `rows` with what a step that said nothing has."""
        column = self.columns.setdefault(name, array("d"))
        if len(column) < rows:
            column.extend([_MISSING.get(name, math.nan)] * (rows - len(column)))
        return column

    def column(self, name: str) -> array[float] | None:
        """The column, as long as `durations_ns`; None where no step ever said anything."""
        if name not in self.columns:
            return None
        return self._padded(name, len(self.durations_ns))[: len(self.durations_ns)]

    def thin(self) -> None:
        """Drop every second row if `capacity` is reached."""
        if len(self.durations_ns) < self.capacity:
            return
        for name in self.columns:
            del self._padded(name, len(self.durations_ns))[1::2]
        del self.durations_ns[1::2]
        self.stride *= 2

    @property
    def full_at(self) -> int:
        """The number of steps after which `thin` has to be called."""
        return self.capacity * self.stride

    def add_metric(self, name: str, step: int, value: float, unit: str) -> None:
        """One value of a metric; bounded as the steps are."""
        series = self.series.setdefault(name, Series(unit))
        series.steps.append(step)
        series.values.append(value)
        if len(series.steps) >= self.capacity:
            del series.steps[1::2]
            del series.values[1::2]
