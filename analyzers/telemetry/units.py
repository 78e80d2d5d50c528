"""Do two sources that read the same device say the same? Where they differ by a unit, neither is believed.

NVML and DCGM answer the same questions in units of their own. A value that is a thousand times the other's is in
another unit than was thought, and which of the two is wrong cannot be told from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from probe.analyzers.telemetry.readings import Readings
from probe.results.telemetry import Judgement, Samples, Telemetry
from probe.units import significant

FACTOR = 100.0  # by which levels may not differ: units of one quantity are a thousand apart or more
# Levels only: rates and shares, read at different moments, may be a hundred times as large by chance.
COMPARED = ("power_w", "power_limit_w", "sm_clock_hz", "memory_clock_hz", "memory_used_bytes")


def agreed(telemetry: Telemetry) -> tuple[Telemetry, tuple[Judgement, ...]]:
    """Telemetry without what NVML and DCGM contradict each other in, and a judgement with both readings for each."""
    nvml, dcgm = telemetry.of("nvml"), telemetry.of("dcgm")
    if nvml is None or dcgm is None:
        return telemetry, ()
    found = dict(_contradictions(nvml, dcgm))
    if not found:
        return telemetry, ()
    samples = tuple(_without(one, found) if one in (nvml, dcgm) else one for one in telemetry.samples)
    return replace(telemetry, samples=samples), tuple(found.values())


def _contradictions(nvml: Samples, dcgm: Samples) -> Iterator[tuple[tuple[str, str], Judgement]]:
    """(entity, quantity) and what is said of it."""
    for entity in (entity for entity in nvml.entities if entity in dcgm.entities):
        for name in COMPARED:
            one, other = (_median(samples, entity, name) for samples in (nvml, dcgm))
            if one is None or other is None or min(one, other) <= 0:
                continue
            if max(one, other) >= FACTOR * min(one, other):
                says = (
                    f"{entity}: NVML says {name} {significant(one)}, DCGM says {significant(other)}; one of them is in "
                    "another unit, so neither counts"
                )
                yield (entity, name), Judgement("units", entity, says, ("medians over the whole run",))


def _median(samples: Samples, entity: str, name: str) -> float | None:
    known = Readings(samples, samples.entity == samples.entities.index(entity)).of(name)
    return float(np.median(known)) if len(known) else None


def _without(samples: Samples, found: Mapping[tuple[str, str], Judgement]) -> Samples:
    """The samples with the refused quantities not said."""
    columns = dict(samples.columns)
    for entity, name in found:
        if name in columns:
            own = samples.entity == samples.entities.index(entity)
            columns[name] = np.where(own, np.nan, columns[name])
    return replace(samples, columns=columns)
