"""What does a step cost in joules and dollars? From counters of energy over bare steps, and the price of an hour.

Energy is the mean power of each device's counter over the bare steps, times the bare step's time: a counter is updated
every few tens of milliseconds, so that single short steps cannot be told apart, but their mean can.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from probe.analyzers.telemetry.readings import BARE, MIN_READINGS, Mask
from probe.price import Price
from probe.results.cost import Cost, Energy
from probe.results.telemetry import Samples, Telemetry

SOURCES = ("nvml", "rapl")  # the first that has readings counts: a GPU's own, else the processor's packages
PERSISTENT_S = 0.5  # shorter than this a counter that is updated ten times a second says too little


@dataclass(frozen=True)
class StepFacts:
    """What a step is, as the run timed it; None where that is not known."""

    step_s: float | None
    samples: float | None = None  # per step, over all ranks
    tokens: float | None = None
    idle_s: float | None = None
    recoverable_s: float | None = None


@dataclass(frozen=True)
class _Counted:
    """One device's counter over the bare steps."""

    used_j: float
    seconds: float
    readings: int


def energy(told: Sequence[Telemetry], facts: StepFacts, *, on_gpu: bool) -> tuple[Energy | None, str]:
    """Energy of a step over all ranks, whose telemetry is `told`; else why it is not known."""
    for source in SOURCES[:1] if on_gpu else SOURCES[1:]:
        counted = _counted(told, source)
        if counted:
            break
    else:
        return None, _why_not(told, on_gpu=on_gpu)
    watts = sum(one.used_j / one.seconds for one in counted.values())
    j_per_step = None if facts.step_s is None else watts * facts.step_s
    seconds = min(one.seconds for one in counted.values())
    readings = min(one.readings for one in counted.values())
    return Energy(
        source, tuple(sorted(counted)), watts, seconds, readings, j_per_step,
        _per(j_per_step, facts.samples), _per(j_per_step, facts.tokens),
    ), ""  # fmt: skip


def _why_not(told: Sequence[Telemetry], *, on_gpu: bool) -> str:
    name = SOURCES[0] if on_gpu else SOURCES[1]
    if not told:
        return "no telemetry was recorded"
    if any(telemetry.of(name) is not None for telemetry in told):
        return f"fewer than {MIN_READINGS} readings of its counter in bare steps; run longer"
    return "NVML was not read" if on_gpu else "the processor's counters (RAPL) were not read"


def _counted(told: Sequence[Telemetry], source: str) -> dict[str, _Counted]:
    """Each device once, by whichever rank read it longest."""
    found: dict[str, _Counted] = {}
    for telemetry in told:
        samples = telemetry.of(source)
        for name, one in _devices(samples, telemetry) if samples is not None else ():
            if name not in found or one.seconds > found[name].seconds:
                found[name] = one
    return found


def _devices(samples: Samples, telemetry: Telemetry) -> Iterator[tuple[str, _Counted]]:
    counter = samples.columns.get("energy_j")
    if counter is None:
        return
    for number, entity in enumerate(samples.entities):
        rows = (samples.entity == number) & ~np.isnan(counter)
        parts = [one for one in _parts(samples, telemetry, rows) if one.any()]
        used = seconds = 0.0
        readings = 0
        for part in parts:
            steps, times = np.diff(counter[part]), np.diff(samples.at_ns[part]) * 1e-9
            whole = steps >= 0  # else the counter began anew
            used += float(steps[whole].sum())
            seconds += float(times[whole].sum())
            readings += int(part.sum())
        if readings >= MIN_READINGS and seconds >= PERSISTENT_S:
            yield entity, _Counted(used, seconds, readings)


def _parts(samples: Samples, telemetry: Telemetry, rows: Mask) -> Iterator[Mask]:
    """The readings in each stretch of bare steps; between two of them something was recorded."""
    for window in telemetry.windows:
        if window.phase in BARE:
            yield rows & (samples.at_ns >= window.begin_ns) & (samples.at_ns < window.end_ns)


def _per(amount: float | None, count: float | None) -> float | None:
    return amount / count if amount is not None and count else None


def cost(used: Energy | None, why_no_energy: str, facts: StepFacts, devices: int, price: Price | None) -> Cost:
    """Everything together. `devices`: that are paid for. price: of one of them, None where nobody gave one."""
    reasons = {} if used is not None else {"energy": why_no_energy}
    if facts.step_s is None:
        reasons["steps"] = "no step was timed"
    if price is None:
        reasons["price"] = "give --price, or price_per_gpu_hour in [tool.probe]"
        return Cost(used, devices, reasons=reasons)

    def usd(seconds: float | None, steps: float = 1.0) -> float | None:
        return None if seconds is None else price.of(seconds * steps, devices)

    return Cost(
        energy=used, devices=devices, price_usd_per_hour=price.usd_per_hour, price_origin=price.origin,
        usd_per_step=usd(facts.step_s), usd_per_1000_steps=usd(facts.step_s, 1000),
        usd_per_million_samples=_per(usd(facts.step_s, 1e6), facts.samples),
        usd_per_million_tokens=_per(usd(facts.step_s, 1e6), facts.tokens),
        idle_usd_per_1000_steps=usd(facts.idle_s, 1000),
        recoverable_usd_per_1000_steps=usd(facts.recoverable_s, 1000), reasons=reasons,
    )  # fmt: skip
