"""What does the step take if calls take other times? The recorded graph is walked again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from probe.analyzers.critical_path.replay import Changes
from probe.analyzers.projection.base import Base
from probe.analyzers.projection.fusion import Joined
from probe.analyzers.projection.graph_launch import LEAST, MOST, USUAL
from probe.analyzers.projection.move import Factor
from probe.analyzers.roofline import Placement
from probe.trace import Int64s

LEAST_S = 1e-9
End = Literal["low", "value", "high"]
ENDS: tuple[End, End, End] = ("value", "low", "high")
LAUNCHING = {"low": LEAST, "value": USUAL, "high": MOST}


@dataclass(frozen=True, eq=False)
class Moved:
    """Per group its factor, and its mean call under the roofs before and after.

    joined: chains that are one call; gone: rows of host operators that are called no more.
    """

    factors: tuple[Factor, ...]
    before: tuple[Placement, ...]
    after: tuple[Placement, ...]
    gone: Int64s
    joined: Joined | None = None

    def overall(self, group: int) -> Factor:
        """The factor of all calls of a group, those in chains among them."""
        own, more = self.factors[group], self.joined.of_group(group) if self.joined is not None else None
        if more is None:
            return own
        return Factor(own.value * more.value, own.low * more.low, own.high * more.high, more.why)


def replayed_s(base: Base, found: Moved, end: End = "value", *, graph: bool = False) -> float:
    """Seconds of the step without the profiler, if each call's own time is multiplied so."""
    changes = _on_device(base, found, end) if base.on_device else Changes(ops=_on_host(base, found, end))
    recorded_s, launching = base.what_if.recorded_s, LAUNCHING[end] if graph else None
    if not recorded_s:
        return max(base.step_s, LEAST_S)
    least = _busy_fraction(base, changes) if graph and end != "low" else 0.0
    return max(base.step_s * max(base.replayed_s(changes, launching) / recorded_s, least), LEAST_S)


def _busy_fraction(base: Base, changes: Changes) -> float:
    """The share of the recorded step for which the device works, whatever launches it.

    The replay leaves out work that was queued before the first step. Where a single step was recorded, its host waited
    for that, and whether each step's does is not known: only the low end of the interval goes below it.
    """
    spent = after = 0.0
    for work, changed in ((base.trace.kernels, changes.kernels), (base.trace.copies, changes.copies)):
        length = work.duration_ns.astype(np.float64)
        spent += float(length.sum())
        rows = np.array(list(changed), np.int64)
        length[rows] *= np.array(list(changed.values()))
        after += float(length.sum())
    return base.device_busy_fraction * after / spent if spent else 0.0


def _of_ops(base: Base, found: Moved, end: End) -> npt.NDArray[np.float64]:
    """The factor of each host operator's own time, [host operators]."""
    by_group = np.array([getattr(f, end) for f in found.factors])
    rows = by_group[base.groups.of_op]
    return rows if found.joined is None else rows * getattr(found.joined, end)


def _on_device(base: Base, found: Moved, end: End) -> Changes:
    """Kernels by what launched them, else by their group; those that an earlier step launched, by their name."""
    trace = base.trace
    by_group = np.array([*(getattr(f, end) for f in found.factors), np.nan])
    of_op = np.append(_of_ops(base, found, end), np.nan)
    kernels = np.where(trace.kernels.op >= 0, of_op[trace.kernels.op], by_group[base.groups.of_kernel])
    kernels = _by_name(trace.kernels.name, trace.kernels.duration_ns, kernels)
    copies = _by_name(trace.copies.name, trace.copies.duration_ns, of_op[trace.copies.op])
    copies[trace.copies.crosses_bus] = 1.0
    # What is no longer called takes no time on the host. All kernels are named then, for its own would go with it.
    every = bool(len(found.gone))
    return Changes(dict.fromkeys(found.gone.tolist(), 0.0), _listed(kernels, every), _listed(copies, every))


def _by_name(
    name: npt.NDArray[np.int32], length: npt.NDArray[np.int64], factor: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The factors, with those that are not known taken from the others of the same name; 1 where there is none."""
    known = ~np.isnan(factor)
    size = int(name.max()) + 1 if len(name) else 0
    weight = np.bincount(name[known], weights=length[known], minlength=size)
    total = np.bincount(name[known], weights=length[known] * factor[known], minlength=size)
    mean = np.divide(total, weight, out=np.ones(size), where=weight > 0)
    return np.where(known, factor, mean[name])


def _listed(factor: npt.NDArray[np.float64], every: bool) -> Mapping[int, float]:
    return {int(row): float(factor[row]) for row in np.flatnonzero((factor != 1.0) | every)}


def _on_host(base: Base, found: Moved, end: End) -> Mapping[int, float]:
    """The outermost operators with the share of their time that is kept: that of their own and what they call."""
    ops = base.trace.host_ops
    kept = ops.self_ns * _of_ops(base, found, end)
    parents = ops.parent.tolist()
    for row in range(len(parents) - 1, -1, -1):
        if parents[row] >= 0:
            kept[parents[row]] += kept[row]
    length = ops.end_ns - ops.start_ns
    roots = np.flatnonzero((ops.parent < 0) & (length > 0))
    return {int(row): float(kept[row] / length[row]) for row in roots}
