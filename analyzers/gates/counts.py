"""Has a step more of what can be counted: operators, launches, synchronisations, copies, bytes, graph breaks?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from probe.analyzers.gates.evidence import Counted
from probe.results.gate_result import Metric, Verdict

UNITS = {"copied_bytes": "byte", "peak_memory_bytes": "byte", "flops": "FLOP"}


def count_metrics(
    base: Mapping[str, Counted], new: Mapping[str, Counted], limits: Mapping[str, float]
) -> Iterator[Metric]:
    """One metric a count that both sides have."""
    for name in limits:
        if name in base and name in new:
            yield _metric(name, base[name], new[name], limits[name])


def _metric(name: str, base: Counted, new: Counted, limit: float) -> Metric:
    """The most of each side is compared where steps differ; what the base itself varies by is no regression."""
    more = new.most > base.most * (1 + limit)
    varied = base.least != base.most
    verdict: Verdict = "fail" if more and new.least > base.most else "inconclusive" if more else "pass"
    return Metric(
        name=name,
        unit=UNITS.get(name, "1"),
        base=base.most,
        new=new.most,
        ratio=new.most / base.most if base.most else None,
        interval=None,
        verdict=verdict,
        threshold_fraction=limit,
        n_base=base.n,
        n_new=new.n,
        reason=_reason(name, base, new, verdict, varied=varied),
    )


def _reason(name: str, base: Counted, new: Counted, verdict: Verdict, *, varied: bool) -> str | None:
    words = name.replace("_", " ")
    if verdict == "fail":
        return f"{words}: {base.most:g} per step before, {new.most:g} now"
    if verdict == "inconclusive":
        return f"{words}: some steps have up to {new.most:g}, others no more than the base's {base.most:g}"
    return f"varies from {base.least:g} to {base.most:g} in the base" if varied else None
