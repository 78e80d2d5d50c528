"""What are the roofs of this machine, given what was measured?

Levels come from the latency plateaus. A level's bandwidth is the best of the four STREAM kernels with all threads at
a footprint that lies in that level for each thread; DRAM's is that at the largest footprint, which is also the memory
roof: what an operator that reads some arrays and writes one can get. Compute roofs are the matmul ceilings by dtype.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence

from probe.kernels.cpu.loops import STREAMS
from probe.machine.device import Ceilings, Device, Level
from probe.microbench import launch, plateaus
from probe.microbench.cuda import levels as gpu_levels
from probe.microbench.plateaus import Plateau
from probe.results.measurement import Measurement

FITS_FRACTION = 0.75  # of a level's capacity, so that stack and neighbours have room
DRAM = "DRAM"
GPU_LEVELS = ("L1", "L2", DRAM)  # of the hierarchical roofline; shared memory is no level of what operators read


def levels_of(measurements: Sequence[Measurement], device: Device) -> tuple[Plateau, ...]:
    """The levels seen by `cache_latency`; without it those the system reports, with no latency."""
    if device.kind != "cpu":
        return gpu_levels.find(measurements, device.l2_bytes)
    found = sorted((int(m.params["size_bytes"]), m.min) for m in measurements if m.suite == "cache_latency")
    if not found:
        return plateaus.reported(device.caches)
    return plateaus.find([size for size, _ in found], [latency for _, latency in found])


def label(measurements: Sequence[Measurement], found: Sequence[Plateau], device: Device) -> tuple[Measurement, ...]:
    """The measurements with `params.level` where their footprint lies within one level; a GPU's suites say it."""
    if device.kind != "cpu":
        return tuple(measurements)
    return tuple(_labelled(measurement, found, device) for measurement in measurements)


def _labelled(measurement: Measurement, found: Sequence[Plateau], device: Device) -> Measurement:
    size = measurement.params.get("size_bytes")
    if measurement.suite == "cache_latency":
        level = next((p.name for p in found if size in p.sizes), None)
    elif measurement.suite == "memory_bandwidth":
        level = level_of(int(measurement.params["size_bytes"]), measurement.params["threads"], found, device)
    else:
        return measurement
    return dataclasses.replace(measurement, params=measurement.params | {"level": level})


def level_of(size_bytes: int, threads: int, found: Sequence[Plateau], device: Device) -> str | None:
    """The level in which a footprint of `size_bytes` over `threads` threads lies clearly; None between levels.

    A level whose reported capacity is larger than what was seen (a neighbour used the rest) counts with the reported
    one.
    """
    exceeded = 0
    for plateau in found:
        seen = plateaus.capacity(plateau, device.caches)
        reported = plateaus.reported_bytes(plateau.name, device.caches)
        capacity = max(seen, reported or 0) if seen else None
        if capacity is None:
            return plateau.name if size_bytes >= 4 * exceeded else None
        each = size_bytes / threads * min(threads, _sharers(plateau.name, threads, device))
        if each <= FITS_FRACTION * capacity:
            return plateau.name if each > exceeded else None
        exceeded = capacity
    return None


def _sharers(name: str, threads: int, device: Device) -> int:
    """How many threads share one cache of this level: as the system reports, else L1 and L2 one, L3 all."""
    reported = next((cache.shared_by for cache in device.caches if f"L{cache.level}" == name), None)
    return reported or (1 if name in ("L1", "L2") else threads)


def derive(measurements: Sequence[Measurement], found: Sequence[Plateau], device: Device, *, quick: bool) -> Ceilings:
    """The ceilings of `device` from labelled measurements; what was not measured is None or absent."""
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    return Ceilings(
        origin="measured",
        device=device.name,
        dram_bytes_per_s=dram_bytes_per_s(measurements),
        flops_per_s={str(m.params["dtype"]): m.value for m in measurements if m.suite == "matmul"},
        launch_s=next(
            (m.min for m in measurements if m.suite == "launch" and m.params.get("operator") == launch.CEILING),
            None,
        ),
        levels=_levels(measurements, found, device),
        link_bytes_per_s=_links(measurements),
        quick=quick,
        measured_at=now.isoformat(),
    )


