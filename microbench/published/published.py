"""What is a published value, which measurements does it belong to, and what range do several sources span?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from probe.results.measurement import Measurement, Reference

Unit = Literal["cycles", "s", "B/s", "FLOP/s"]


@dataclass(frozen=True)
class Published:
    """Values that were read in a source, of one quantity.

    `params` must be found in a measurement's own for it to be this quantity; None stands for an absent one too, a tuple
    for any of its values. `sizes` are the least and greatest footprint in bytes to which the values apply. A `peak` is
    what the units could do and nobody measured; `best_of_sizes` says that the source gives the best over all sizes.
    """

    suite: str
    metric: str
    unit: Unit
    values: tuple[tuple[float, str], ...]  # each with its source
    params: Mapping[str, object] = field(default_factory=dict)
    sizes: tuple[float, float] = (0, math.inf)
    peak: bool = False
    best_of_sizes: bool = False

    def fits(self, measurement: Measurement) -> bool:
        """Whether `measurement` is of this quantity."""
        if (measurement.suite, measurement.metric) != (self.suite, self.metric):
            return False
        if not all(_allowed(wanted, measurement.params.get(key)) for key, wanted in self.params.items()):
            return False
        size = measurement.params.get("size_bytes")
        return size is None or self.sizes[0] <= size <= self.sizes[1]

    def reference(self, measurement: Measurement) -> Reference | None:
        """The range in the measurement's unit; None for cycles where the measurement does not tell its clock."""
        factor = 1.0 if self.unit == measurement.unit else None
        if self.unit == "cycles" and measurement.unit == "s":
            factor = seconds_per_cycle(measurement)
        if factor is None:
            return None
        numbers = [value * factor for value, _ in self.values]
        return Reference(min(numbers), max(numbers), self.source)

    @property
    def source(self) -> str:
        """The sources, each with its own value where there are several."""
        if len({source for _, source in self.values}) == 1:
            return self.values[0][1]
        unit = " cycles" if self.unit == "cycles" else f" {self.unit}"
        return "; ".join(f"{value:g}{unit}: {source}" for value, source in self.values)


def seconds_per_cycle(measurement: Measurement) -> float | None:
    """The length of a cycle while `measurement` ran, from its own clock; None where it has none."""
    clock_hz, cycles = measurement.params.get("clock_hz"), measurement.params.get("cycles")
    if clock_hz:
        return 1 / float(clock_hz)
    return measurement.value / float(cycles) if cycles else None


def _allowed(wanted: object, found: object) -> bool:
    return found in wanted if isinstance(wanted, tuple) else found == wanted
