"""Where do samples wait until they are on disk? A bounded table that grows column by column."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np

from probe.results.telemetry import InPhases, PhasesOfRows, Samples

NO_PHASES = InPhases()
CAPACITY = 2000  # rows: 200 s of one GPU at 10 Hz, some 500 KB


class SampleBuffer:
    """Rows of one source. Where they cannot be written, the oldest half makes room, and is counted in `dropped`."""

    def __init__(self, source: str, capacity: int = CAPACITY) -> None:
        self.source = source
        self.capacity = capacity
        self.dropped = 0
        self._entities: dict[str, int] = {}
        self._clear()

    def _clear(self) -> None:
        self._at: array[int] = array("q")
        self._unix: array[int] = array("q")
        self._entity: array[int] = array("i")
        self._columns: dict[str, array[float]] = {}
        self._path: array[int] = array("i")
        self._whole: array[int] = array("i")
        self._paths: dict[tuple[str, ...], int] = {(): 0}

    def __len__(self) -> int:
        return len(self._at)

    @property
    def full(self) -> bool:
        """Whether the rows should become a part of their own."""
        return len(self._at) >= self.capacity

    def add(
        self, at_ns: int, unix_ns: int, entity: str, values: Mapping[str, float], phases: InPhases = NO_PHASES
    ) -> None:
        """One row; quantities that are not in `values` are unknown in it. phases: those that the loop is in."""
        if len(self._at) >= 2 * self.capacity:
            self._halve()
        row = len(self._at)
        self._at.append(at_ns)
        self._unix.append(unix_ns)
        self._entity.append(self._entities.setdefault(entity, len(self._entities)))
        self._path.append(self._paths.setdefault(phases.names, len(self._paths)))
        self._whole.append(phases.whole)
        for name, value in values.items():
            column = self._columns.get(name)
            if column is None:
                column = self._columns[name] = array("d")
            if len(column) < row:
                column.extend([math.nan] * (row - len(column)))
            column.append(value)

    def _halve(self) -> None:
        half = len(self._at) // 2
        self.dropped += half
        for column in self._columns.values():
            column.extend([math.nan] * (len(self._at) - len(column)))
            del column[:half]
        del self._at[:half], self._unix[:half], self._entity[:half], self._path[:half], self._whole[:half]
        self._forget_paths()

    def _forget_paths(self) -> None:
        """Only phases of rows that are left: a loop may give each step a name of its own."""
        names, used = list(self._paths), sorted({0, *self._path})
        number = {old: new for new, old in enumerate(used)}
        self._paths = {names[old]: number[old] for old in used}
        self._path = array("i", (number[old] for old in self._path))

    def samples(self, about: dict[str, Any]) -> Samples:
        """The rows as they are."""
        rows = len(self._at)
        columns = {}
        for name, column in self._columns.items():
            filled = np.full(rows, np.nan)
            filled[: len(column)] = column
            columns[name] = filled
        return Samples(
            self.source, np.array(self._at, np.int64), np.array(self._unix, np.int64),
            np.array(self._entity, np.int32), tuple(self._entities), columns, about, self._phases(),
        )  # fmt: skip

    def _phases(self) -> PhasesOfRows | None:
        if not any(self._path):
            return None
        return PhasesOfRows(np.array(self._path, np.int32), np.array(self._whole, np.int32), tuple(self._paths))

    def clear(self) -> None:
        """Forget the rows; they are on disk."""
        self._clear()