def _links(measurements: Sequence[Measurement]) -> dict[str, float]:
    """The best bus bandwidth of a collective by the number of ranks; of NCCL's only: others go through the hosts."""
    rates: dict[str, float] = {}
    for m in measurements:
        if m.suite == "collectives" and m.metric == "busbw" and m.params.get("backend") == "nccl":
            ranks = str(m.params["ranks"])
            rates[ranks] = max(rates.get(ranks, 0.0), m.value)
    return rates


def dram_bytes_per_s(measurements: Sequence[Measurement]) -> float | None:
    """The best kernel at the largest footprint with the most threads."""
    best = memory_roof(measurements)
    return best.value if best else None


def memory_roof(measurements: Sequence[Measurement]) -> Measurement | None:
    """The measurement that is the memory roof; None where bandwidth was not measured."""
    return max(
        roof_streams(measurements),
        key=lambda m: (m.params["threads"] or 0, m.params["size_bytes"], m.value),
        default=None,
    )


def roof_streams(measurements: Sequence[Measurement]) -> list[Measurement]:
    """The bandwidths that may set a roof: STREAM's kernels with ordinary stores, as torch's operators use them."""
    kernels = {kind.name for kind in STREAMS}
    return [m for m in measurements if m.suite == "memory_bandwidth" and m.params.get("kernel") in kernels]


def _gpu_levels(measurements: Sequence[Measurement], found: Sequence[Plateau], device: Device) -> dict[str, Level]:
    """A level's rate is the best that all SMs together got from it; DRAM's is the memory roof."""
    rates: dict[str, float] = {}
    for m in measurements:
        level = m.params.get("level")
        if m.suite == "memory_bandwidth" and level in GPU_LEVELS:
            rates[level] = max(rates.get(level, 0.0), m.value)
    roof = dram_bytes_per_s(measurements)
    rates |= {DRAM: roof} if roof else {}
    seen = {plateau.name: plateau for plateau in found}
    return {
        name: Level(
            capacity_bytes=_gpu_capacity(seen.get(name), device),
            latency_s=seen[name].latency_s if name in seen else None,
            bytes_per_s=rates.get(name),
        )
        for name in dict.fromkeys((*GPU_LEVELS, *seen))
        if name in seen or name in rates
    }


def _gpu_capacity(plateau: Plateau | None, device: Device) -> int | None:
    """The driver's for L2, else the largest size that was seen in the level."""
    if plateau is None:
        return None
    return device.l2_bytes if plateau.name == gpu_levels.L2 and device.l2_bytes else plateau.capacity_bytes


def _levels(measurements: Sequence[Measurement], found: Sequence[Plateau], device: Device) -> dict[str, Level]:
    if device.kind != "cpu":
        return _gpu_levels(measurements, found, device)
    streams = roof_streams(measurements)
    threads = max((m.params["threads"] or 0 for m in streams), default=0)
    levels = {}
    for plateau in found:
        rates = [m.value for m in streams if _is(m, plateau.name, threads)]
        levels[plateau.name] = Level(
            capacity_bytes=plateaus.capacity(plateau, device.caches),
            latency_s=plateau.latency_s,
            bytes_per_s=dram_bytes_per_s(streams) if plateau.name == DRAM else max(rates, default=None),
        )
    if streams and DRAM not in levels:
        levels[DRAM] = Level(bytes_per_s=dram_bytes_per_s(streams))
    return levels


def _is(measurement: Measurement, level: str, threads: int) -> bool:
    params = measurement.params
    return params.get("level") == level and params["threads"] == threads
