"""Which sampled quantities stand under the timeline, and where in its time?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from probe.dashboard.readings import amount, words
from probe.report.timeline.index import Track
from probe.results.telemetry import Samples, Telemetry

MOST_TRACKS, MOST_POINTS = 8, 1200
# Shown first, where they were sampled; then whatever else varies.
FIRST = ("sm active", "power", "sm clock", "dram active", "memory used", "cpu", "gil wait", "run queue")


def tracks(telemetry: Telemetry, start_unix_ns: int, begin_ns: int, end_ns: int) -> tuple[Track, ...]:
    """The quantities that were sampled while the trace was recorded, the telling ones first."""
    margin = (end_ns - begin_ns) // 20
    found = [
        track
        for samples in telemetry.samples
        for track in _of_source(samples, start_unix_ns, begin_ns - margin, end_ns + margin)
    ]
    return tuple(sorted(found, key=_place)[:MOST_TRACKS])


def _place(track: Track) -> tuple[int, str]:
    return next((i for i, word in enumerate(FIRST) if word in track.label), len(FIRST)), track.label


def _of_source(samples: Samples, start_unix_ns: int, begin_ns: int, end_ns: int) -> Iterator[Track]:
    """One track a quantity and device; none for what was not sampled meanwhile or does not vary."""
    at = samples.unix_ns - start_unix_ns
    for number, entity in enumerate(samples.entities):
        inside = (samples.entity == number) & (at >= begin_ns) & (at <= end_ns)
        for column, values in samples.columns.items():
            told = inside & np.isfinite(values)
            if int(told.sum()) < 2 or np.ptp(values[told]) == 0:
                continue
            stride = max(1, int(told.sum()) // MOST_POINTS)
            label = f"{entity[:12]} {words(column)}" if len(samples.entities) > 1 else words(column)
            highest = amount(column, float(values[told].max()))
            yield Track(label, highest, at[told][::stride], values[told][::stride])
