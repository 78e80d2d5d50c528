"""E13, H14: inference that reads whole weights for a few rows, or records a graph that no backward pass uses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from math import prod
from statistics import median

import numpy as np

from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.fusion.attention_site import element_of
from probe.analyzers.rules.matching.flow import WEIGHT_OF, Argument, Flow, result_size
from probe.analyzers.rules.matching.search import SEEN_THROUGH
from probe.analyzers.rules.matching.units import Unit
from probe.analyzers.rules.rule import Example, Rule
from probe.units import format_bytes, format_fraction, format_time

FEW_ROWS = 8  # tokens at once, below which a product with a weight reads the weight and does little else
BOUND_FRACTION = 0.1  # of the step that weight-bound products have to take
DISPATCHES = 5  # times that of starting a product that reading its weight takes at the least, at memory's full rate
NODES = 4  # autograd nodes per step, below which a graph is not worth a word


def weight_bound(context: Context) -> Iterator[Match]:
    """E13: products of a few rows with large weights, whose time is that of reading the weights."""
    units = {u.row: u for u in context.free_units(lambda u: _few_rows(u) is not None)}
    rows = list(units)
    typical = _typical_s(context, rows)
    large = {row for row in rows if _is_large(context, units[row])}
    bound = sorted(large.difference(_of_made_matrices(context, large)))
    if not bound or context.backward_rows(bound):
        return
    spent_s = sum(typical[int(context.groups.of_op[row])] for row in bound) / len(context.steps)
    if spent_s < BOUND_FRACTION * context.step_s:
        return
    weights = sum(_weight_bytes(units[row]) for row in bound) / len(context.steps)
    roof_s = context.roof_s(weights)
    reading = f"at memory's full rate the weights take {format_time(roof_s)}" if roof_s else ""
    most = max(_few_rows(units[row]) or 1 for row in bound)
    narrow = sum(prod(units[row].size) for row in bound) / len(context.steps)
    yield Match(
        rows=(),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in bound})),
        summary=(
            f"{times(len(bound) / len(context.steps))}, a product reads a whole weight for {most} row"
            f"{'s' * (most > 1)} or fewer: {format_bytes(weights)} and {format_time(spent_s)} per step; more sequences "
            f"at once would share them, and 8-bit weights would be {format_bytes(narrow)}"
        ),
        evidence=(
            f"at most {FEW_ROWS} rows a product: {reading}",
            f"{format_fraction(spent_s / context.step_s)} of the step",
        ),
        saving_s=None,
        where="products of few rows",
        replacement="more sequences at once, or weights of 8 or 4 bits",
        how="model.generate(batch_of_prompts)  # or torchao.quantize_(model, Int8WeightOnlyConfig())",
    )


def _of_made_matrices(context: Context, rows: Collection[int]) -> Iterator[int]:
    """Those of the products whose matrix the step makes itself: it is no weight that could be stored in fewer bits."""
    for flow in context.flows if rows else ():
        for index, unit in enumerate(flow.units):
            at = WEIGHT_OF.get(unit.name)
            arguments = flow.arguments[index] if unit.row in rows else ()
            if at is not None and at < len(arguments) and not _is_kept(flow, arguments[at]):
                yield unit.row


def _is_kept(flow: Flow, argument: Argument, most: int = 3) -> bool:
    """Whether nothing but copies and casts makes it of what was there before the step, as far as is known."""
    makers = [m for m in argument.makers if flow.tier != "order" or result_size(flow.units[m]) is not None]
    return not makers or any(
        flow.units[maker].name in SEEN_THROUGH and all(_is_kept(flow, a, most - 1) for a in flow.arguments[maker])
        for maker in (makers if most else ())
    )


def _few_rows(unit: Unit) -> int | None:
    """The rows of a product that are few beside the weight's; None for other units."""
    if unit.name in ("mv", "addmv"):
        return 1
    factors = {"mm": unit.dims[:2], "addmm": unit.dims[1:3]}.get(unit.name, ())
    if len(factors) < 2 or any(len(f) != 2 for f in factors):
        return None
    rows = factors[0][0]
    return int(rows) if 0 < rows <= FEW_ROWS and min(factors[1]) >= 4 * FEW_ROWS else None


def _weight_bytes(unit: Unit) -> int:
    element = element_of(unit)
    return unit.numel * (element.itemsize if element else 4)


def _typical_s(context: Context, rows: list[int]) -> dict[int, float]:
    """The median time of a call of each group among the rows: hosts deschedule single calls."""
    calls: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        calls[int(context.groups.of_op[row])].append(int(context.spent_ns[row]))
    return {group: median(spent) / 1e9 for group, spent in calls.items()}


def _is_large(context: Context, unit: Unit) -> bool:
    """Whether reading the weight takes much longer than starting the product."""
    roof_s = context.roof_s(_weight_bytes(unit))
    return roof_s is not None and roof_s > DISPATCHES * context.machine.dispatch_s


def graph_for_nothing(context: Context) -> Iterator[Match]:
    """H14: forward operators make autograd nodes, step after step, and no backward pass ever runs."""
    ops = context.trace.host_ops
    if not len(ops) or (ops.forward_thread > 0).any() or _has_backward(context):
        return
    if context.trace.quality.truncated:  # the backward pass may be in what was cut off
        return
    inside = (context.groups.step_of_op >= 0) & (ops.sequence >= 0)
    nodes = (len(np.unique(ops.sequence[inside])) - 1) / len(context.steps) if inside.any() else 0.0
    if nodes < NODES:
        return
    yield Match(
        rows=(),
        ops=(),
        summary=(
            f"about {nodes:.0f} autograd nodes are made per step and no backward pass ever runs: each keeps what it "
            "would need alive and takes time to make"
        ),
        evidence=(
            "forward operators have autograd sequence numbers that count up",
            "no backward operator in the trace",
            "what a node takes is inside its operator, whose time without one no trace shows: no seconds are promised",
        ),
        saving_s=None,
        where="the whole step",
        replacement="torch.inference_mode()",
        how="with torch.inference_mode(): …  # around the forward pass",
    )


def _has_backward(context: Context) -> bool:
    return any("Backward" in name or name.startswith("autograd::engine") for name in context.trace.names)


RULES = (
    Rule(
        "E13", "weight-bound-decoding", "products of few rows that only read weights", weight_bound,
        trigger=f"products of at most {FEW_ROWS} rows with large weights, a tenth of the step, without a backward pass",
        advice="serve more sequences at once, or store weights in 8 or 4 bits",
        saving="not stated: batching gives throughput, quantising changes results",
        cannot_show="how many requests could be served together; the loss of accuracy of smaller weights",
        proof="module", effort="design", about="compute", needs=("shapes",), shares=True,
        example=Example("for prompt in prompts: model.generate(prompt)", "model.generate(prompts)"),
    ),
    Rule(
        "H14", "graph-in-inference", "autograd records a graph that nothing uses", graph_for_nothing,
        trigger="forward operators whose autograd sequence numbers count up, and no backward pass in the trace",
        advice="run inference in torch.inference_mode()",
        saving="not stated: nodes and kept activations are no operators of their own",
        cannot_show="a backward pass after the recorded steps",
        proof="flag", effort="line", about="host", shares=True,
        example=Example("model(x)", "with torch.inference_mode():\n    model(x)"),
    ),
)  # fmt: skip
