"""The answer in a sentence, and what to change first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

from probe.analyzers.ranks.compare import MATERIAL_FRACTION
from probe.report.ranks import efficiency, exposed_wait, interval, listed
from probe.results.analysis import Analysis
from probe.results.findings import Finding
from probe.results.multirank import Rank, Straggler
from probe.results.scaling import Scaling
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
    whose = f" of rank {analysis.ranks[0].rank}" if len(analysis.ranks) > 1 else ""
    said = f"A step{whose} takes {format_time(step_s)} and {_bound(analysis, step_s)}."
    return " ".join(filter(None, (said, _loop(analysis), _promise(analysis, step_s))))


def _loop(analysis: Analysis) -> str:
    """Which loop to work on; "" where that cannot be told."""
    return f"Work on the {analysis.loop.name} loop: {analysis.loop.evidence}." if analysis.loop is not None else ""


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


def of_ranks(analysis: Analysis) -> str:
    """Which rank is late, what communication costs, and how the job scales; "" where there is one rank and one job."""
    return " ".join(_of_ranks(analysis))


def _of_ranks(analysis: Analysis) -> Iterator[str]:
    if len(analysis.ranks) > 1:
        yield _late(analysis.stragglers) if analysis.stragglers else _nobody_late(analysis.ranks)
        yield from _exposed(analysis.ranks)
    if analysis.scaling is not None and analysis.scaling.points[-1].world_size > analysis.scaling.points[0].world_size:
        yield _scales(analysis.scaling)


def _late(stragglers: Sequence[Straggler]) -> str:
    """The late ranks, the latest with its figures."""
    latest = stragglers[0]
    how = f"by {format_time(latest.late_s)} a step {interval(latest.late_interval_s)}"
    if len(stragglers) > 1:
        ranks = listed([s.rank for s in stragglers])
        return f"Ranks {ranks} are late and the others wait for them: rank {latest.rank} is late {how}."
    gain = f": mending it alone gains up to {format_time(latest.delay_s)}" if latest.delay_s > 0 else ""
    return f"Rank {latest.rank} is late {how} and the others wait for it{gain}."


def _nobody_late(ranks: Sequence[Rank]) -> str:
    """That the ranks are balanced, or why none can be named."""
    known = [(r.late_s, r.late_interval_s, r) for r in ranks if r.late_s is not None and r.late_interval_s is not None]
    if not known:
        return f"Which rank is late cannot be told: no collective was matched on two ranks{_step_range(ranks)}."
    most_s = max(high for _, (_, high), _ in known)
    steps = [r.step_s for r in ranks if r.step_s]
    if steps and most_s <= MATERIAL_FRACTION * fmean(steps):
        return f"The ranks are balanced: none is late by more than {format_time(max(most_s, 0.0))} a step, at 95 %."
    late_s, found, latest = max(known, key=lambda one: one[0])
    return (
        f"Which rank is late cannot be told: rank {latest.rank} seems late by {format_time(late_s)} a step, but the"
        f" clocks and the number of steps leave {interval(found)}."
    )


def _step_range(ranks: Sequence[Rank]) -> str:
    steps = sorted((r.step_s, r.rank) for r in ranks if r.step_s)
    if len(steps) < 2:
        return ""
    (least_s, least), (most_s, most) = steps[0], steps[-1]
    return f"; a step takes {format_time(least_s)} (rank {least}) to {format_time(most_s)} (rank {most})"


def _exposed(ranks: Sequence[Rank]) -> Iterator[str]:
    """Exposed communication as a share of the mean step over the ranks, and how much of it is waiting."""
    known = [(r.step_s, r.exposed_communication_s) for r in ranks if r.step_s and r.exposed_communication_s is not None]
    if not known:
        return
    step_s, exposed_s = fmean(step for step, _ in known), fmean(exposed for _, exposed in known)
    if not exposed_s:
        yield "No communication is exposed."
        return
    share = f"{format_time(exposed_s)} of a step ({format_fraction(exposed_s / step_s, 0)}) is exposed communication"
    yield f"Over these {len(ranks)} ranks, {share}, {_waiting(ranks)}."


def _waiting(ranks: Sequence[Rank]) -> str:
    """How much of the exposed communication is waiting: a range where part of the wait may be hidden."""
    known = [(wait, r.exposed_communication_s or 0.0) for r in ranks if (wait := exposed_wait(r)) is not None]
    total_s = sum(exposed_s for _, exposed_s in known)
    if not total_s:
        return "and how much of that is waiting for late ranks cannot be told"
    low, high = (f"{sum(wait[end] for wait, _ in known) / total_s:.0%}".rstrip("%") for end in (0, 1))
    return f"{low if low == high else f'{low}–{high}'} % of that known to be waiting for one another"


def _scales(scaling: Scaling) -> str:
    """What is left of a rank's throughput in the largest job."""
    least, most = scaling.points[0], scaling.points[-1]
    return f"From {least.world_size} to {most.world_size} ranks, each keeps {efficiency(most)} of its throughput."


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
