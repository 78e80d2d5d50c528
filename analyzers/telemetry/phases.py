"""What did device and host do in each phase that the program annotated?

A reading is of the time since the one before. It counts for a phase only where that was open all the while, so that
phases shorter than the time between two readings have a share, and no figures.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from probe.analyzers.telemetry.readings import MIN_READINGS, Mask, quantity_of, within
from probe.results.telemetry import PhasesOfRows, PhaseUse, Quantity, Samples, Telemetry
from probe.units import format_time

MOST_PHASES = 20
QUANTITIES = (
    "gpu_utilisation_fraction", "power_w", "sm_clock_hz", "sm_active_fraction", "tensor_active_fraction",
    "dram_active_fraction", "memory_used_bytes", "process_cpu_cores", "machine_busy_cores", "loop_on_cpu_fraction",
    "loop_run_queue_fraction", "gil_wait_s", "resident_bytes",
)  # fmt: skip


def phases_of(telemetry: Telemetry) -> Iterator[PhaseUse]:
    """Each phase, the one with the most readings first."""
    annotated = [samples for samples in telemetry.samples if samples.phases is not None]
    if not annotated:
        return
    window = "bare" if any(_enough(samples, telemetry) for samples in annotated) else "all"
    clock = max(annotated, key=lambda samples: int(_rows(samples, telemetry, window, 0).sum()))
    ticks = _rows(clock, telemetry, window, 0)
    counted = {name: int((_open(clock, name) & ticks).sum()) for name in _names(annotated)}
    for name in sorted(counted, key=lambda name: -counted[name])[:MOST_PHASES]:
        if counted[name]:
            yield _use(name, counted[name], int(ticks.sum()), annotated, telemetry, window)


def _enough(samples: Samples, telemetry: Telemetry) -> bool:
    """Whether the bare steps say something of phases."""
    marks = samples.phases
    return marks is not None and int((within(samples, telemetry, "bare") & (marks.path > 0)).sum()) >= MIN_READINGS


def _rows(samples: Samples, telemetry: Telemetry, window: str, entity: int) -> Mask:
    return np.asarray(within(samples, telemetry, window) & (samples.entity == entity), bool)


def _names(annotated: list[Samples]) -> list[str]:
    paths = (path for samples in annotated if samples.phases is not None for path in samples.phases.paths)
    return list(dict.fromkeys(name for path in paths for name in path))


def _open(samples: Samples, name: str, *, whole: bool = False) -> Mask:
    """The readings at which a phase was open; whole: and ever since the one before."""
    marks = samples.phases
    if marks is None:
        return np.zeros(len(samples), bool)
    depth = np.array([_depth(marks, number, name) for number in range(len(marks.paths))], np.int64)[marks.path]
    return np.asarray((depth >= 0) & (depth < marks.whole) if whole else depth >= 0)


def _depth(marks: PhasesOfRows, number: int, name: str) -> int:
    """How far inside a phase stands in a path, from 0; -1 where it does not."""
    path = marks.paths[number]
    return path.index(name) if name in path else -1


def _use(name: str, readings: int, ticks: int, annotated: list[Samples], telemetry: Telemetry, window: str) -> PhaseUse:
    quantities = tuple(q for samples in annotated for q in _quantities(name, samples, telemetry, window))
    return PhaseUse(name, readings, readings / ticks, quantities, None if quantities else _why_none(annotated))


def _why_none(annotated: list[Samples]) -> str:
    periods = [float(samples.about["period_s"]) for samples in annotated if samples.about.get("period_s")]
    between = f" ({format_time(min(periods))})" if periods else ""
    return (
        f"fewer than {MIN_READINGS} readings lie wholly within it: it is seldom longer than the time between two of "
        f"them{between}; sample more often, telemetry={{'nvml_hz': …, 'host_hz': …}}"
    )


def _quantities(name: str, samples: Samples, telemetry: Telemetry, window: str) -> Iterator[Quantity]:
    inside = _open(samples, name, whole=True)
    for number, entity in enumerate(samples.entities):
        rows = _rows(samples, telemetry, window, number) & inside
        if int(rows.sum()) < MIN_READINGS:
            continue
        for column in QUANTITIES:
            if column in samples.columns:
                yield from quantity_of(column, samples.columns[column][rows], samples.source, entity, window)
        yield from _energy(samples, number, rows, window)


def _energy(samples: Samples, entity: int, rows: Mask, window: str) -> Iterator[Quantity]:
    """What the counter says of the time between readings: joules used, and their mean power."""
    counter = samples.columns.get("energy_j")
    if counter is None:
        return
    own = np.flatnonzero((samples.entity == entity) & ~np.isnan(counter))
    used, lasted = np.diff(counter[own]), np.diff(samples.at_ns[own]) * 1e-9
    counts = rows[own[1:]] & (used >= 0) & (lasted > 0)  # a counter that began anew says nothing
    n, joules, seconds = int(counts.sum()), float(used[counts].sum()), float(lasted[counts].sum())
    if n >= MIN_READINGS:
        whose = samples.source, samples.entities[entity], window, n
        power = (used[counts] / lasted[counts]).tolist()
        yield Quantity("energy_used_j", *whose, joules, joules, joules)
        yield Quantity("mean_power_w", *whose, joules / seconds, min(power), max(power))
