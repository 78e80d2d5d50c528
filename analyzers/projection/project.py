"""The recorded step elsewhere: every group of calls is moved, the step replayed, and the interval told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from probe.analysis import PARTS
from probe.analyzers.cost_models import Cost
from probe.analyzers.critical_path.replay import Changes
from probe.analyzers.projection.arguments import with_batch, with_dtype
from probe.analyzers.projection.base import FIXED_S, Base
from probe.analyzers.projection.devices import Target
from probe.analyzers.projection.move import KEPT, Factor, Rates, moved, on_one_thread, rates
from probe.analyzers.projection.result import OpMoved, TargetStep
from probe.analyzers.projection.validated import Errors
from probe.analyzers.roofline import NEAR_FRACTION, TENSOR_KINDS, Placement, place
from probe.device import Ceilings

LEAST_S = 1e-9


@dataclass(frozen=True)
class Question:
    """What is asked: other roofs, other work, or less of it. ops are indices of the analysis."""

    onto: Target | None = None
    dtype: str | None = None
    batch: tuple[float, int] | None = None  # factor, and the recorded batch size
    roof: frozenset[int] = frozenset()
    remove: frozenset[int] = frozenset()

    @property
    def words(self) -> tuple[str, ...]:
        """What is changed beside the device."""
        told = [f"in {self.dtype}" if self.dtype else "", f"batch × {self.batch[0]:g}" if self.batch else ""]
        told += [f"operator {i} at its roof" for i in sorted(self.roof)]
        told += [f"without operator {i}" for i in sorted(self.remove)]
        return tuple(filter(None, told))


@dataclass(frozen=True, eq=False)
class Moved:
    """Per group its factor, and its mean call under the roofs before and after."""

    factors: tuple[Factor, ...]
    before: tuple[Placement, ...]
    after: tuple[Placement, ...]


def project(base: Base, question: Question, errors: Errors) -> TargetStep:
    """The step as the question has it."""
    found = move_all(base, question)
    value, low, high = (replayed_s(base, [getattr(f, end) for f in found.factors]) for end in ("value", "low", "high"))
    model = errors.fraction
    name = question.onto.name if question.onto is not None else base.analysis.source.device or "this device"
    parts = _parts(base, found, value)
    missing = missing_dtypes(question.onto.ceilings, base.costs) if question.onto is not None else ()
    return TargetStep(
        device=name,
        ranks=1,
        step_s=value,
        interval_s=(min(low, value) * (1 - model), max(high, value) * (1 + model)),
        bound=max(parts, key=lambda part: parts[part]),
        time_s={"step": value, **parts},
        speedup=base.step_s / value if value else 0.0,
        changed=(*question.words, *(f"{d} at float32's rate: it has no units for it" for d in missing)),
        ops=_ops(base, found),
    )


def move_all(base: Base, question: Question) -> Moved:
    """The factor of each group."""
    ceilings = question.onto.ceilings if question.onto is not None else base.ceilings
    costs = _costs(base, question)
    ceilings = with_every_dtype(ceilings, costs)
    general = rates(base.ceilings, ceilings)
    same_cores = question.onto is not None and ceilings.device == base.ceilings.device and not base.on_device
    after = tuple(place(cost, ceilings, tf32=base.tf32(g)) for g, cost in enumerate(costs))
    factors = []
    for group, cost in enumerate(costs):
        if same_cores and on_one_thread(base.costs[group]):
            factors.append(Factor(1.0, 1.0, 1.0, "too few elements for more than one thread"))
        else:
            factors.append(_factor(base, group, cost, after[group], ceilings, general, question))
    return Moved(tuple(factors), base.placements, after)


def missing_dtypes(ceilings: Ceilings, costs: Sequence[Cost]) -> tuple[str, ...]:
    """Types of products that a device has no units for."""
    used = {cost.dtype for cost in costs if cost.kind in TENSOR_KINDS and cost.flops and cost.dtype is not None}
    return tuple(sorted(used - set(ceilings.flops_per_s)))


def with_every_dtype(ceilings: Ceilings, costs: Sequence[Cost]) -> Ceilings:
    """The roofs with the vector units' float32 rate for products in types that the device has no units for."""
    rate = ceilings.flops_per_s.get("float32")
    if rate is None:
        return ceilings
    more = dict.fromkeys(missing_dtypes(ceilings, costs), rate)
    return replace(ceilings, flops_per_s={**ceilings.flops_per_s, **more}) if more else ceilings


def _costs(base: Base, question: Question) -> tuple[Cost, ...]:
    signatures = base.groups.signature
    if question.batch is not None:
        factor, size = question.batch
        signatures = with_batch(signatures, size, factor)
    if question.dtype is not None:
        signatures = with_dtype(signatures, question.dtype)
    return base.costs if signatures is base.groups.signature else base.costs_with(signatures)


