"""The recorded step elsewhere: every group of calls is moved, the step replayed, and the interval told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from probe.analyzers.cost_models import Cost
from probe.analyzers.projection.arguments import with_batch, with_dtype
from probe.analyzers.projection.base import FIXED_S, Base
from probe.analyzers.projection.devices import Target
from probe.analyzers.projection.fusion import Work, joined
from probe.analyzers.projection.graph_launch import graphs_a_step
from probe.analyzers.projection.move import KEPT, Factor, Rates, moved, on_one_thread, rates
from probe.analyzers.projection.question import Question
from probe.analyzers.projection.replayed import ENDS, Moved, replayed_s
from probe.analyzers.projection.result import OpMoved, TargetStep
from probe.analyzers.projection.unfolding import unfolding_s
from probe.analyzers.projection.validated import Errors
from probe.analyzers.roofline import NEAR_FRACTION, TENSOR_KINDS, Placement, place
from probe.machine.device import Ceilings
from probe.results.analysis import PARTS
from probe.trace import Signature

LAUNCHES = ("overhead", "idle", "host")  # parts of a step that launching at once shortens, in this order


def project(base: Base, question: Question, errors: Errors) -> TargetStep:
    """The step as the question has it."""
    found = move_all(base, question)
    value, low, high = (replayed_s(base, found, end, graph=question.graph) for end in ENDS)
    model = errors.fraction
    name = question.onto.name if question.onto is not None else base.analysis.source.device or "this device"
    parts = _parts(base, found, value, graph=question.graph)
    missing = missing_dtypes(question.onto.ceilings, base.costs) if question.onto is not None else ()
    return TargetStep(
        device=name,
        ranks=1,
        step_s=value,
        interval_s=(min(low, value) * (1 - model), max(high, value) * (1 + model)),
        bound=max(parts, key=lambda part: parts[part]),
        time_s={"step": value, **parts},
        speedup=base.step_s / value if value else 0.0,
        changed=(
            *question.words,
            *_graphs(base, question),
            *(f"{d} at float32's rate: no units for it" for d in missing),
        ),
        ops=_ops(base, found),
    )


def _graphs(base: Base, question: Question) -> tuple[str, ...]:
    """How the launches are combined."""
    if not question.graph:
        return ()
    count = graphs_a_step(base.trace, base.what_if.graph)
    return ("launched as one CUDA graph" if count <= 1 else f"launched as {count:.3g} CUDA graphs a step",)


def move_all(base: Base, question: Question) -> Moved:
    """The factor of each group."""
    ceilings = question.onto.ceilings if question.onto is not None else base.ceilings
    signatures = _signatures(base, question)
    costs = base.costs if signatures is base.groups.signature else base.costs_with(signatures)
    ceilings = with_every_dtype(ceilings, costs)
    general = rates(base.ceilings, ceilings)
    same_cores = question.onto is not None and ceilings.device == base.ceilings.device and not base.on_device
    after = tuple(place(cost, ceilings, tf32=base.tf32(g)) for g, cost in enumerate(costs))
    factors = []
    for group, cost in enumerate(costs):
        if same_cores and on_one_thread(base.costs[group]):
            factors.append(Factor(1.0, 1.0, 1.0, "too few elements for more than one thread"))
        else:
            factors.append(_factor(base, group, cost, signatures[group], after[group], ceilings, general, question))
    chains = joined(base, question.fuse, Work(signatures, costs, after, factors))
    removed = [group for group, index in enumerate(base.index) if index in question.remove]
    gone = np.flatnonzero(np.isin(base.groups.of_op, removed))
    if chains is not None:
        gone = np.union1d(gone, chains.gone)
    return Moved(tuple(factors), base.placements, after, gone, chains)


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


def _signatures(base: Base, question: Question) -> Sequence[Signature | None]:
    signatures: Sequence[Signature | None] = base.groups.signature
    if question.batch is not None:
        factor, size = question.batch
        signatures = with_batch(signatures, size, factor)
    if question.dtype is not None:
        signatures = with_dtype(signatures, question.dtype)
    return signatures


def _factor(
    base: Base, group: int, cost: Cost, signature: Signature | None, after: Placement, ceilings: Ceilings,
    general: Rates, question: Question,
) -> Factor:  # fmt: skip
    index = base.index[group]
    if index in question.remove:
        return Factor(0.0, 0.0, 0.0, "removed")
    time_s, old = float(base.time_s[group]), base.placements[group]
    factor = KEPT
    if question.onto is not None or cost is not base.costs[group]:
        fixed_s = base.ceilings.launch_s or FIXED_S
        columns = _columns_s(base, group, cost, signature, ceilings) if question.dtype else (0.0, 0.0)
        factor = moved(cost, old, after, time_s - columns[0], fixed_s, general, overlaps=base.on_device)
        factor = _cached(factor.beside(*columns, time_s), old, question.onto, base, cost)
    if index in question.roof and old.roof_s and time_s > 0:
        at_roof = min(old.roof_s / time_s, 1.0)
        return Factor(factor.value * at_roof, factor.low * at_roof, factor.high * at_roof, "at its roof")
    told = question.replace.get(index) if index is not None else None
    if told is not None:
        times = told.factor(time_s)
        if told.call_s is not None:
            return Factor(times, times, times, "replaced")
        return Factor(factor.value * times, factor.low * times, factor.high * times, "replaced")
    return factor


def _columns_s(
    base: Base, group: int, cost: Cost, signature: Signature | None, ceilings: Ceilings
) -> tuple[float, float]:
    """Seconds of a call for columns before, half of its time at the most, and afterwards; on a CPU."""
    if base.on_device:
        return 0.0, 0.0
    name, old = base.groups.name[group], base.costs[group]
    before_s = unfolding_s(name, old, base.groups.signature[group], base.ceilings)
    return min(before_s, float(base.time_s[group]) / 2), unfolding_s(name, cost, signature, ceilings)


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


def _parts(base: Base, found: Moved, step_s: float, *, graph: bool) -> dict[str, float]:
    """The parts of the step, each operator in the class that it has afterwards; scaled to the step.

    graph: what the step gets shorter by is the launches' and their gaps' first.
    """
    told = {part: base.analysis.time_s[part] or 0.0 for part in PARTS}
    spent = dict.fromkeys(PARTS, 0.0)
    for group, seconds in enumerate(base.per_step_s.tolist()):
        spent[base.bound(group)] += seconds
    parts = {part: (told[part] if not spent[part] else 0.0) for part in PARTS}
    for group, seconds in enumerate(base.per_step_s.tolist()):
        before = base.bound(group)
        share = told[before] * seconds / spent[before] if spent[before] else 0.0
        parts[_bound_after(base, found, group)] += share * found.overall(group).value
    for part in LAUNCHES if graph else ():
        parts[part] -= min(parts[part], max(sum(parts.values()) - step_s, 0.0))
    total = sum(parts.values())
    return {part: seconds * step_s / total if total else 0.0 for part, seconds in parts.items()}


def _bound_after(base: Base, found: Moved, group: int) -> str:
    """The class afterwards: that of the nearer roof for what is near one, else as it was."""
    before, after = base.bound(group), found.after[group]
    time_s = float(base.time_s[group]) * found.overall(group).value
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
        op, factor = base.analysis.ops[index], found.overall(group)
        rows.append(OpMoved(
            index, op.name, op.shapes, seconds, seconds * factor.value, (seconds * factor.low, seconds * factor.high),
            op.bound, _bound_after(base, found, group), factor.why,
        ))  # fmt: skip
    return tuple(sorted(rows, key=lambda row: -abs(row.after_s - row.before_s)))
