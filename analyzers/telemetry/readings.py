"""Which readings count? Those of one device, over one kind of steps, and what they come to.

Bare steps are preferred: what the profiler costs is not in them. Nothing is concluded from fewer than MIN_READINGS.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from probe.results.telemetry import Quantity, Samples, Telemetry

MIN_READINGS = 3
BUSY_FRACTION = 0.5  # utilisation from which a clock counts: an idle GPU lowers it
BARE = ("wait", "after")
COUNTERS = ("energy_j", "ecc_corrected_errors", "ecc_uncorrected_errors", "pcie_replays", "xid", "clocks_event_reasons")

Mask = npt.NDArray[np.bool_]


def within(samples: Samples, telemetry: Telemetry, window: str) -> Mask:
    """Which readings fell into the steps of a kind; the whole run where its steps are not known."""
    chosen = [w for w in telemetry.windows if window == "all" or (w.phase in BARE) == (window == "bare")]
    if window == "recorded":
        chosen = [w for w in chosen if w.phase == "active"]
    if window == "all" and not chosen:
        return np.ones(len(samples), bool)
    mask = np.zeros(len(samples), bool)
    for one in chosen:
        mask |= (samples.at_ns >= one.begin_ns) & (samples.at_ns < one.end_ns)
    return mask


def quantity_of(
    name: str, column: npt.NDArray[np.float64], source: str, entity: str, window: str
) -> Iterator[Quantity]:
    """Mean and extremes of a level or a rate, what was used by a counter of energy; nothing where nothing was said."""
    known = column[~np.isnan(column)]
    if not len(known):
        return
    if name == "energy_j":
        used = float(known.max() - known.min())
        yield Quantity("energy_used_j", source, entity, window, len(known), used, used, used)
    elif name not in COUNTERS:
        yield Quantity(
            name, source, entity, window, len(known), float(known.mean()), float(known.min()), float(known.max())
        )


class Readings:
    """The readings of one device over the steps that count."""

    def __init__(self, samples: Samples, rows: Mask) -> None:
        self._samples, self._rows = samples, rows

    def of(self, name: str) -> npt.NDArray[np.float64]:
        """What was said, without what was not."""
        column = self._samples.columns.get(name)
        chosen = np.empty(0) if column is None else column[self._rows]
        return chosen[~np.isnan(chosen)]

    def interval(self, name: str) -> tuple[float, float] | None:
        """The mean less and plus two standard errors; None of too few."""
        known = self.of(name)
        if len(known) < MIN_READINGS:
            return None
        mean, error = float(known.mean()), float(known.std(ddof=1)) / len(known) ** 0.5
        return mean - 2 * error, mean + 2 * error

    def mean(self, name: str) -> float | None:
        """The mean; None of too few."""
        known = self.of(name)
        return float(known.mean()) if len(known) >= MIN_READINGS else None

    def while_busy(self) -> Readings:
        """Those in which the GPU worked; all where that was not said."""
        use = self._samples.columns.get("gpu_utilisation_fraction")
        if use is None:
            return self
        return Readings(self._samples, self._rows & ~(use < BUSY_FRACTION))


def readings_of(samples: Samples, telemetry: Telemetry, entity: int) -> Readings:
    """Of the bare steps where there are enough, else of the whole run."""
    of_entity = samples.entity == entity
    bare = within(samples, telemetry, "bare") & of_entity
    return Readings(samples, bare if bare.sum() >= MIN_READINGS else within(samples, telemetry, "all") & of_entity)
