"""The figures at the head of a page: step time with its spread, throughput, how busy, what could be gained, memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from probe.report.analysis import uses_device
from probe.results.analysis import Analysis
from probe.units import format_bytes, format_fraction, format_si, format_time


@dataclass(frozen=True)
class Kpi:
    """One figure: what, how much, of what, and what stands below it."""

    label: str
    value: str
    of: str = ""
    below: str = ""


def kpis(analysis: Analysis) -> Iterator[Kpi]:
    """The figures that are known, each with its spread or what it is measured against."""
    yield _step(analysis)
    yield from _throughput(analysis)
    use = analysis.utilisation
    busy = "device works" if uses_device(analysis) else "an operator runs"
    yield Kpi("Busy", format_fraction(use.device_busy_fraction), "of the step", f"{busy}; the rest waits")
    if use.mfu_fraction is not None or use.mbu_fraction is not None:
        below = f"memory {format_fraction(use.mbu_fraction)} of its peak" if use.mbu_fraction is not None else ""
        yield Kpi("Model FLOP utilisation", format_fraction(use.mfu_fraction), "of the peak", below)
    yield _gain(analysis)
    if analysis.memory is not None and analysis.memory.peak_bytes:
        known = analysis.memory
        below = f"of {format_bytes(known.capacity_bytes)}" if known.capacity_bytes else (known.peak_at or "")
        yield Kpi("Peak memory", format_bytes(known.peak_bytes), "", below)


def _step(analysis: Analysis) -> Kpi:
    steps = analysis.steps
    spread = f"p50 {format_time(steps.p50_s)} · p95 {format_time(steps.p95_s)}" if steps.p50_s else ""
    profiled = f"{format_time(steps.profiled_mean_s)} while recorded" if steps.profiled_mean_s else ""
    return Kpi("Step time", format_time(analysis.time_s.get("step")), f"n {steps.n}", spread or profiled)


def _throughput(analysis: Analysis) -> Iterator[Kpi]:
    rates = analysis.steps.throughput
    rate = rates.tokens_per_s or rates.samples_per_s
    if rate:
        unit = "tokens/s" if rates.tokens_per_s else "samples/s"
        other = rates.samples_per_s if unit == "tokens/s" else None
        yield Kpi("Throughput", format_si(rate, unit), "", format_si(other, "samples/s") if other else "")


def _gain(analysis: Analysis) -> Kpi:
    share, step_s = gain_fraction(analysis), analysis.time_s.get("step")
    gain_s = share * step_s if share is not None and step_s else None
    of = f"{format_fraction(share, 0)} of the step"
    return Kpi("To gain, at most", format_time(gain_s), of, "if every operator met its roof")


def gain_fraction(analysis: Analysis) -> float | None:
    """What the operators could gain together as a share of the step; of the recorded steps, whose times they have."""
    gain_s = sum(op.recoverable_s or 0.0 for op in analysis.ops)
    recorded_s = analysis.steps.profiled_mean_s or analysis.time_s.get("step")
    return min(gain_s / recorded_s, 1.0) if recorded_s else None
