"""What does telemetry say of a run? Means and extremes over its steps, and what they confirm or contradict.

Bare steps are preferred: what the profiler costs is not in them. Nothing is concluded from fewer than MIN_READINGS, nor
from what a source did not say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.analyzers.telemetry.bounds import (
    SATURATED_FRACTION,
    UNUSED_FRACTION,
    OperatorFacts,
    bound_confidence,
    operator_confidence,
)
from probe.analyzers.telemetry.phases import phases_of
from probe.analyzers.telemetry.readings import MIN_READINGS, Readings, quantity_of, readings_of, within
from probe.analyzers.telemetry.units import agreed
from probe.machine.nvml import event_reasons
from probe.results.telemetry import Judgement, Quantity, Samples, SourceUse, Telemetry, TelemetryUse
from probe.units import format_si, format_time

HELD_FRACTION = 0.1  # of the readings in which a reason must hold, as for microbenchmarks
SLOW_FRACTION = 0.75  # of the highest clock, below which nvbench discards a measurement too
DEVICE_BUSY_FRACTION = 0.95  # some kernel runs: of an overhead-bound step there are gaps
CONTENDED_FRACTION = 0.05  # of the time in which the loop's thread wanted a core and had none
STARVED_FRACTION = 0.1  # of a step waiting for data
GIL_WAIT_S = 2e-3  # mean; a thread that always holds the GIL gives it up after 5 ms (sys.getswitchinterval)
PAUSED_FRACTION = 0.01
SLOWDOWNS = ("hw_slowdown", "hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake_slowdown")


@dataclass(frozen=True)
class RunFacts:
    """What the analysis knows already, to be held against telemetry; None where it does not."""

    bound: str = "unknown"
    step_s: float | None = None
    data_wait_s: float | None = None
    busy_fraction: float | None = None  # of the device, while steps were recorded
    busy_s: float | None = None  # the same, of a recorded step
    ops: tuple[OperatorFacts, ...] = ()  # of a device whose kernels were recorded


def telemetry_use(telemetry: Telemetry, sources: Mapping[str, Any], facts: RunFacts) -> TelemetryUse:
    """The summary of a run's telemetry. `sources`: how each was read, as the run says it."""
    telemetry, contradictions = agreed(telemetry)
    quantities = tuple(q for samples in telemetry.samples for q in _quantities(samples, telemetry))
    judgements = (
        *_of_gpus(telemetry, facts), *_of_host(telemetry, facts), *_of_clock(telemetry), *contradictions,
    )  # fmt: skip
    return TelemetryUse(
        sources=tuple(_uses(telemetry, sources)),
        quantities=quantities,
        judgements=judgements,
        bound=bound_confidence(judgements, facts.bound),
        ops=tuple(operator_confidence(telemetry, facts.ops, facts.step_s, facts.busy_s)),
        phases=tuple(phases_of(telemetry)),
    )


def _uses(telemetry: Telemetry, sources: Mapping[str, Any]) -> Iterator[SourceUse]:
    """Each source, by its last word: the run's, else that of the part that was written last."""
    told: dict[str, Any] = {samples.source: samples.about for samples in telemetry.samples}
    told |= {name: about for name, about in sources.items() if isinstance(about, dict)}
    for name, about in told.items():
        period_s = about.get("period_s")
        reasons = {
            str(key): str(text) for kind in ("missing", "unused") for key, text in (about.get(kind) or {}).items()
        }
        if about.get("reason"):
            reasons[name] = str(about["reason"])
        via = None if about.get("reason") else about.get("via")
        yield SourceUse(name, via, 1 / period_s if via and period_s else None, reasons)


def _quantities(samples: Samples, telemetry: Telemetry) -> Iterator[Quantity]:
    """Mean and extremes of everything that is a level or a rate."""
    for window in ("all", "bare", "recorded"):
        inside = within(samples, telemetry, window)
        for number, entity in enumerate(samples.entities):
            rows = inside & (samples.entity == number)
            for name, column in samples.columns.items():
                yield from quantity_of(name, column[rows], samples.source, entity, window)


