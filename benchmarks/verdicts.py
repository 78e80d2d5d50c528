"""What did rules promise, and what did their replacements give? Programs recorded, analysed and verified.

    python benchmarks/verdicts.py [BUDGET_S]

A step of each program is one place of one rule and nothing else, so that the speed-up which the finding's saving
predicts for the step can be held against the one that is measured for the place. Verdicts go to
benchmarks/results/verdicts.<device>.json, where they replace those of the same program; docs/verdicts.py writes the
page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn import functional
from verify_clear_cases import CASES, Step, record

import probe
from probe.api import verify
from probe.machine.environment import cpu_device
from probe.results.findings import Finding, Verified

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One replacement in one program. Ratios: time before by time after."""

    program: str
    code: str
    replacement: str
    verdict: str
    predicted: float | None  # of the step, by the finding's saving; of the advice as such, not of one replacement
    measured: float | None
    interval: tuple[float, float] | None
    memory: float | None  # peak after by peak before
    torch: str
    at: str


def pointwise() -> Step:
    """tanh(a · b + a) · sigmoid(b) over [2048, 1024]."""
    a, b = torch.randn(2, 2048, 1024)
    return lambda: torch.tanh(a * b + a) * torch.sigmoid(b)


def bias_gelu() -> Step:
    """gelu(x w + b), the bias added apart."""
    x, weight, bias = torch.randn(2048, 128), torch.randn(128, 1024), torch.randn(1024)
    return lambda: functional.gelu(x @ weight + bias)


def average() -> Step:
    """A moving average of 100 weights of 64 × 64, one after the other."""
    averages, weights = torch.randn(2, 100, 64, 64).unbind()
    pairs = list(zip(averages.unbind(), weights.unbind(), strict=True))

    def step() -> None:
        for one, weight in pairs:
            one.mul_(0.99).add_(weight, alpha=0.01)

    return step


def clip() -> Step:
    """100 gradients of 64 × 64 clipped, one after the other."""
    gradients = list(torch.randn(100, 64, 64).unbind())

    def step() -> None:
        total = torch.stack([g.norm() for g in gradients]).norm()
        for gradient in gradients:
            gradient.mul_(1.0 / (total + 1e-6))

    return step


def causal_mask() -> Step:
    """Attention of 8 heads, 1024 long, under a triangular mask."""
    q, mask = torch.randn(1, 8, 1024, 64), torch.ones(1024, 1024, dtype=torch.bool).tril()
    return lambda: functional.scaled_dot_product_attention(q, q, q, attn_mask=mask)


PROGRAMS: tuple[tuple[str, Callable[[], Step], str], ...] = (
    *((case.name.partition(" → ")[0], case.step, case.code) for case in CASES if case.step is not None),
    ("pointwise chain", pointwise, "F01"),
    ("bias and GELU apart", bias_gelu, "F02"),
    ("dense causal mask", causal_mask, "F08"),
    ("clipping loop", clip, "F26"),
    ("averaging loop", average, "F27"),
)


def main(budget_s: float = 20.0) -> None:
    """Every program."""
    path = RESULTS / f"verdicts.{cpu_device().name.lower().replace(' ', '-')}-{torch.get_num_threads()}-threads.json"
    known = json.loads(path.read_text()) if path.exists() else []
    for name, program, code in PROGRAMS:
        rows = [asdict(row) for row in rows_of(name, program, code, budget_s)]
        known = [row for row in known if row["program"] != name] + rows
        path.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
        print(name, *(f"{row['replacement']}: {row['verdict']} {row['measured'] or ''}" for row in rows), sep="\n  ")


def rows_of(name: str, program: Callable[[], Step], code: str, budget_s: float) -> Iterator[Row]:
    """What verify says of the program's finding."""
    with TemporaryDirectory() as folder:
        run = record(program(), Path(folder) / "run")
        if not any(f.code == code for f in probe.analyze(run).findings):
            return
        found = next(f for f in verify(run, codes=[code], budget_s=budget_s).findings if f.code == code)
    for one in (found.verified, *found.alternatives):
        if one is not None:
            yield row_of(name, found, one)


def row_of(name: str, finding: Finding, one: Verified) -> Row:
    """One replacement."""
    saved = finding.saving_fraction
    known = one.peak_bytes_before and one.peak_bytes_after is not None
    return Row(
        name, finding.code, one.candidate or "", one.verdict, 1 / (1 - saved) if saved and saved < 1 else None,
        one.speedup, one.interval, (one.peak_bytes_after or 0) / (one.peak_bytes_before or 1) if known else None,
        torch.__version__, datetime.now(UTC).date().isoformat(),
    )  # fmt: skip


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
