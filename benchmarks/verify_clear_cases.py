"""Do the verdicts of clear cases ever flip? Recorded programs, verified again and again.

    python benchmarks/verify_clear_cases.py [RUNS] [BUDGET_S]

Records five small programs on this CPU, lets probe find what it finds, and verifies the replacement in question RUNS
times with another seed each. Prints how often each verdict was given. Between two runs a clear case (ratio above 1.3 or
below 0.8) must not flip between accept and reject; inconclusive, on a machine too busy, is no flip.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn import functional

import probe
from probe import sites as recorded
from probe.examine.examine import Request, examine
from probe.sites import ChainSite, Read, Site
from probe.trace import Signature
from probe.verify.bench import bench
from probe.verify.cases import case_of
from probe.verify.engine import Result, verify_case

Step = Callable[[], object]


@dataclass(frozen=True)
class Clear:
    """A program, the finding that it must give, the replacement, and the verdict that is right."""

    name: str
    step: Callable[[], Step] | None  # None: probe rightly finds nothing, and the operators themselves are judged
    code: str
    candidate: str
    expected: tuple[str, ...]


def attention() -> Step:
    """softmax(Q Kᵀ / 8) V of 8 heads, 512 long."""
    q, k, v = (torch.randn(1, 8, 512, 64) for _ in range(3))
    return lambda: torch.softmax(q @ k.transpose(-2, -1) * 0.125, -1) @ v


def rms_norm() -> Step:
    """x / √(mean x² + ε) · w over [4096, 1024]."""
    x, w = torch.randn(4096, 1024), torch.randn(1024)
    return lambda: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w


def adamw() -> Step:
    """100 parameters of 64 × 64, one after the other."""
    parameters = [torch.randn(64, 64, requires_grad=True) for _ in range(100)]
    for parameter in parameters:
        parameter.grad = torch.randn(64, 64)
    return torch.optim.AdamW(parameters, foreach=False).step


def loss() -> Step:
    """The loss of a language model with 32,000 words, forward and backward."""
    hidden, weight = torch.randn(512, 64, requires_grad=True), torch.randn(32000, 64, requires_grad=True)
    targets = torch.randint(0, 32000, (512,))
    return lambda: functional.cross_entropy(functional.linear(hidden, weight), targets).backward()


def _tiny(name: str, count: int, first: Read) -> recorded.Step:
    """One operator on [4, 64], of what the step before made and of a tensor from outside."""
    size, alpha = (4, 64), name == "aten::add"
    dims, kinds = (size,) * count, ("float",) * count
    signature = Signature(dims + ((),) * alpha, kinds + ("Scalar",) * alpha, (), ("",) * count + ("1",) * alpha)
    return recorded.Step(name, signature, (first, Read(None, 1))[:count])


STEPS = (("aten::mul", 2), ("aten::add", 2), ("aten::tanh", 1), ("aten::mul", 2), ("aten::sigmoid", 1))
TINY = ChainSite(
    "F01",
    tuple(_tiny(name, count, Read(i - 1) if i else Read(None, 0)) for i, (name, count) in enumerate(STEPS)),
    training=False,
    known=True,
)
CASES = (
    Clear("naive attention → SDPA", attention, "F06", "scaled_dot_product_attention", ("accept",)),
    Clear("RMSNorm by hand → compiled", rms_norm, "F04", "torch.compile", ("accept",)),
    Clear("AdamW loop → fused", adamw, "F24", "fused", ("accept",)),
    Clear("tiny pointwise chain → compiled", None, "F01", "torch.compile", ("reject",)),
    Clear("linear + cross-entropy → chunked", loss, "F09", "cross-entropy in chunks", ("trade",)),
)


def main(runs: int = 20, budget_s: float = 10.0) -> None:
    """Every case, `runs` times."""
    for case in CASES:
        site = site_of(case)
        if site is None:
            print(f"{case.name:36} {case.code} was not found", flush=True)
            continue
        report(case, [verdict(case, site, seed, budget_s) for seed in range(runs)])


def record(step: Step, path: Path) -> str:
    """A run of the program at `path`, a few of its steps traced; the path."""
    with probe.profile(path, wait=2, warmup=1, active=3, telemetry=False) as session:
        session.quiet = True
        for _ in range(8):
            step()
            session.step()
    return str(session.path)


def site_of(case: Clear) -> Site | None:
    """What probe finds in a recording of the program."""
    if case.step is None:
        return TINY
    with TemporaryDirectory() as folder:
        found = examine(record(case.step(), Path(folder) / "run"), Request(preview=True)).found
    return next((one.site for one in found if one.finding.code == case.code and one.site is not None), None)


def verdict(case: Clear, site: Site, seed: int, budget_s: float) -> Result | None:
    """One run; None where the replacement was not among those that were proposed."""
    whole = case_of(site)
    chosen = tuple(c for c in whole.candidates if c.name == case.candidate)
    if not chosen:
        return None
    return verify_case(replace(whole, candidates=chosen), bench(seed=seed), budget_s)[0]


def report(case: Clear, results: list[Result | None]) -> None:
    """Counts of verdicts, the range of the speed-ups, and how many contradict what is right."""
    known = [r for r in results if r is not None]
    verdicts = Counter(r.verified.verdict for r in known)
    speedups = sorted(r.verified.speedup for r in known if r.verified.speedup is not None)
    opposite = {"accept": "reject", "reject": "accept", "trade": "accept"}[case.expected[0]]
    counts = ", ".join(f"{n} {name}" for name, n in verdicts.most_common()) or "not proposed"
    ratios = f"{speedups[0]:.2f}–{speedups[-1]:.2f}×" if speedups else "not timed"
    print(f"{case.name:36} {counts}; {ratios}; flips: {verdicts[opposite]}", flush=True)


if __name__ == "__main__":
    main(*(kind(text) for kind, text in zip((int, float), sys.argv[1:], strict=False)))