def _of_gpus(telemetry: Telemetry, facts: RunFacts) -> Iterator[Judgement]:
    """NVML and DCGM each; what both say is said once, by NVML."""
    told: set[tuple[str, str]] = set()
    for source in ("nvml", "dcgm"):
        samples = telemetry.of(source)
        if samples is None:
            continue
        fixed = samples.about.get("gpus") or {}
        for number, entity in enumerate(samples.entities):
            readings = readings_of(samples, telemetry, number)
            for judgement in _of_gpu(entity, readings, fixed.get(entity) or {}, facts):
                if (judgement.code, entity) not in told:
                    told.add((judgement.code, entity))
                    yield judgement


def _of_gpu(entity: str, readings: Readings, fixed: Mapping[str, Any], facts: RunFacts) -> Iterator[Judgement]:
    yield from _of_clocks(entity, readings.while_busy(), fixed)
    yield from _of_dram(entity, readings, facts)
    yield from _of_pipes(entity, readings, facts)
    yield from _of_errors(entity, readings)
    busy = readings.of("busy_other_processes")
    share = float((busy > 0).mean()) if len(busy) >= MIN_READINGS else 0.0
    if share >= HELD_FRACTION:
        says = f"{entity}: another process used this GPU in {share:.0%} of the readings; times include its share"
        yield Judgement("neighbours", entity, says, (f"at most {int(busy.max())} other processes ran on the SMs",))


def _of_clocks(entity: str, readings: Readings, fixed: Mapping[str, Any]) -> Iterator[Judgement]:
    """Why the clock was low while the GPU worked, and how low."""
    held = _held(readings.of("clocks_event_reasons"))
    clock, highest = readings.mean("sm_clock_hz"), fixed.get("max_sm_clock_hz")
    at = f"SM clock {format_si(clock, 'Hz')}" if clock else "SM clock not known"
    at += f" of {format_si(highest, 'Hz')}" if clock and highest else ""
    shares = tuple(f"{reason.replace('_', ' ')} in {share:.0%} of the readings" for reason, share in held.items())
    slowed = [reason for reason in SLOWDOWNS if held.get(reason, 0.0) >= HELD_FRACTION]
    if slowed:
        says = f"{entity}: slowed down by {' and '.join(r.replace('_', ' ') for r in slowed)}; check cooling and power"
        yield Judgement("throttled", entity, says, (at, *shares))
    if held.get("sw_power_cap", 0.0) >= HELD_FRACTION:
        power, limit = readings.mean("power_w"), readings.mean("power_limit_w") or fixed.get("power_limit_w")
        drawn = f"{power:.0f} W drawn" + (f" of {limit:.0f} W allowed" if limit else "") if power else "power not known"
        says = f"{entity}: its power cap held the clock down in {held['sw_power_cap']:.0%} of the readings"
        yield Judgement("power-capped", entity, says, (at, drawn))
    if clock and highest and clock < SLOW_FRACTION * highest and not slowed and "sw_power_cap" not in held:
        says = (
            f"{entity}: worked at {clock / highest:.0%} of its highest clock; roofs measured at full clock are too high"
        )
        yield Judgement("low-clock", entity, says, (at, *shares))


def _held(masks: npt.NDArray[np.float64]) -> dict[str, float]:
    """Each reason with the share of the readings in which it held."""
    if len(masks) < MIN_READINGS:
        return {}
    words = [event_reasons(int(mask)) for mask in masks]
    names = dict.fromkeys(word for told in words for word in told)
    return {name: sum(name in told for told in words) / len(words) for name in names}


