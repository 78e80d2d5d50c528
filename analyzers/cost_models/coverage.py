"""Of which share of the time is the cost known, and what is the rest?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from probe.analyzers.cost_models.attribution import Float64s, GroupCosts
from probe.analyzers.cost_models.call import is_nested
from probe.analyzers.cost_models.terms import IDLE
from probe.trace import Signature


@dataclass(frozen=True)
class Unknown:
    """Operators of one name whose cost is not known for the same reason."""

    name: str
    reason: str
    seconds: float


@dataclass(frozen=True)
class Coverage:
    """Seconds of operators with a known cost, with recorded arguments, and altogether; the longest unknown first."""

    known_s: float
    recorded_s: float
    total_s: float
    unknown: tuple[Unknown, ...]

    @property
    def known_fraction(self) -> float | None:
        """Share of the time of all operators."""
        return self.known_s / self.total_s if self.total_s else None

    @property
    def recorded_fraction(self) -> float | None:
        """Share of the time of operators whose arguments were recorded."""
        return self.known_s / self.recorded_s if self.recorded_s else None


def coverage(
    costs: GroupCosts, name: Sequence[str], signature: Sequence[Signature | None], seconds: Float64s, on_device: bool
) -> Coverage:
    """`seconds` [groups] are device time where there is a device, else self time."""
    total = recorded = explained = 0.0
    unknown: dict[tuple[str, str], float] = defaultdict(float)
    for group in np.flatnonzero(seconds > 0).tolist():
        spent = float(seconds[group])
        reason = _why_unknown(costs, group, on_device)
        total += spent
        recorded += spent if reason is None or is_recorded(signature[group]) else 0.0
        explained += spent if reason is None else 0.0
        if reason is not None:
            unknown[name[group], reason] += spent
    rows = sorted((Unknown(n, why, s) for (n, why), s in unknown.items()), key=lambda u: -u.seconds)
    return Coverage(explained, recorded, total, tuple(rows))


def is_recorded(signature: Signature | None) -> bool:
    """Whether the sizes of all tensors among the arguments were recorded."""
    if signature is None or not any(signature.dims):
        return False
    lists = (d for d, t in zip(signature.dims, signature.dtypes, strict=False) if t == "TensorList")
    return all(is_nested(d) for d in lists)


def _why_unknown(costs: GroupCosts, group: int, on_device: bool) -> str | None:
    """Why the cost of a group's own work is not known; None where it is."""
    one = costs.cost[group]
    if np.isnan(costs.flops[group]) or np.isnan(costs.bytes[group]):
        return one.reason or "not known for every call"
    idle = one.kind in IDLE or costs.delegates(group)
    if on_device and idle and one.kind != "sync":
        return "device work below it that no operator with a model launched"
    return None
