"""Which operators would gain from a narrower element type, and how much by their roofs?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from probe.analyzers.cost_models import Cost
from probe.analyzers.roofline import TENSOR_KINDS
from probe.machine.device import Ceilings
from probe.results.analysis import PrecisionGain

BYTES = {"float64": 8, "float32": 4, "tf32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1}
NARROWER = {  # from the type that runs now; each where the device has a roof for it
    "float64": ("float32",),
    "float32": ("tf32", "bfloat16", "float16"),
    "tf32": ("bfloat16", "float16"),
    "bfloat16": ("float8_e4m3fn",),
    "float16": ("float8_e4m3fn",),
}
ONLY_PRODUCTS = frozenset({"tf32", "float8_e4m3fn"})  # types that only matrix units work in
LEAST = 1.05  # ratio below which it is no gain
NEAR = 0.2  # of its roof: below it the rest of the time is not the type's


@dataclass(frozen=True)
class Work:
    """What a group of calls costs: one call's model, its time, how many there are per step, and how they now run."""

    cost: Cost
    call_s: float
    calls: float
    index: int  # by which the operator is known to the reader
    runs_in: str | None = None  # where the kernels differ from the recorded type: "tf32"


def precision_gains(work: Sequence[Work], ceilings: Ceilings) -> tuple[PrecisionGain, ...]:
    """One row a pair of types, most saving first. Accuracy is not looked at: that is for a run to show."""
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for one in work:
        for after, gain_s in gains(one, ceilings):
            found.setdefault((now(one) or "", after), []).append((one.index, gain_s))
    rows = (
        PrecisionGain(tuple(sorted({index for index, _ in each})), before, after, sum(gain_s for _, gain_s in each))
        for (before, after), each in found.items()
    )
    return tuple(sorted(rows, key=lambda row: -row.saving_s))


def now(work: Work) -> str | None:
    """The type that the operators run in."""
    return work.runs_in or work.cost.dtype


def gains(work: Work, ceilings: Ceilings) -> Iterator[tuple[str, float]]:
    """The types that a group would be faster in, each with the seconds per step."""
    for after in NARROWER.get(now(work) or "", ()):
        ratio = speedup(work, after, ceilings)
        if ratio is not None and ratio >= LEAST:
            yield after, work.call_s * work.calls * (1 - 1 / ratio)


def speedup(work: Work, after: str, ceilings: Ceilings) -> float | None:
    """How much faster by the roofs: an operator stays as far from the roof of the new type as it is from its own.

    None where a roof is not known. The roof is the greater of arithmetic and traffic, so that what is bound by memory
    gains by the bytes only, and TF32, which is float32 in memory, gains nothing there. What is far from its roof, by
    launches or waiting, does not come nearer by a narrower type: the gain is that of the time at the roof.
    """
    before = now(work)
    if before not in BYTES or (after in ONLY_PRODUCTS and work.cost.kind not in TENSOR_KINDS):
        return None
    old_s = _roof_s(work.cost, before, ceilings, 1.0)
    new_s = _roof_s(work.cost, after, ceilings, BYTES[after] / BYTES[before])
    if not old_s or new_s is None or work.call_s <= 0:
        return None
    near = old_s >= NEAR * work.call_s
    saved_s = work.call_s * (1 - new_s / old_s) if near else max(old_s - new_s, 0.0)
    return work.call_s / (work.call_s - saved_s) if saved_s < work.call_s else None


def _roof_s(cost: Cost, dtype: str, ceilings: Ceilings, share: float) -> float | None:
    """Least time of one call in a type; share: of the bytes that it moves now."""
    vector = "float32" if cost.kind not in TENSOR_KINDS and dtype != "float64" else dtype
    peak = ceilings.flops_per_s.get(vector)
    if cost.flops is None or cost.bytes is None or not ceilings.dram_bytes_per_s or (cost.flops and not peak):
        return None
    return max(cost.flops / peak if peak else 0.0, cost.bytes * share / ceilings.dram_bytes_per_s)
