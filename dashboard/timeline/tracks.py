"""Which sampled quantities stand under the timeline, and where in its time?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from probe.dashboard.timeline.index import Track
from probe.telemetry import Samples, Telemetry

MOST_TRACKS, MOST_POINTS = 8, 1200
# Shown first, where they were sampled; then whatever else varies.
FIRST = ("sm_active", "power_w", "sm_clock_hz", "dram_active", "memory_used", "cpu", "gil_wait", "runqueue")
UNITS = {"_w": "W", "_hz": "Hz", "_s": "s", "_bytes": "B", "_fraction": "fraction", "_c": "°C", "_per_s": "/s"}


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
            label = f"{entity[:12]} {column}" if len(samples.entities) > 1 else column
            yield Track(label, _unit(column), at[told][::stride], values[told][::stride])


def _unit(column: str) -> str:
    return next((unit for end, unit in UNITS.items() if column.endswith(end)), "")
