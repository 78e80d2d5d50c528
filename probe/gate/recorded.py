"""What does a gate say of two runs that were recorded before? Less than of sessions in turn, and it says so."""

from __future__ import annotations

from probe.analyzers.gates.causes import MOST
from probe.analyzers.gates.limits import Limits
from probe.examine.sides import compare
from probe.results.comparison import Comparison, Row
from probe.results.gate_result import Cause, GateResult, Metric, Side, Verdict
from probe.units import format_time

APART = "the two runs were not made in turn: what changed on the machine between them is in the figures"


def check_runs(base: str, new: str, limits: Limits) -> GateResult:
    """NEW is held against BASE by the intervals of their steps."""
    found = compare(base, new)
    step = _step(found, limits)
    sides = Side(found.base, step_s=step.base), Side(found.new, step_s=step.new)
    delta_s = step.new - step.base if step.base is not None and step.new is not None else None
    changed = [row for row in found.rows if row.unit == "s" and row.verdict != "~" and row.delta]
    causes = tuple(map(_cause, changed[:MOST]))
    words = {"pass": "no regression", "fail": "the step is slower", "inconclusive": "not known"}[step.verdict]
    return GateResult(
        verdict=step.verdict,
        base=sides[0],
        new=sides[1],
        metrics=(step,),
        causes=causes,
        delta_s=delta_s,
        unexplained_s=delta_s - sum(c.delta_s for c in causes) if delta_s is not None else None,
        sessions=1,
        summary=f"{words}: {format_time(step.base)} → {format_time(step.new)} a step",
        warnings=(*found.warnings, APART),
    )


def _step(found: Comparison, limits: Limits) -> Metric:
    """Ratios of a comparison are speed-ups; here they are times, new by base."""
    interval = (1 / found.interval[1], 1 / found.interval[0]) if found.interval else None
    verdict: Verdict = "inconclusive"
    if found.verdict == "slower" and interval is not None and interval[0] > 1 + limits.floor:
        verdict = "fail"
    elif found.verdict == "faster" or (interval is not None and interval[1] < 1 + limits.tolerance):
        verdict = "pass"
    base, new = found.sides.base, found.sides.new
    return Metric(
        name="step wall_time", unit="s", base=base.step_s, new=new.step_s,
        ratio=1 / found.ratio if found.ratio else None, interval=interval, verdict=verdict,
        threshold_fraction=limits.floor, n_base=base.n or 0, n_new=new.n or 0, reason=found.reason,
    )  # fmt: skip


def _cause(row: Row) -> Cause:
    words = row.verdict if row.verdict in ("new", "gone") or not row.ratio else f"{1 / row.ratio:.2f}× the time"
    return Cause(
        row.name,
        row.shapes,
        row.base,
        row.new,
        row.delta or 0.0,
        row.share_fraction,
        words,
        row.base_calls,
        row.new_calls,
    )
