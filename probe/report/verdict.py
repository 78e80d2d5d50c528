"""The answer in a sentence, and what to change first."""

from __future__ import annotations

from collections.abc import Iterable

from probe.analysis import Analysis
from probe.findings import Finding
from probe.units import format_fraction, format_time

DOING = {
    "compute": "is bound by arithmetic",
    "memory": "is bound by memory traffic",
    "latency": "is bound by the latency of kernels that do not fill the device",
    "overhead": "is bound by the fixed cost of starting operators",
    "communication": "is bound by communication between ranks",
    "host": "waits for the host",
}
FIXES = 3


def sentence(analysis: Analysis) -> str:
    """How long a step takes, what bounds it, and how much the first suggestions could save."""
    step_s = analysis.time_s["step"]
    if not step_s:
        return "No time was recorded."
    return f"A step takes {format_time(step_s)} and {_bound(analysis, step_s)}. {_promise(analysis, step_s)}"


def _bound(analysis: Analysis, step_s: float) -> str:
    if analysis.bound == "unknown":
        open_s = (analysis.time_s["unknown"] or 0.0) + (analysis.time_s["idle"] or 0.0)
        return f"what bounds it cannot be told: {format_fraction(open_s / step_s, 0)} of it is unknown or idle"
    share = (analysis.time_s[analysis.bound] or 0.0) / step_s
    reached = roof_reached(analysis)
    distance = f", at {format_fraction(reached, 0)} of that roof" if reached is not None else ""
    return f"{DOING[analysis.bound]}: {format_fraction(share, 0)} of it is {analysis.bound}{distance}"


def roof_reached(analysis: Analysis) -> float | None:
    """Which share of their roof the operators of the step's class reach together; None for classes without a roof."""
    if analysis.bound not in ("compute", "memory"):
        return None
    placed = [op for op in analysis.ops if op.bound == analysis.bound and op.roof_fraction is not None]
    total = sum(op.share_fraction for op in placed)
    return sum(op.share_fraction * (op.roof_fraction or 0.0) for op in placed) / total if total else None


def _promise(analysis: Analysis, step_s: float) -> str:
    """What the listed fixes could save, at most; each event belongs to one of them."""
    saving_s = sum(f.saving_s or 0.0 for f in first(analysis.findings))
    if not saving_s:
        return "Nothing in the trace matches a rule."
    count = len(first(analysis.findings))
    fixes = "The suggestion below saves" if count == 1 else f"The {count} suggestions below save"
    return f"{fixes} up to {format_time(saving_s)} ({format_fraction(min(saving_s / step_s, 1.0), 0)})."


def first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The fixes to show: most saving first."""
    return tuple(findings)[:FIXES]


def saving(finding: Finding) -> str:
    """A finding's saving for a margin: time and share of the step, or what it is instead."""
    if finding.saving_s is None:
        return "see above"
    return f"{format_time(finding.saving_s)} {format_fraction(finding.saving_fraction, 0)}"


def proof(finding: Finding) -> str | None:
    """What running the replacement showed; None where it was not run."""
    result = finding.verified
    if result is None:
        return None
    if result.speedup is None or result.interval is None:
        return f"verified on {result.device}: {result.verdict}"
    low, high = result.interval
    return f"verified on {result.device}: {result.verdict}, {result.speedup:.2f}× [{low:.2f}, {high:.2f}], n {result.n}"
