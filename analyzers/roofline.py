"""Where an operator stands under the roofs: its intensity, the ridge point, and the least time it could take."""

from __future__ import annotations

from dataclasses import dataclass

from probe.analyzers.cost_models import Cost
from probe.machine.device import Ceilings
from probe.units import format_bytes_per_s, format_flops_per_s, significant

# Below this share of the nearest roof neither roof explains an operator's time; real kernels reach a third with ease.
NEAR_FRACTION = 0.3
TENSOR_KINDS = frozenset({"matmul", "convolution", "attention"})  # what tensor cores or packed FMA units are for


@dataclass(frozen=True)
class Placement:
    """One call of an operator against the ceilings; times in seconds, None where a roof or the work is not known."""

    flops: float | None
    bytes: float | None
    dtype: str | None  # whose arithmetic ceiling counts
    peak_flops_per_s: float | None
    level: str | None  # of the memory hierarchy whose bandwidth counts
    peak_bytes_per_s: float | None

    @property
    def compute_s(self) -> float | None:
        """Time at the arithmetic roof."""
        if self.flops == 0:
            return 0.0
        return self.flops / self.peak_flops_per_s if self.flops is not None and self.peak_flops_per_s else None

    @property
    def memory_s(self) -> float | None:
        """Time at the memory roof."""
        if self.bytes == 0:
            return 0.0
        return self.bytes / self.peak_bytes_per_s if self.bytes is not None and self.peak_bytes_per_s else None

    @property
    def roof_s(self) -> float | None:
        """The least time one call could take; None where neither roof is known."""
        known = [t for t in (self.compute_s, self.memory_s) if t is not None]
        return max(known) if known else None

    @property
    def intensity(self) -> float | None:
        """Arithmetic intensity, FLOP/byte."""
        return self.flops / self.bytes if self.flops is not None and self.bytes else None

    @property
    def ridge_point(self) -> float | None:
        """The intensity at which the two roofs meet, FLOP/byte."""
        both = self.peak_flops_per_s and self.peak_bytes_per_s
        return self.peak_flops_per_s / self.peak_bytes_per_s if both else None  # type: ignore[operator]

    def decided(self, time_s: float) -> bool:
        """Whether both roofs are known, or one of them by itself explains a call of `time_s`."""
        if self.compute_s is not None and self.memory_s is not None:
            return self.compute_s > 0 or self.memory_s > 0
        return max(self.compute_s or 0.0, self.memory_s or 0.0) >= NEAR_FRACTION * time_s

    @property
    def side(self) -> str:
        """Which roof is nearer: "compute" or "memory"."""
        return "compute" if (self.compute_s or 0.0) >= (self.memory_s or 0.0) else "memory"


def place(cost: Cost, ceilings: Ceilings, *, tf32: bool = False) -> Placement:
    """`cost` of one call under `ceilings`. tf32: its kernels run float32 products on tensor cores."""
    dtype = _arithmetic_dtype(cost, ceilings, tf32)
    level, bandwidth = _bandwidth(cost, ceilings)
    return Placement(
        flops=cost.flops,
        bytes=cost.bytes,
        dtype=dtype,
        peak_flops_per_s=ceilings.flops_per_s.get(dtype) if dtype else None,
        level=level,
        peak_bytes_per_s=bandwidth,
    )


def _arithmetic_dtype(cost: Cost, ceilings: Ceilings, tf32: bool) -> str | None:
    """The ceiling that an operator's arithmetic meets: outside matrix products it runs on the vector units.

    Those have float32 rate for every narrower type and are not measured by themselves, so float32's matrix rate stands
    for them; half-precision tensor rates would put the roof out of reach.
    """
    if cost.kind in TENSOR_KINDS:
        return "tf32" if tf32 and cost.dtype == "float32" and "tf32" in ceilings.flops_per_s else cost.dtype
    return "float64" if cost.dtype == "float64" and "float64" in ceilings.flops_per_s else "float32"


def _bandwidth(cost: Cost, ceilings: Ceilings) -> tuple[str | None, float | None]:
    """The smallest measured cache that the operator's data fits into, else DRAM."""
    measured = sorted(
        (level.capacity_bytes, name, level.bytes_per_s)
        for name, level in ceilings.levels.items()
        if level.capacity_bytes and level.bytes_per_s
    )
    touched = cost.footprint_bytes if cost.footprint_bytes is not None else cost.bytes
    if touched is not None:
        for capacity, name, rate in measured:
            if touched <= capacity:
                return name, rate
    return "DRAM", ceilings.dram_bytes_per_s


def evidence(placement: Placement, time_s: float) -> list[str]:
    """The figures behind a class, in words; `time_s` is one call's."""
    lines = []
    if placement.intensity is not None and placement.ridge_point is not None:
        intensity, ridge = significant(placement.intensity), significant(placement.ridge_point)
        lines.append(f"{intensity} FLOP/byte, ridge point {ridge}")
    if placement.compute_s and time_s:
        rate = format_flops_per_s(placement.peak_flops_per_s)
        lines.append(f"{placement.compute_s / time_s:.0%} of the {placement.dtype} ceiling ({rate})")
    if placement.memory_s and time_s:
        rate = format_bytes_per_s(placement.peak_bytes_per_s)
        lines.append(f"{placement.memory_s / time_s:.0%} of {placement.level}'s bandwidth ({rate})")
    return lines
