"""How much longer does a call take under other roofs, or with other work? Its distance from its roof is kept."""

from __future__ import annotations

from dataclasses import dataclass

from probe.analyzers.cost_models import Cost
from probe.analyzers.roofline import NEAR_FRACTION, Placement
from probe.machine.device import Ceilings

GRAIN = 32768  # elements: torch's vector loops over fewer run on one thread (at::internal::GRAIN_SIZE)
STAYS = frozenset(("collective", "host", "sync", "view", "wrapper"))  # kinds that no roof moves


@dataclass(frozen=True)
class Factor:
    """New time over old: the projection, and the least and the most that the roofs leave open."""

    value: float
    low: float
    high: float
    why: str

    def at_least(self, share: float) -> Factor:
        """The same, with a share of the time that stays as it is."""
        value, low, high = (share + (1 - share) * v for v in (self.value, self.low, self.high))
        return Factor(value, low, high, self.why)

    def beside(self, before_s: float, after_s: float, time_s: float) -> Factor:
        """The factor of a call of `time_s` of which so much was something else, and so much will be."""
        if time_s <= 0 or not (before_s or after_s):
            return self
        value, low, high = (((time_s - before_s) * v + after_s) / time_s for v in (self.value, self.low, self.high))
        return Factor(value, low, high, f"{self.why}; {'unfolded into columns' if after_s else 'without its columns'}")


KEPT = Factor(1.0, 1.0, 1.0, "kept")


def moved(
    cost: Cost, old: Placement, new: Placement, time_s: float, fixed_s: float, rates: Rates, *, overlaps: bool = True
) -> Factor:
    """The factor of a group. old, new: its mean call under the roofs before and after; fixed_s: what starting takes.

    overlaps: whether arithmetic hides memory traffic, as on a GPU. A CPU's products pack their operands first, so that
    there one follows the other.
    """
    if cost.kind in STAYS or time_s <= 0:
        return KEPT
    if not old.roof_s or not new.roof_s:
        return rates.open_factor().at_least(min(fixed_s / time_s, 1.0))
    return _by_roofs(old, new, time_s, overlaps).at_least(min(fixed_s / time_s, 1.0))


def _by_roofs(old: Placement, new: Placement, time_s: float, overlaps: bool) -> Factor:
    """Both roofs known. What is near one keeps its distance; what is far may be bound by neither."""
    assert old.roof_s and new.roof_s
    ratio = new.roof_s / old.roof_s if overlaps else _one_after_the_other(old, new, time_s)
    sides = [
        after / before
        for before, after in ((old.compute_s, new.compute_s), (old.memory_s, new.memory_s))
        if before and after and before >= NEAR_FRACTION * old.roof_s
    ]
    possible = [ratio, *sides]
    if old.roof_s < NEAR_FRACTION * time_s:
        possible.append(1.0)
        return Factor(ratio, min(possible), max(possible), "far from its roof: its distance is kept")
    return Factor(ratio, min(possible), max(possible), f"{new.side} roof")


def _one_after_the_other(old: Placement, new: Placement, time_s: float) -> float:
    """Arithmetic takes what it takes at its roof; all time beyond that goes with the bytes, packed and moved.

    What leaves a cache adds the time of the slower level; the rest, which that level does not explain, does not slow.
    """
    assert old.roof_s and new.roof_s
    computing_s = min(old.compute_s or 0.0, time_s)
    if not old.memory_s or not new.memory_s:
        return new.roof_s / old.roof_s
    faster = (new.compute_s or 0.0) / old.compute_s if old.compute_s else 1.0
    beyond_s, longer_s = time_s - computing_s, 0.0
    more = new.memory_s / old.memory_s
    if old.level != new.level and old.bytes and new.bytes:
        more = new.bytes / old.bytes
        longer_s = new.memory_s - old.memory_s * more
    return max(computing_s * faster + beyond_s * more + longer_s, 0.0) / time_s


@dataclass(frozen=True)
class Rates:
    """What is faster or slower in general, for what has no model: old over new rates, 1 where unknown."""

    memory: float
    compute: float

    def open_factor(self) -> Factor:
        """Nothing is known of the work: memory traffic is likeliest, and all else possible."""
        choices = (self.memory, self.compute, 1.0)
        return Factor(self.memory, min(choices), max(choices), "no model: taken for memory traffic")


def rates(old: Ceilings, new: Ceilings) -> Rates:
    """The ratios of bandwidth and of float32 rate."""
    return Rates(
        _ratio(old.dram_bytes_per_s, new.dram_bytes_per_s),
        _ratio(old.flops_per_s.get("float32"), new.flops_per_s.get("float32")),
    )


def _ratio(old: float | None, new: float | None) -> float:
    return old / new if old and new else 1.0


def on_one_thread(cost: Cost) -> bool:
    """Whether torch's own loop over so few elements runs on one thread however many there are."""
    elements = (cost.bytes or 0.0) / 4 / 2
    return cost.kind in ("pointwise", "copy", "random", "reduction") and 0 < elements < GRAIN
