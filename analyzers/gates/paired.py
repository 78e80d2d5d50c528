"""Is the new code slower than the old, after so many sessions of both in turn?

The step: it fails when it is surely slower by more than the floor, and passes when it is surely not slower by the
tolerance. Operators: one fails when it is surely slower by more than its own floor, among as many tests as there are
operators, and what it adds is worth mentioning; a few percent of a step are a large part of one operator, so that this
finds less than the step alone shows. Counts decide at once, since they have no noise. See docs/gate.md.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from probe.analyzers.gates.causes import Change, by_name, causes, changes, label, scale_of
from probe.analyzers.gates.counts import count_metrics
from probe.analyzers.gates.evidence import Blocks, Session, together
from probe.analyzers.gates.limits import Limits
from probe.analyzers.gates.sequential import (
    bounds,
    minimum_detectable_fraction,
    not_slower,
    slower,
    surely_slower,
    suspected,
)
from probe.results.gate_result import GateResult, Metric, Side, Verdict
from probe.units import format_time

FEWEST = 3  # sessions before anything but a count is said


def judge(sessions: Sequence[Session], limits: Limits, metric: str, base: Side, new: Side) -> GateResult:
    """The verdict of one look. `metric` names what the blocks hold: "cpu_time" or "wall_time"."""
    step, wall = _step_metric(sessions, limits, metric), _wall_metric(sessions, metric)
    base_s, new_s = (float(np.median(np.concatenate(side))) for side in _sides([s.blocks for s in sessions]))
    found = changes(sessions, scale_of(sessions, base_s))
    operators = _operator_metrics(found, limits, base_s, len(sessions))
    counts = tuple(count_metrics(*_counts(sessions), limits.counts))
    metrics = (*counts, step, *wall, *operators)
    delta_s = new_s - base_s
    why = causes(sessions, found, delta_s, limits.op_share * base_s)
    result = GateResult(
        verdict=_verdict(metrics, step),
        base=replace(base, step_s=base_s),
        new=replace(new, step_s=new_s),
        metrics=metrics,
        causes=why,
        delta_s=delta_s,
        unexplained_s=delta_s - sum(c.delta_s for c in why),
        minimum_detectable_fraction=minimum_detectable_fraction(_log_ratios(sessions), limits.floor),
        sessions=len(sessions),
        samples=_samples(sessions),
    )
    return replace(result, summary=summary(result))


def _verdict(metrics: Sequence[Metric], step: Metric) -> Verdict:
    """One failure fails; the step's own verdict decides else; a count that is sometimes higher is not known."""
    verdicts = {m.verdict for m in metrics if m.gates}
    if "fail" in verdicts:
        return "fail"
    return "inconclusive" if step.verdict != "pass" or "inconclusive" in verdicts else "pass"


def _log_ratios(sessions: Sequence[Session]) -> list[float]:
    return [s.blocks.log_ratio for s in sessions]


