"""Is code slower than a stored baseline? Counts decide; times only on the same machine and beyond its own noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probe.analyzers.gates.causes import called_otherwise, weightiest
from probe.analyzers.gates.counts import count_metrics
from probe.analyzers.gates.evidence import Counted, OperatorTimes
from probe.analyzers.gates.limits import Limits
from probe.results.gate_result import Cause, GateResult, Metric, Side, Verdict
from probe.stats import student_quantile
from probe.units import format_time

NOISE_TIMES = 3.0  # a stored time is believed beyond three times what sessions of the same code differ by
SLOWER_MACHINE = 0.05  # of a control: the machine, not the code
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Stored:
    """One side: log medians of sessions, counts, operators, the machine's own speed at the time."""

    log_medians: Sequence[float]
    counts: Mapping[str, Counted]
    operators: OperatorTimes
    control_s: Mapping[str, float]
    metric: str


def judge_stored(base: Stored, new: Stored, limits: Limits, sides: tuple[Side, Side], *, same: bool) -> GateResult:
    """`same`: both on the same machine with the same software; else times are told only."""
    step, normalised = _step(base, new, limits, same=same), _normalised(base, new)
    counts = tuple(count_metrics(base.counts, new.counts, limits.counts))
    metrics = (*counts, step, *normalised)
    verdicts = {m.verdict for m in metrics if m.gates}
    verdict: Verdict = "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass"
    base_s, new_s = (math.exp(float(np.median(side.log_medians))) for side in (base, new))
    causes = _causes(base.operators, new.operators, new_s - base_s, limits.op_share * base_s)
    return GateResult(
        verdict=verdict,
        base=sides[0],
        new=sides[1],
        metrics=metrics,
        causes=causes,
        delta_s=new_s - base_s,
        unexplained_s=new_s - base_s - sum(c.delta_s for c in causes),
        minimum_detectable_fraction=step.threshold_fraction,
        sessions=len(new.log_medians),
        summary=_summary(verdict, metrics, step, base_s, new_s, slower_machine(base, new)),
    )


def slower_machine(base: Stored, new: Stored) -> float | None:
    """By how much the machine itself is slower, where both controls say so; the lesser of them."""
    ratios = [new.control_s[name] / base.control_s[name] for name in base.control_s if name in new.control_s]
    least = min(ratios, default=1.0)
    return least if least > 1 + SLOWER_MACHINE else None


def _step(base: Stored, new: Stored, limits: Limits, *, same: bool) -> Metric:
    """The step's time, with Welch's interval over sessions."""
    left, right = np.array(base.log_medians), np.array(new.log_medians)
    distance = float(right.mean() - left.mean())
    noise = max((float(side.std(ddof=1)) for side in (left, right) if len(side) > 1), default=math.inf)
    half = _welch(left, right)
    threshold = max(limits.floor, math.expm1(NOISE_TIMES * noise)) if math.isfinite(noise) else None
    machine = slower_machine(base, new)
    gates = same and threshold is not None and machine is None
    verdict: Verdict = "pass"
    if gates and threshold is not None and half is not None and distance - half > math.log1p(threshold):
        verdict = "fail"
    return Metric(
        name=f"step {new.metric}",
        unit="s",
        base=math.exp(float(np.median(left))),
        new=math.exp(float(np.median(right))),
        ratio=math.exp(distance),
        interval=(math.exp(distance - half), math.exp(distance + half)) if half is not None else None,
        verdict=verdict,
        threshold_fraction=threshold,
        n_base=len(left),
        n_new=len(right),
        gates=gates,
        reason=None if gates else _why_told(same=same, machine=machine),
    )


def _why_told(*, same: bool, machine: float | None) -> str:
    if machine is not None:
        return f"the machine itself is slower now: {machine - 1:+.0%} in both controls; told only"
    return "one session each shows no noise; told only" if same else "another machine or software; told only"


def _welch(left: np.ndarray, right: np.ndarray) -> float | None:
    """Half the 95 % interval of the difference of two means (Welch 1947); None of fewer than two sessions a side."""
    if len(left) < 2 or len(right) < 2:
        return None
    parts = [float(side.var(ddof=1)) / len(side) for side in (left, right)]
    whole = sum(parts)
    if whole == 0:
        return 0.0
    freedom = whole**2 / sum(p**2 / (len(side) - 1) for p, side in zip(parts, (left, right), strict=True))
    return student_quantile(max(1, int(freedom)), CONFIDENCE) * math.sqrt(whole)


def _normalised(base: Stored, new: Stored) -> tuple[Metric, ...]:
    """The step's time by each control's: what remains when the machine is taken out, as far as it can be."""
    return tuple(_by_control(name, base, new) for name in base.control_s if name in new.control_s)


def _by_control(name: str, base: Stored, new: Stored) -> Metric:
    left, right = (math.exp(float(np.median(side.log_medians))) / side.control_s[name] for side in (base, new))
    return Metric(
        name=f"step by {name}", unit="1", base=left, new=right, ratio=right / left, interval=None, verdict="pass",
        threshold_fraction=None, n_base=len(base.log_medians), n_new=len(new.log_medians), gates=False,
        reason="the step's time by that of a control: told only",
    )  # fmt: skip


def _causes(base: OperatorTimes, new: OperatorTimes, delta_s: float, least_s: float) -> tuple[Cause, ...]:
    """Operators by the difference of their times; without an interval: the runs were not in turn."""
    rows = []
    for key in dict.fromkeys((*base.seconds, *new.seconds)):
        before, after = base.seconds.get(key, 0.0), new.seconds.get(key, 0.0)
        if abs(after - before) < max(least_s, 1e-9):
            continue
        calls = base.calls.get(key, 0.0), new.calls.get(key, 0.0)
        reason = "new" if not before else "gone" if not after else f"{after / before:.2f}× the time"
        if before and after:
            reason = called_otherwise(*calls) or reason
        share = (after - before) / delta_s if delta_s else None
        rows.append(Cause(*key, before or None, after or None, after - before, share, reason, *calls))
    return weightiest(rows, delta_s)


def _summary(
    verdict: Verdict, metrics: Sequence[Metric], step: Metric, base_s: float, new_s: float, machine: float | None
) -> str:
    times = f"{format_time(base_s)} stored, {format_time(new_s)} now"
    if verdict == "fail":
        first = next(m for m in metrics if m.verdict == "fail")
        return f"{first.reason or 'the step is slower beyond what the baseline varies by'}; {times} a step"
    if machine is not None:
        return (
            f"the machine is slower now ({machine - 1:+.0%} in both controls), not the code as far as is known; {times}"
        )
    told = "" if step.gates else f"; {step.reason}"
    return f"nothing is held against it: {times} a step{told}"
