"""What probe suggests, with the evidence for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["accept", "reject", "inconclusive", "trade"]


@dataclass(frozen=True)
class Verified:
    """What running a replacement on the recorded shapes showed. Times as ratios, errors relative to float64."""

    verdict: Verdict
    speedup: float | None
    interval: tuple[float, float] | None
    n: int
    peak_bytes_before: int | None
    peak_bytes_after: int | None
    error_before: float | None
    error_after: float | None
    gradient_error_before: float | None
    gradient_error_after: float | None
    device: str
    candidate: str | None = None  # what was run in place of the original
    reason: str | None = None  # why the verdict is what it is


@dataclass(frozen=True)
class Finding:
    """One site where a rule of the catalogue applies. `saving_s` is per step, an upper bound before it is verified."""

    id: str
    code: str
    rule: str
    title: str
    summary: str
    evidence: tuple[str, ...]
    where: str | None
    ops: tuple[int, ...]
    saving_s: float | None
    saving_fraction: float | None
    saving_bytes: int | None
    matched: Literal["order", "dataflow", "graph"]
    replacement: str | None
    how: str | None
    module: str | None = None  # path of the module it lies in, where that was recorded
    effort: Literal["flag", "line", "function", "design"] = "function"  # what the change takes, the least first
    preview: bool = False  # of a rule that is not on by default
    verified: Verified | None = None  # of the best replacement that was run
    alternatives: tuple[Verified, ...] = ()  # of the others