def _factor(
    base: Base, group: int, cost: Cost, after: Placement, ceilings: Ceilings, general: Rates, question: Question
) -> Factor:
    index = base.index[group]
    if index in question.remove:
        return Factor(0.0, 0.0, 0.0, "removed")
    time_s, old = float(base.time_s[group]), base.placements[group]
    factor = KEPT
    if question.onto is not None or cost is not base.costs[group]:
        fixed_s = base.ceilings.launch_s or FIXED_S
        factor = moved(cost, old, after, time_s, fixed_s, general, overlaps=base.on_device)
        factor = _cached(factor, old, question.onto, base, cost)
    if index in question.roof and old.roof_s and time_s > 0:
        at_roof = min(old.roof_s / time_s, 1.0)
        factor = Factor(factor.value * at_roof, factor.low * at_roof, factor.high * at_roof, "at its roof")
    return factor


def _cached(factor: Factor, old: Placement, onto: Target | None, base: Base, cost: Cost) -> Factor:
    """What fits into one device's L2 and not into the other's: the interval opens, for L2's rate is not tabulated."""
    facts = onto.facts if onto is not None else None
    size = cost.footprint_bytes
    held = base.trace.device.l2_bytes
    if facts is None or size is None or held is None or old.level != "DRAM" or old.memory_s is None:
        return factor
    if held < size <= facts.l2_bytes:
        return replace(factor, low=factor.low / 2, why=f"{factor.why}; fits into its L2")
    if facts.l2_bytes < size <= held:
        return replace(factor, high=factor.high * 2, why=f"{factor.why}; no longer fits into L2")
    return factor


def replayed_s(base: Base, factors: Sequence[float]) -> float:
    """Seconds of the step without the profiler, if each group's own time is multiplied so."""
    changes = _on_device(base, factors) if base.on_device else Changes(ops=_on_host(base, factors))
    recorded_s = base.what_if.recorded_s
    return max(base.step_s * base.what_if.step_s(changes) / recorded_s if recorded_s else base.step_s, LEAST_S)


def _on_device(base: Base, factors: Sequence[float]) -> Changes:
    """Kernels by their group; those that an earlier step launched, by their name."""
    trace, by_group = base.trace, np.array([*factors, np.nan])
    kernels = by_group[base.groups.of_kernel]
    kernels = _by_name(trace.kernels.name, trace.kernels.duration_ns, kernels)
    of_op = np.append(base.groups.of_op, -1)
    copies = by_group[of_op[trace.copies.op]]
    copies = _by_name(trace.copies.name, trace.copies.duration_ns, copies)
    copies[trace.copies.crosses_bus] = 1.0
    return Changes(kernels=_listed(kernels), copies=_listed(copies))


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


def _listed(factor: npt.NDArray[np.float64]) -> Mapping[int, float]:
    return {int(row): float(factor[row]) for row in np.flatnonzero(factor != 1.0)}


def _on_host(base: Base, factors: Sequence[float]) -> Mapping[int, float]:
    """The outermost operators with the share of their time that is kept: that of their own and what they call."""
    ops = base.trace.host_ops
    kept = ops.self_ns * np.asarray(factors)[base.groups.of_op]
    parents = ops.parent.tolist()
    for row in range(len(parents) - 1, -1, -1):
        if parents[row] >= 0:
            kept[parents[row]] += kept[row]
    length = ops.end_ns - ops.start_ns
    roots = np.flatnonzero((ops.parent < 0) & (length > 0))
    return {int(row): float(kept[row] / length[row]) for row in roots}


def _parts(base: Base, found: Moved, step_s: float) -> dict[str, float]:
    """The parts of the step, each operator in the class that it has afterwards; scaled to the step."""
    told = {part: base.analysis.time_s[part] or 0.0 for part in PARTS}
    spent = dict.fromkeys(PARTS, 0.0)
    for group, seconds in enumerate(base.per_step_s.tolist()):
        spent[base.bound(group)] += seconds
    parts = {part: (told[part] if not spent[part] else 0.0) for part in PARTS}
    for group, seconds in enumerate(base.per_step_s.tolist()):
        before = base.bound(group)
        share = told[before] * seconds / spent[before] if spent[before] else 0.0
        parts[_bound_after(base, found, group)] += share * found.factors[group].value
    total = sum(parts.values())
    return {part: seconds * step_s / total if total else 0.0 for part, seconds in parts.items()}


def _bound_after(base: Base, found: Moved, group: int) -> str:
    """The class afterwards: that of the nearer roof for what is near one, else as it was."""
    before, after = base.bound(group), found.after[group]
    time_s = float(base.time_s[group]) * found.factors[group].value
    if before not in ("compute", "memory") or not after.roof_s or not time_s:
        return before
    old = found.before[group]
    crossed = old.side != after.side
    return after.side if crossed and (after.roof_s / time_s >= NEAR_FRACTION or not base.on_device) else before


def _ops(base: Base, found: Moved) -> tuple[OpMoved, ...]:
    """The operators of the analysis, those that change most first."""
    rows = []
    for group, seconds in enumerate(base.per_step_s.tolist()):
        index = base.index[group]
        if index is None or not seconds:
            continue
        op, factor = base.analysis.ops[index], found.factors[group]
        rows.append(OpMoved(
            index, op.name, op.shapes, seconds, seconds * factor.value, (seconds * factor.low, seconds * factor.high),
            op.bound, _bound_after(base, found, group), factor.why,
        ))  # fmt: skip
    return tuple(sorted(rows, key=lambda row: -abs(row.after_s - row.before_s)))
