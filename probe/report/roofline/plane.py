"""Which roofs does a roofline show, which operators stand under them, and where do its axes end?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from probe.machine.device import Ceilings
from probe.results.analysis import Analysis, Operator
from probe.units import format_bytes_per_s, format_flops_per_s

DRAM = "DRAM"


@dataclass(frozen=True)
class Roof:
    """A ceiling: bytes a second (sloped) or operations a second (flat). `met`: an operator can come up against it."""

    name: str
    rate: float
    sloped: bool
    met: bool
    published: bool = False

    @property
    def label(self) -> str:
        """Its name and its rate."""
        return f"{self.name} {(format_bytes_per_s if self.sloped else format_flops_per_s)(self.rate)}"


@dataclass(frozen=True)
class Plane:
    """The ends of both axes, which are logarithmic: intensity in FLOP/byte, rate in FLOP/s."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float


def roofs(ceilings: Ceilings, met: Ceilings | None = None, datasheet: Ceilings | None = None) -> tuple[Roof, ...]:
    """The lines to draw: of memory by level, DRAM's first, then of arithmetic by type, each the fastest first.

    `met`: the ceilings that operators can come up against, all of arithmetic where it is not given. The datasheet's
    stand beside measured ones only.
    """
    met = met or ceilings
    found = [Roof(DRAM, rate, True, True) for rate in (ceilings.dram_bytes_per_s,) if rate]
    caches = ((name, level.bytes_per_s) for name, level in ceilings.levels.items() if name != DRAM)
    found += (Roof(name, rate, True, False) for name, rate in _fastest_first(caches))
    found += (
        Roof(dtype, rate, False, dtype in met.flops_per_s)
        for dtype, rate in _fastest_first(ceilings.flops_per_s.items())
    )
    if datasheet is not None and ceilings.origin == "measured":
        found += _published(datasheet, met)
    return tuple(found)


def close_together(lines: Sequence[Roof], decades: float) -> list[list[Roof]]:
    """The sloped roofs, fastest first, in groups of those that lie too close for a label each."""
    groups: list[list[Roof]] = []
    for roof in sorted((roof for roof in lines if roof.sloped), key=lambda roof: -roof.rate):
        if groups and math.log10(groups[-1][-1].rate / roof.rate) < decades:
            groups[-1].append(roof)
        else:
            groups.append([roof])
    return groups


def _fastest_first(rates: Iterable[tuple[str, float | None]]) -> list[tuple[str, float]]:
    return sorted(((name, rate) for name, rate in rates if rate), key=lambda named: -named[1])


def _published(datasheet: Ceilings, met: Ceilings) -> Iterator[Roof]:
    for dtype, rate in _fastest_first(datasheet.flops_per_s.items()):
        if dtype in met.flops_per_s:
            yield Roof(f"{dtype} datasheet", rate, False, False, True)
    if datasheet.dram_bytes_per_s:
        yield Roof(f"{DRAM} datasheet", datasheet.dram_bytes_per_s, True, False, True)


def roofs_met(analysis: Analysis, ceilings: Ceilings) -> Ceilings:
    """The ceilings with only those compute roofs that some operator can meet; all of them where none is known."""
    words = " ".join(e for op in analysis.ops for e in op.evidence)
    met = {dtype: rate for dtype, rate in ceilings.flops_per_s.items() if f"the {dtype} ceiling" in words}
    return replace(ceilings, flops_per_s=met or ceilings.flops_per_s)


def placed(ops: Iterable[Operator]) -> list[Operator]:
    """The operators that have a place under the roofs, in their order."""
    return [op for op in ops if op.intensity and op.achieved_flops_per_s]


def plane(lines: Sequence[Roof], ops: Sequence[Operator]) -> Plane:
    """Axes that hold the ridge of every roof and every operator."""
    flat = [roof.rate for roof in lines if not roof.sloped]
    sloped = [roof.rate for roof in lines if roof.sloped]
    rates = [op.achieved_flops_per_s or 1.0 for op in ops]
    intensities = [op.intensity or 1.0 for op in ops]
    top = max([*flat, *rates, 1.0])
    ridge = top / min(sloped) if sloped else 100.0
    low_x, high_x = min([0.05, *intensities]) / 1.6, max([ridge * 6, *intensities]) * 1.6
    bottom = min([*rates, *([min(sloped) * low_x] if sloped else [])], default=top / 1e4)
    return Plane(max(low_x, 1e-4), high_x, max(bottom / 2, top / 1e8), top * 3)