def _of_dram(entity: str, readings: Readings, facts: RunFacts) -> Iterator[Judgement]:
    """Whether the class of the step fits what DRAM's interface did while kernels ran."""
    active = readings.mean("dram_active_fraction")
    if active is None:
        return
    busy = facts.busy_fraction if facts.busy_fraction and facts.busy_fraction > 0.05 else 1.0
    while_busy = min(1.0, active / busy)
    evidence = (f"DRAM active {active:.0%} of the time, {while_busy:.0%} of the time in which kernels ran",)
    if facts.bound == "memory" and while_busy >= SATURATED_FRACTION:
        yield Judgement("dram-saturated", entity, f"{entity}: memory-bound is confirmed: DRAM was saturated", evidence)
    elif facts.bound == "memory" and while_busy <= UNUSED_FRACTION:
        says = (
            f"{entity}: memory-bound is contradicted: DRAM was mostly idle, so caches served it, or latency limits it"
        )
        yield Judgement("dram-idle", entity, says, evidence)
    elif facts.bound == "compute" and while_busy >= SATURATED_FRACTION:
        says = f"{entity}: compute-bound is doubtful: DRAM was saturated as well"
        yield Judgement("dram-busy", entity, says, evidence)


def _of_pipes(entity: str, readings: Readings, facts: RunFacts) -> Iterator[Judgement]:
    """Whether the class of the step fits how busy the SMs and the device were."""
    sms = readings.mean("sm_active_fraction")
    if sms is not None and facts.bound == "compute":
        while_busy = min(1.0, sms / facts.busy_fraction) if facts.busy_fraction and facts.busy_fraction > 0.05 else sms
        evidence = (f"SMs active {sms:.0%} of the time, {while_busy:.0%} of the time in which kernels ran",)
        if while_busy <= UNUSED_FRACTION:
            says = f"{entity}: compute-bound is contradicted: most SMs had nothing to do, so kernels are too small"
            yield Judgement("sm-idle", entity, says, evidence)
        elif while_busy >= SATURATED_FRACTION:
            yield Judgement("sm-busy", entity, f"{entity}: compute-bound is confirmed: the SMs were busy", evidence)
    used = readings.mean("gpu_utilisation_fraction")
    if used is not None and used >= DEVICE_BUSY_FRACTION and facts.bound in ("host", "overhead"):
        says = f"{entity}: {facts.bound}-bound is doubtful: bare steps kept the GPU busy, so recording slowed the host"
        yield Judgement("device-busy", entity, says, (f"a kernel ran in {used:.0%} of the time",))


def _of_errors(entity: str, readings: Readings) -> Iterator[Judgement]:
    xids = [int(number) for number in readings.of("xid") if number]
    if xids:
        says = f"{entity}: the driver reported Xid {xids[-1]}; sudo dmesg | grep -i xid tells more"
        yield Judgement("xid", entity, says, (f"{len(xids)} readings with an Xid",))
    errors = readings.of("ecc_uncorrected_errors")
    if len(errors) and errors.max() > errors.min():
        says = f"{entity}: {int(errors.max() - errors.min())} uncorrected memory errors during the run"
        yield Judgement("ecc", entity, says, (f"{int(errors.max())} since the driver was loaded",))
    refused = readings.of("refused_questions")
    if len(refused) and refused[-1] > 0:
        says = f"{entity}: NVML refused {int(refused[-1])} questions at the end; the GPU may be lost"
        yield Judgement("refused", entity, says, (f"in {(refused > 0).mean():.0%} of the readings",))


def _of_host(telemetry: Telemetry, facts: RunFacts) -> Iterator[Judgement]:
    host, machine = telemetry.of("host"), telemetry.of("machine")
    if host is not None:
        readings = readings_of(host, telemetry, 0)
        yield from _of_cores(readings, None if machine is None else readings_of(machine, telemetry, 0))
        yield from _of_python(readings, host)
    if machine is not None:
        throttled = readings_of(machine, telemetry, 0).mean("cgroup_throttled_fraction")
        if throttled is not None and throttled >= PAUSED_FRACTION:
            says = f"host: the container's CPU quota stopped the process for {throttled:.0%} of the time"
            yield Judgement("cpu-quota", "host", says, ("cpu.stat of the cgroup",))
    yield from _of_data(telemetry, facts)


