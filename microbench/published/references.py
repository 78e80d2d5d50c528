"""What have others published for this device, and how does each measurement compare with it?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from probe.machine import cpu_info
from probe.machine.device import Device
from probe.microbench.published import cpu as published_cpu
from probe.microbench.published import gpu as published_gpu
from probe.microbench.published import verdicts
from probe.microbench.published.published import Published
from probe.results.measurement import Measurement


def this_family() -> published_cpu.Family | None:
    """The core of this machine."""
    return published_cpu.family(cpu_info.read_text(Path("/proc/cpuinfo")) or "")


def annotate(
    measurements: Sequence[Measurement],
    device: Device,
    core: published_cpu.Family | None,
    clock_hz: float | None,
    throttled_by: Sequence[str] = (),
) -> tuple[Measurement, ...]:
    """The measurements with the published range and the verdict where there is one.

    `throttled_by` are the reasons for a lower clock that held during the run, where a measurement has none of its own.
    """
    pairs = [(m, _fitting(m, _published(m, device, core, clock_hz))) for m in measurements]
    best = _best_of_sizes(pairs)
    return tuple(
        _annotated(m, published, throttled_by) if published and (not published.best_of_sizes or i in best) else m
        for i, (m, published) in enumerate(pairs)
    )


def _published(
    measurement: Measurement, device: Device, core: published_cpu.Family | None, clock_hz: float | None
) -> Iterable[Published]:
    if device.kind != "cpu":
        return published_gpu.values_of(device.name)
    if core is None or clock_hz is None:
        return ()
    cores = device.physical_cores or device.cores or 1
    return published_cpu.values_of(core, clock_hz, cores, measurement)


def _fitting(measurement: Measurement, published: Iterable[Published]) -> Published | None:
    return next((value for value in published if value.fits(measurement)), None)


def _best_of_sizes(pairs: Sequence[tuple[Measurement, Published | None]]) -> set[int]:
    """Which measurements are the best over all sizes of those that one published value fits."""
    best: dict[int, int] = {}
    for i, (measurement, published) in enumerate(pairs):
        if published is None or not published.best_of_sizes:
            continue
        leader = best.setdefault(id(published), i)
        if _is_better(measurement, pairs[leader][0]):
            best[id(published)] = i
    return set(best.values())


def _is_better(one: Measurement, other: Measurement) -> bool:
    return one.value < other.value if one.unit == "s" else one.value > other.value


def _annotated(measurement: Measurement, published: Published, throttled_by: Sequence[str]) -> Measurement:
    reference = published.reference(measurement)
    if reference is None:
        return measurement
    verdict, because = verdicts.judge(measurement, reference, peak=published.peak, throttled_by=throttled_by)
    return dataclasses.replace(measurement, reference=reference, verdict=verdict, because=because)


def judged(measurements: Sequence[Measurement]) -> Iterator[tuple[str, int]]:
    """How many measurements have each verdict, in the order as published, better, worse; none without a verdict."""
    for verdict in (verdicts.AS_PUBLISHED, verdicts.BETTER, verdicts.WORSE):
        if count := sum(m.verdict == verdict for m in measurements):
            yield verdict, count
