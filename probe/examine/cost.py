"""What did the steps of a run use and cost? From its analysis and telemetry, and the price of its device."""

from __future__ import annotations

from dataclasses import replace

from probe.analyzers.operators.steps import run_times
from probe.analyzers.telemetry.energy import SOURCES, StepFacts, cost, energy
from probe.examine.telemetry import read
from probe.price import Prices
from probe.results.analysis import Analysis
from probe.runs.analysis_cache import idle_s, recoverable_s
from probe.runs.run import Run


def with_cost(analysis: Analysis, prices: Prices, run: Run | None = None) -> Analysis:
    """The analysis with what its step costs. run: whose ranks' energy is added up; a trace alone has none."""
    facts = _facts(analysis, run)
    devices = run.world_size if run is not None else max(1, analysis.source.ranks)
    told = [read(run.path, part) for part in run.parts if part.telemetry] if run is not None else []
    on_gpu = analysis.source.device_kind != "cpu"
    used, why = energy(told, facts, on_gpu=on_gpu)
    if run is not None and used is not None and len(told) < run.world_size and on_gpu:
        used, why = None, f"{len(told)} of {run.world_size} ranks have telemetry"
    if run is not None and used is None:
        why = _source_reason(run, SOURCES[0] if on_gpu else SOURCES[1]) or why
    price = prices(analysis.source.device)
    return replace(analysis, cost=cost(used, why, facts, devices, price))


def _source_reason(run: Run, source: str) -> str | None:
    """Why the source that counts energy was not there, as the run itself says."""
    for part in run.parts:
        about = (part.telemetry.get("sources") or {}).get(source)
        if isinstance(about, dict) and about.get("reason"):
            return f"{source}: {about['reason']}"
    return None


def _facts(analysis: Analysis, run: Run | None) -> StepFacts:
    steps = analysis.steps
    step_s = steps.bare_mean_s or analysis.time_s.get("step")
    samples = tokens = None
    if run is not None and step_s is not None:
        rates = [run_times(part).throughput for part in run.parts]
        samples = _sum([rate.samples_per_s for rate in rates], step_s)
        tokens = _sum([rate.tokens_per_s for rate in rates], step_s)
    return StepFacts(step_s, samples, tokens, idle_s(analysis), recoverable_s(analysis))


def _sum(rates: list[float | None], seconds: float) -> float | None:
    """What all ranks together got through; None where one of them did not say."""
    known = [rate for rate in rates if rate is not None]
    return sum(known) * seconds if known and len(known) == len(rates) else None
