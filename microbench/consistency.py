"""Can these results be true together? Each law says what no machine can do; a result that breaks one is implausible.

A disturbance only ever lengthens a time and lowers a rate, so laws are put to the best windows. Where two results
contradict each other and the one that a disturbance would explain was disturbed (`contended`), that one alone is not
believed; otherwise neither is. Each law has a tolerance for the clock, which is not the same throughout a run. A law
whose ingredients are not known (the channels of DRAM, the pipes of an unknown core) is not applied.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from probe.machine import datasheets
from probe.machine.device import Device
from probe.microbench.published.cpu import Family
from probe.microbench.published.verdicts import IMPLAUSIBLE
from probe.results.measurement import Measurement
from probe.units import format_si, format_time, format_value

ORDER = ("L1", "L2", "L3", "DRAM")
CLOCK_HZ = {"cpu": (0.5e9, 7e9), "gpu": (0.1e9, 4e9)}  # wide: outside, the chain was not one cycle a link
TOLERANCE = 1.10  # of a rate beyond its bound, or of one level beyond the next: the clock of another moment
LOOSE = 1.25  # where the bound itself was measured, or is a datasheet's at the rated and not at the highest clock
# Lines one core can wait for at once. Line fill buffers (10 to 16 on x86) do not bound it: the prefetchers of L2 and L3
# have queues of their own, and latencies over 4 KiB pages include TLB misses. Far above all of them together.
MOST_LINES_A_CORE = 512
MOST_LINES_AN_SM = 2048  # one for each thread that can be resident
LOADS = ("memory_bandwidth", "vector_loads")  # the suites whose rates are of loads from one level by all threads
STREAMS = (*LOADS, "saxpy", "copies")  # those whose rates are of loads and stores, wherever the data lies


@dataclass(frozen=True)
class Facts:
    """What the laws are put to: the measurements and what is known of the device."""

    measurements: tuple[Measurement, ...]
    device: Device
    core: Family | None
    clock_hz: float | None

    @property
    def is_cpu(self) -> bool:
        """Whether this is a CPU."""
        return self.device.kind == "cpu"

    def cores(self, measurement: Measurement) -> int:
        """The cores that worked: virtual machines report too few, so never fewer than the threads that were used."""
        return max(self.device.physical_cores or 0, measurement.params.get("threads") or 0) or self.device.cores or 1

    def of(self, *suites: str) -> Iterator[Measurement]:
        """The measurements of these suites."""
        return (m for m in self.measurements if m.suite in suites)

    def cached(self) -> Iterator[Measurement]:
        """The loads and stores that stay in their level: those past the caches go to DRAM from any footprint."""
        return (m for m in self.of(*LOADS) if m.params.get("stores") != "non-temporal")

    def latencies(self) -> dict[str, Measurement]:
        """The quickest dependent load of each level, in the order of the levels."""
        found: dict[str, Measurement] = {}
        for m in sorted(self.of("cache_latency"), key=lambda m: -m.value):
            if m.metric == "latency" and m.params.get("level") in ORDER:
                found[m.params["level"]] = m
        return {level: found[level] for level in ORDER if level in found}


@dataclass(frozen=True)
class Breach:
    """Measurements that cannot be true, and what they would be if they were."""

    culprits: tuple[Measurement, ...]
    sentence: str


@dataclass(frozen=True)
class Checked:
    """All measurements, those that broke a law flagged `implausible`; a warning for each law that was broken."""

    measurements: tuple[Measurement, ...]
    warnings: tuple[str, ...]


Law = Callable[[Facts], Iterator[Breach]]


def check(measurements: Sequence[Measurement], device: Device, core: Family | None, clock_hz: float | None) -> Checked:
    """Put every law to the measurements (with `params.level`); `clock_hz` is the highest core clock that was seen."""
    facts = Facts(tuple(measurements), device, core, clock_hz if _is_a_clock(clock_hz, device) else None)
    culprits: set[int] = set()
    warnings = []
    for law in LAWS:
        breaches = list(law(facts))
        culprits |= {id(m) for breach in breaches for m in breach.culprits}
        if breaches:
            warnings.append(_warning(breaches))
    return Checked(tuple(_flagged(m) if id(m) in culprits else m for m in measurements), tuple(warnings))


def plausible(measurements: Sequence[Measurement]) -> tuple[Measurement, ...]:
    """Those that broke no law: what ceilings may be made of."""
    return tuple(m for m in measurements if IMPLAUSIBLE not in m.flags)


def _warning(breaches: Sequence[Breach]) -> str:
    """One line for a law: the first breach in words, the number of others."""
    suites = dict.fromkeys(m.suite for breach in breaches for m in breach.culprits)
    more = f" (and {len(breaches) - 1} more like it)" if len(breaches) > 1 else ""
    return f"{', '.join(suites)}: implausible, not used as a ceiling: {breaches[0].sentence}{more}"


def _flagged(measurement: Measurement) -> Measurement:
    return dataclasses.replace(measurement, flags=(*dict.fromkeys((*measurement.flags, IMPLAUSIBLE)),))


def positive(facts: Facts) -> Iterator[Breach]:
    """Law: times and rates are finite and greater than 0."""
    for m in facts.measurements:
        if not (math.isfinite(m.value) and m.value > 0):
            yield Breach((m,), f"{m.name} came out as {m.value:g}; every time and rate is finite and above 0")


def clock_within_reach(facts: Facts) -> Iterator[Breach]:
    """Law: a dependent addition takes a cycle, and no cycle is as short or as long as that.

    A disturbance lengthens the cycles of one measurement: too slow a clock means something where it is the highest.
    """
    low, high = CLOCK_HZ["cpu" if facts.is_cpu else "gpu"]
    rows = [(m, float(m.params["clock_hz"])) for m in facts.measurements if m.params.get("clock_hz")]
    highest = max((clock for _, clock in rows), default=0.0)
    for m, clock in rows:
        if clock > high or highest < low:
            limits = f"{format_si(low, 'Hz')} to {format_si(high, 'Hz')}"
            yield Breach((m,), f"{m.name} ran at a clock of {format_si(clock, 'Hz')}; {limits} is what there is")


def latency_grows(facts: Facts) -> Iterator[Breach]:
    """Law: a level farther from the core answers later."""
    for (near, one), (far, other) in itertools.pairwise(facts.latencies().items()):
        if one.value >= other.value:
            sentence = f"{near} answers in {format_time(one.value)}, {far} behind it in {format_time(other.value)}"
            yield Breach(_disbelieved(one, other), f"{sentence}; L1 < L2 < L3 < DRAM")


def bandwidth_falls(facts: Facts) -> Iterator[Breach]:
    """Law: a level nearer to the core streams at least as fast as the next, with the same loop and threads."""
    groups: dict[tuple[object, ...], dict[str, Measurement]] = {}
    for m in sorted(facts.cached(), key=lambda m: m.value):
        if m.params.get("level") in ORDER:
            if not facts.is_cpu and m.params.get("occupancy") not in (None, "most", "full"):
                continue  # the device was not filled: what it streamed says nothing of the level
            same = ("kernel", "load_bytes", "threads") if facts.is_cpu else ("kernel", "load_bytes")
            loop = (m.suite, *(m.params.get(key) for key in same))
            groups.setdefault(loop, {})[m.params["level"]] = m
    for best in groups.values():
        present = [level for level in ORDER if level in best]
        for near, far in itertools.pairwise(present):
            one, other = best[near], best[far]
            if one.value * TOLERANCE < other.value:
                rates = f"{near} streams {format_value(one.value, one.unit)} ({one.name}), {far} behind it"
                rest = f"{format_value(other.value, other.unit)}; what comes from {far} passes through {near}"
                yield Breach(_disbelieved(one, other), f"{rates} {rest}")


def loads_within_the_pipes(facts: Facts) -> Iterator[Breach]:
    """Law: cores move no more bytes a cycle than their load and store pipes are wide."""
    if not (facts.is_cpu and facts.core and facts.core.l1_bytes and facts.clock_hz):
        return
    a_core = facts.core.l1_bytes.high * facts.clock_hz
    for m in facts.of(*STREAMS):
        threads = m.params.get("threads")
        if threads and m.value > a_core * threads * TOLERANCE:
            bound = f"{threads} × {format_si(a_core, 'B/s')}, {facts.core.l1_bytes.high:g} bytes a cycle"
            yield Breach((m,), f"{m.name} reached {format_value(m.value, m.unit)}; {facts.core.name} moves {bound}")


def dram_within_the_datasheet(facts: Facts) -> Iterator[Breach]:
    """Law: a GPU's memory moves no more than its maker says it can (of a CPU the channels are not known)."""
    sheet = None if facts.is_cpu else datasheets.find(facts.device.name)
    if sheet is None:
        return
    bound = sheet.bandwidth * 1e9
    for m in facts.of("memory_bandwidth"):
        beyond_l2 = m.params.get("size_bytes", 0) > 2 * (facts.device.l2_bytes or math.inf)
        in_dram = m.params.get("level") == "DRAM" or (m.params.get("level") is None and beyond_l2)
        if in_dram and m.value > bound * TOLERANCE:
            sentence = f"{m.name} reached {format_value(m.value, m.unit)}; the memory moves {format_si(bound, 'B/s')}"
            yield Breach((m,), f"{sentence} ({sheet.source})")


