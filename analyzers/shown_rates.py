"""Which rates did the operators of this trace reach: what the device can do at the least, whatever its data sheet says?

Published peaks are reached by no kernel, and of some devices nothing is published. What the fastest operators of the
same trace reach is a roof that others of the same kind can be held against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from probe.analyzers.cost_models import Cost
from probe.analyzers.roofline import TENSOR_KINDS, Placement
from probe.machine.datasheets import DATASHEETS

BEYOND_CACHES = 256 << 20  # bytes: more than any device's caches hold
LONG_S = 25e-6  # ten launches: rates of shorter calls are those of starting them
# Below this intensity, FLOP/byte, nothing on the vector units is bound by arithmetic on any device of the data sheets.
LEAST_RIDGE = min(d.tera["float32"] * 1e12 / (d.bandwidth * 1e9) for d in DATASHEETS)


@dataclass(frozen=True)
class Share:
    """A call's rate as a share of the highest in the trace, on the side on which that is the larger one."""

    side: Literal["compute", "memory"]
    fraction: float
    what: str

    @property
    def text(self) -> str:
        """The share in words."""
        return f"{self.fraction:.0%} of {self.what} in this trace"


@dataclass(frozen=True)
class ShownRates:
    """The highest rates in a trace; None and {} where no operator shows one."""

    bytes_per_s: float | None = None  # from and to memory
    flops_per_s: dict[str, float] = field(default_factory=dict)  # of matrix products, by type

    def share(self, cost: Cost, placement: Placement, time_s: float) -> Share | None:
        """Where a call stands below the highest rates; None where that is not known."""
        compute_s = self._compute_s(cost, placement)
        memory_s = cost.bytes / self.bytes_per_s if cost.bytes and self.bytes_per_s else None
        if compute_s is None or memory_s is None or time_s <= 0:
            return None
        if compute_s >= memory_s:
            return Share("compute", min(compute_s / time_s, 1.0), f"the fastest {placement.dtype} product")
        return Share("memory", min(memory_s / time_s, 1.0), "the highest rate of memory traffic")

    def _compute_s(self, cost: Cost, placement: Placement) -> float | None:
        """Time of the arithmetic at the highest rate; 0 where it is too little to matter on any device."""
        if cost.kind in TENSOR_KINDS:
            rate = self.flops_per_s.get(placement.dtype or "")
            return cost.flops / rate if cost.flops and rate else None
        few = cost.flops is not None and cost.bytes and cost.flops / cost.bytes < LEAST_RIDGE
        return 0.0 if few else placement.compute_s


def shown_rates(costs: Sequence[Cost], placements: Sequence[Placement], time_s: npt.NDArray[np.float64]) -> ShownRates:
    """The highest rates among groups of calls that take `time_s` each, [groups]; no rate exceeds its roof."""
    moved: float | None = None
    products: dict[str, float] = {}
    for cost, placement, seconds in zip(costs, placements, time_s.tolist(), strict=True):
        if seconds < LONG_S or cost.kind in ("collective", "unknown"):
            continue
        if cost.bytes and (cost.footprint_bytes or cost.bytes) >= BEYOND_CACHES and placement.level is not None:
            moved = max(moved or 0.0, _capped(cost.bytes / seconds, placement.peak_bytes_per_s))
        if cost.flops and cost.kind in TENSOR_KINDS and placement.dtype:
            rate = _capped(cost.flops / seconds, placement.peak_flops_per_s)
            products[placement.dtype] = max(products.get(placement.dtype, 0.0), rate)
    return ShownRates(moved, products)


def _capped(rate: float, roof: float | None) -> float:
    return min(rate, roof) if roof else rate