def _sides(blocks: Sequence[Blocks]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [b.base for b in blocks], [b.new for b in blocks]


def _counts(sessions: Sequence[Session]) -> tuple[dict, dict]:  # type: ignore[type-arg]
    return together([s.base_counts for s in sessions]), together([s.new_counts for s in sessions])


def _step_metric(sessions: Sequence[Session], limits: Limits, name: str) -> Metric:
    ratios = _log_ratios(sessions)
    verdict: Verdict = "inconclusive"
    if len(ratios) >= FEWEST:
        if slower(ratios, limits.floor):
            verdict = "fail"
        elif not_slower(ratios, limits.tolerance):
            verdict = "pass"
    return _time_metric(f"step {name}", [s.blocks for s in sessions], verdict, limits.floor)


def _wall_metric(sessions: Sequence[Session], name: str) -> tuple[Metric, ...]:
    """Wall time beside CPU time: told, and never held against the change on a machine that others use."""
    if name == "wall_time":
        return ()
    wall = _time_metric("step wall_time", [s.wall for s in sessions], "pass", None)
    return (replace(wall, gates=False, reason="told only: on a shared machine it shows the neighbours"),)


def _time_metric(name: str, blocks: Sequence[Blocks], verdict: Verdict, threshold: float | None) -> Metric:
    base, new = (float(np.median(np.concatenate(side))) for side in _sides(blocks))
    found = bounds([b.log_ratio for b in blocks])
    finite = math.isfinite(found.lower)
    return Metric(
        name, "s", base, new, found.ratio, found.interval if finite else None, verdict, threshold, found.n, found.n
    )


def _operator_metrics(found: Sequence[Change], limits: Limits, step_s: float, n: int) -> tuple[Metric, ...]:
    """The operators that are large enough; those that fail, and the others as passed."""
    tested = dict(by_name(found, step_s, limits.op_share))
    floors = {name: _floor_of(change.key[0], limits) for name, change in tested.items()}
    series = {name: change.log_ratios for name, change in tested.items()}
    failed = surely_slower(series, floors) if n >= FEWEST else set()
    failed = {name for name in failed if tested[name].delta_s >= limits.op_share * step_s}
    rows = [
        _operator_metric(name, change, _said(name, failed, series, floors), floors[name])
        for name, change in tested.items()
    ]
    return tuple(sorted(rows, key=lambda m: -((m.new or 0.0) - (m.base or 0.0))))


def _said(name: str, failed: set[str], series: Mapping[str, Sequence[float]], floors: Mapping[str, float]) -> Verdict:
    if name in failed:
        return "fail"
    return "inconclusive" if suspected(series[name], floors[name]) else "pass"


def _operator_metric(name: str, change: Change, verdict: Verdict, floor: float) -> Metric:
    found = bounds(change.log_ratios)
    finite = math.isfinite(found.lower)
    return Metric(
        name=name,
        unit="s",
        base=change.base_s,
        new=change.new_s,
        ratio=found.ratio,
        interval=found.interval if finite else None,
        verdict=verdict,
        threshold_fraction=floor if math.isfinite(floor) else None,
        n_base=found.n,
        n_new=found.n,
        gates=math.isfinite(floor),
        reason=None if math.isfinite(floor) else "acknowledged",
    )


def _floor_of(name: str, limits: Limits) -> float:
    """The last pattern that fits decides."""
    fitting = [floor for pattern, floor in limits.operators.items() if fnmatch.fnmatchcase(name, pattern)]
    return fitting[-1] if fitting else limits.op_floor


def _samples(sessions: Sequence[Session]) -> dict[str, list[list[float]]]:
    """Medians of blocks, seconds, by session: any later test can be made of them."""
    return {
        "base_s": [s.blocks.base.tolist() for s in sessions],
        "new_s": [s.blocks.new.tolist() for s in sessions],
        "base_wall_s": [s.wall.base.tolist() for s in sessions],
        "new_wall_s": [s.wall.new.tolist() for s in sessions],
    }


def summary(result: GateResult) -> str:
    """The verdict in a sentence."""
    step = next(m for m in result.metrics if m.name.startswith("step "))
    assert step.base is not None and step.new is not None
    known = f" ({_percent(step.ratio)})" if result.sessions >= FEWEST else ""  # one session's ratio is no figure yet
    times = f"{format_time(step.base)} → {format_time(step.new)} a step{known}"
    failed = [m for m in result.metrics if m.verdict == "fail"]
    if result.verdict == "fail":
        return f"{_what_failed(failed[0], result)}; {times}"
    if result.verdict == "pass":
        return f"no regression: {times}"
    found = result.minimum_detectable_fraction
    seen = (
        f"a slow-down of {found:.1%} would have been seen in four cases of five" if found is not None else "one session"
    )
    return f"not known: {times}; {seen}"


def _what_failed(metric: Metric, result: GateResult) -> str:
    """The first thing that fails; a slower step by what it is made of."""
    if metric.reason:
        return metric.reason
    if not metric.name.startswith("step "):
        return f"{metric.name} takes longer ({_percent(metric.ratio)})"
    if not result.causes:
        return "the step is slower"
    first = result.causes[0]
    return f"the step is slower by {label((first.op, first.shapes))} above all: {first.reason}"


def _percent(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio - 1:+.1%}"