def outstanding_lines(facts: Facts) -> Iterator[Breach]:
    """Little's law: rate × latency / line is the number of lines under way; at least 1, at most what can be waited for.

    On a GPU a line is counted as 128 bytes.
    """
    latency, line = facts.latencies(), _line_bytes(facts.device)
    for m in facts.cached():
        waited = latency.get(str(m.params.get("level")))
        workers = m.params.get("threads") or facts.cores(m)
        most = workers * MOST_LINES_A_CORE if facts.is_cpu else (facts.device.sm_count or 0) * MOST_LINES_AN_SM
        if waited is None or not most:
            continue
        lines = m.value * waited.value / line
        if not 1 / TOLERANCE <= lines <= most:
            said = (
                f"{m.name} at {format_value(m.value, m.unit)} and {format_time(waited.value)} a load means {lines:.3g}"
            )
            yield Breach((m,), f"{said} cache lines under way (Little's law); between 1 and {most} can be")


def products_within_the_units(facts: Facts) -> Iterator[Breach]:
    """Law: a matrix product does no more operations a second than the multiply-add units of all cores or SMs."""
    for m in facts.of("matmul"):
        for bound, tolerance, source in _arithmetic_bounds(facts, m):
            if m.value > bound * tolerance:
                reached = f"{m.name} reached {format_value(m.value, m.unit)}"
                yield Breach((m,), f"{reached}; the arithmetic units do {format_value(bound, m.unit)} ({source})")
                break


