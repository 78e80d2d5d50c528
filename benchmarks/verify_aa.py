"""How often is a pair of equals accepted, and do clear cases ever flip? Repeated real runs of the verify engine.

    python benchmarks/verify_aa.py [RUNS] [BUDGET_S] [EQUALS]

Prints, for each case, how often each verdict was given, and the range of the speed-ups. Equals (A/A) must not be
accepted in 1 % of the runs or more; a clear case must have one verdict. EQUALS runs of each pair of equals, by default
as many as RUNS.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from typing import Any

from probe.sites import AttentionSite, OptimizerSite, Site
from probe.verify.bench import bench
from probe.verify.case import Candidate
from probe.verify.cases import case_of
from probe.verify.engine import Result, verify_case

SIZES, SHORT = (1, 8, 512, 64), (1, 4, 128, 64)
ATTENTION = AttentionSite(SIZES, SIZES, SIZES, "float32", 0.125, "none", 0.0, training=False)
ADAMW = OptimizerSite("adamw", ((64, 64),) * 100, "float32")
SITES: dict[str, Site] = {
    "attention": ATTENTION,
    "attention, backward": AttentionSite(SHORT, SHORT, SHORT, "float32", 0.125, "none", 0.0, training=True),
    "adamw": ADAMW,
}


def main(runs: int = 20, budget_s: float = 5.0, equals: int | None = None) -> None:
    """Each site against itself and against its first candidate, with another seed each time."""
    for name, site in SITES.items():
        case = case_of(site)
        itself = Candidate("itself", "", case.original)
        report(f"A/A {name}", [judge(site, itself, seed, budget_s) for seed in range(equals or runs)])
        best = case.candidates[0]
        report(f"{name} → {best.name}", [judge(site, best, seed, budget_s) for seed in range(runs)])


def judge(site: Site, candidate: Candidate[Any], seed: int, budget_s: float) -> Result:
    """One run; the numbers are compared on the recorded sizes alone, since the question is one of time."""
    case = case_of(site)
    return verify_case(replace(case, candidates=(candidate,), checked=case.checked[:1]), bench(seed=seed), budget_s)[0]


def report(name: str, results: list[Result]) -> None:
    """Counts of verdicts, and the spread of what was measured."""
    verdicts = Counter(r.verified.verdict for r in results)
    speedups = sorted(r.verified.speedup for r in results if r.verified.speedup is not None)
    noise = sorted(r.noise for r in results if r.noise is not None)
    counts = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.most_common())
    measured = f"{speedups[0]:.3f}–{speedups[-1]:.3f}×, noise {noise[0]:.0%}–{noise[-1]:.0%}" if speedups else "nothing"
    print(f"{name:45} {len(results)} runs: {counts}; {measured}", flush=True)


if __name__ == "__main__":
    main(*(kind(text) for kind, text in zip((int, float, int), sys.argv[1:], strict=False)))