def _of_cores(readings: Readings, machine: Readings | None) -> Iterator[Judgement]:
    """Whether the loop's thread had a core when it wanted one, and whose work was in the way."""
    queued = readings.mean("loop_run_queue_fraction")
    if queued is None or queued < CONTENDED_FRACTION:
        return
    own = None if machine is None else machine.mean("process_cpu_cores")
    busy = None if machine is None else machine.mean("machine_busy_cores")
    evidence, whose = [f"run-queue delay {queued:.0%} of the time"], ""
    if own is not None and busy is not None:
        evidence.append(f"{busy:.1f} cores busy, {own:.1f} of them with this process")
        whose = "; other processes took them" if busy - own > own else "; mostly this process's own threads took them"
    says = f"host: the loop's thread wanted a core and had none for {queued:.0%} of the time{whose}"
    yield Judgement("neighbours", "host", says, tuple(evidence))


def _of_python(readings: Readings, host: Samples) -> Iterator[Judgement]:
    """Whether the GIL was held, and what the garbage collector took."""
    waited = readings.mean("gil_wait_s")
    if waited is not None and waited >= GIL_WAIT_S:
        says = f"host: a thread that wants the GIL waits {format_time(waited)}: Python code runs most of the time"
        yield Judgement("gil-held", "host", says, (f"mean of {len(readings.of('gil_wait_s'))} heartbeats",))
    pauses, period_s = readings.of("gc_pause_s"), host.about.get("period_s")
    if len(pauses) >= MIN_READINGS and period_s and pauses.mean() / period_s >= PAUSED_FRACTION:
        share = float(pauses.mean()) / period_s
        says = (
            f"host: garbage collection took {share:.1%} of the time; gc.freeze() after set-up, or gc.collect() by hand"
        )
        yield Judgement("gc-pauses", "host", says, (f"longest reading {format_time(float(pauses.max()))}",))


def _of_data(telemetry: Telemetry, facts: RunFacts) -> Iterator[Judgement]:
    """Waiting for data, when the device had nothing to do meanwhile (or there is none that says)."""
    if not facts.step_s or not facts.data_wait_s or facts.data_wait_s < STARVED_FRACTION * facts.step_s:
        return
    share = min(1.0, facts.data_wait_s / facts.step_s)
    uses = [u for u in _gpu_use(telemetry) if u is not None]
    if uses and min(uses) > 1 - STARVED_FRACTION:
        return  # the wait is hidden behind the device's work
    evidence: tuple[str, ...] = (f"waits {format_time(facts.data_wait_s)} of a step of {format_time(facts.step_s)}",)
    evidence += (f"GPU busy {min(uses):.0%} of the time",) if uses else ()
    yield Judgement("starved", "host", f"host: the loop waited for data {share:.0%} of the step", evidence)


def _gpu_use(telemetry: Telemetry) -> Sequence[float | None]:
    samples = telemetry.of("nvml") or telemetry.of("dcgm")
    if samples is None:
        return ()
    each = (readings_of(samples, telemetry, number) for number in range(len(samples.entities)))
    return [readings.mean("gpu_utilisation_fraction") for readings in each]


def _of_clock(telemetry: Telemetry) -> Iterator[Judgement]:
    for samples in telemetry.samples:
        for jump_ns in samples.clock_steps_ns[:1]:
            way = "back" if jump_ns < 0 else "forward"
            says = f"host: the wall clock was set {way} by {format_time(abs(jump_ns) * 1e-9)} during the run"
            yield Judgement("clock-set", "host", says, ("telemetry and steps are joined by the monotonic clock",))
            return