def fma_within_the_pipes(facts: Facts) -> Iterator[Breach]:
    """Law: a loop of nothing but multiply-adds does no more than pipes × width × clock."""
    known = facts.core.flops.get("float32") if facts.core and facts.is_cpu else None
    if known is None or not facts.clock_hz:
        return
    bound = known.high * facts.clock_hz
    for m in facts.of("matmul"):
        rate = (m.proof or {}).get("fma_loop_flops_per_s_per_core")
        if rate and rate > bound * TOLERANCE:
            sentence = (
                f"a core's FMA loop reached {format_si(rate, 'FLOP/s')}; its pipes do {format_si(bound, 'FLOP/s')}"
            )
            yield Breach((m,), f"{sentence} ({known.source})")


def copy_below_read(facts: Facts) -> Iterator[Breach]:
    """Law: a CPU's DRAM is not copied faster than it is read (on GPUs kernels that only read are often the slower)."""
    rows = {
        (m.params.get("kernel"), m.params.get("threads"), m.params.get("size_bytes")): m
        for m in facts.of("memory_bandwidth")
        if facts.is_cpu and m.params.get("level") == "DRAM"
    }
    for (kernel, threads, size), copy in rows.items():
        read = rows.get(("read", threads, size))
        if kernel == "copy" and read and copy.value > read.value * LOOSE:
            sentence = f"{copy.name} reached {format_value(copy.value, copy.unit)}, {read.name}"
            rest = f"{format_value(read.value, read.unit)}; a copy reads all it writes"
            yield Breach(_disbelieved(read, copy), f"{sentence} {rest}")


def dispatch_above_a_call(facts: Facts) -> Iterator[Breach]:
    """Law: dispatching an operator from Python takes no less than calling an empty function."""
    calls = {m.params.get("operator"): m for m in facts.of("launch") if facts.is_cpu}
    empty = calls.pop("python call", None)
    for m in calls.values():
        if empty is not None and m.value < empty.value:
            times = f"{m.name} took {format_time(m.value)}, an empty Python call {format_time(empty.value)}"
            yield Breach(_disbelieved(empty, m), f"{times}; dispatching contains a call")


LAWS: tuple[Law, ...] = (
    positive,
    clock_within_reach,
    latency_grows,
    bandwidth_falls,
    loads_within_the_pipes,
    dram_within_the_datasheet,
    outstanding_lines,
    products_within_the_units,
    fma_within_the_pipes,
    copy_below_read,
    dispatch_above_a_call,
)


def _is_a_clock(clock_hz: float | None, device: Device) -> bool:
    """Whether a core can run at that clock."""
    low, high = CLOCK_HZ["cpu" if device.kind == "cpu" else "gpu"]
    return clock_hz is not None and low <= clock_hz <= high


def _disbelieved(disturbed: Measurement, other: Measurement) -> tuple[Measurement, ...]:
    """The first alone where it is known to be `contended`: that would explain the contradiction. Otherwise both."""
    return (disturbed,) if "contended" in disturbed.flags else (disturbed, other)


def _line_bytes(device: Device) -> int:
    """Bytes of a cache line."""
    if device.kind != "cpu":
        return 128
    return max((cache.line_bytes for cache in device.caches), default=64)


def _arithmetic_bounds(facts: Facts, m: Measurement) -> Iterator[tuple[float, float, str]]:
    """FLOP/s that cannot be exceeded, by what tolerance, and where they come from."""
    dtype = str(m.params.get("dtype"))
    if not facts.is_cpu:
        sheet = datasheets.find(facts.device.name)
        if sheet and dtype in sheet.tera:
            yield sheet.tera[dtype] * 1e12, LOOSE, sheet.source
        return
    cores = facts.cores(m)
    known = facts.core.flops.get(dtype) if facts.core else None
    if known and facts.clock_hz:
        yield known.high * facts.clock_hz * cores, TOLERANCE, known.source
    loop = (m.proof or {}).get("fma_loop_flops_per_s_per_core")
    if loop and dtype == "float32":
        yield loop * cores, LOOSE, "a core's FMA loop in the same run"
