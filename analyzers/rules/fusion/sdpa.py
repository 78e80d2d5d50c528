"""F07, F08: scaled_dot_product_attention falls back to plain arithmetic, or is given a mask where a flag would do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import prod

import numpy as np

from probe.analyzers.operators.call_tree import under
from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.fusion.attention_flow import scalar
from probe.analyzers.rules.fusion.attention_masks import DEPTH, KEEPS_FORM, triangle
from probe.analyzers.rules.matching.flow import Argument, Flow, Tier
from probe.analyzers.rules.matching.units import Unit
from probe.analyzers.rules.rule import Example, Rule
from probe.trace import Dims, Signature
from probe.units import format_time

SDPA = "scaled_dot_product_attention"
MATH = "aten::_scaled_dot_product_attention_math"
PRODUCTS = frozenset({"aten::bmm", "aten::mm", "aten::baddbmm"})
MASK, DROPOUT, CAUSAL = 3, 4, 5  # among the arguments of SDPA
WHY_NOT = "with torch.nn.attention.sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION): …  # warns why not"
CPU_BLOCK, GPU_BLOCK = 512, 128  # keys that a fused kernel takes or skips at once
MASKING = 0.1  # of attention's time goes into reading and adding a mask
LARGEST_HEAD = 256  # beyond it no fused kernel of torch 2 takes a head


def fell_back(context: Context) -> Iterator[Match]:
    """F07: one match per signature whose calls ran `_scaled_dot_product_attention_math`."""
    ops = context.trace.host_ops
    math = context.trace.named(lambda name: name == MATH)[ops.name] if len(ops) else np.zeros(0, bool)
    rows = np.flatnonzero(math & (context.groups.step_of_op >= 0)).tolist()
    groups: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        if row not in context.claimed:
            groups[int(context.groups.of_op[row])].append(row)
    for group, same in groups.items():
        signature = context.groups.signature[group]
        reason = _reason(signature, context.trace.on_device)
        if reason is not None:
            yield _fallback(context, group, same, *reason)


def _fallback(context: Context, group: int, rows: list[int], reason: str, how: str) -> Match:
    inside = _products(context, rows)
    backward = context.backward_rows(_below(context, rows))
    spent_s = context.seconds(rows) - context.seconds(inside)
    callers = [p for row in rows if (p := int(context.trace.host_ops.parent[row])) >= 0]
    return Match(
        rows=(*rows, *callers, *backward),
        ops=(group,),
        key="x".join(map(str, _size(context.groups.signature[group], 0))),
        summary=(
            f"scaled_dot_product_attention runs as products and a softmax, {times(len(rows) / len(context.steps))}: "
            f"{reason}; {format_time(spent_s)} per step go into what a fused kernel keeps on the chip"
        ),
        evidence=(f"{MATH} in the trace", reason),
        saving_s=spent_s,
        where=f"scaled_dot_product_attention, {times(len(rows) / len(context.steps))}",
        replacement="a fused attention kernel",
        how=how,
    )  # fmt: skip


def _products(context: Context, rows: list[int]) -> list[int]:
    """The matrix products that the given operators call."""
    products = context.trace.named(lambda name: name in PRODUCTS)
    return [row for row in _below(context, rows) if products[context.trace.host_ops.name[row]]]


def _below(context: Context, rows: list[int]) -> list[int]:
    """All that the given operators call."""
    ops = context.trace.host_ops
    marked = np.zeros(len(ops), bool)
    marked[rows] = True
    found: list[int] = np.flatnonzero(under(ops.parent, marked)).tolist()
    return found


def _reason(signature: Signature | None, on_device: bool) -> tuple[str, str] | None:
    """Why no fused kernel took the call, and what to write; None where nothing can be done about it.

    A CPU has none that drops weights, or for a mask that learns.
    """
    query, value = _size(signature, 0), _size(signature, 2)
    if query and len(query) != 4:
        return (
            f"its arguments have {len(query)} dimensions and fused kernels take 4",
            f"F.{SDPA}(q[None], k[None], v[None], …)[0]  # [batch, heads, T, D]",
        )
    if value and query and value[-1] != query[-1]:
        return f"value heads of {value[-1]} are not as wide as query heads of {query[-1]}", "pad the narrower heads"
    if query and query[-1] > LARGEST_HEAD:
        return f"heads of {query[-1]} are wider than {LARGEST_HEAD}", "more, narrower heads"
    if signature is not None and any(s and s[-1] != 1 for s in signature.strides[:3]):
        return "the last dimension of an argument is not contiguous", "q, k, v = q.contiguous(), k.contiguous(), …"
    if signature is not None and len(set(signature.dtypes[:3])) > 1:
        return f"its arguments are of types {', '.join(signature.dtypes[:3])}", "cast q, k and v to one type"
    return ("no fused kernel took its types, sizes and mask", WHY_NOT) if on_device else None


def _size(signature: Signature | None, argument: int) -> Dims:
    dims = signature.dims if signature else ()
    return dims[argument] if argument < len(dims) else ()


def dense_mask(context: Context) -> Iterator[Match]:
    """F08: one match per mask, first those that the step makes, which are known to be causal."""
    known: dict[tuple[tuple[Dims, ...], bool, Tier], list[tuple[Unit, tuple[int, ...]]]] = defaultdict(list)
    for flow in context.flows:
        for index, unit in enumerate(flow.units):
            if unit.name == SDPA and _is_square(unit) and unit.row not in context.claimed:
                made = _made_causal(flow, index)
                rows = tuple(flow.units[i].row for i in sorted(made)) if made is not None else ()
                if made is not None or _may_be_causal(flow, index):
                    known[unit.dims, made is not None, flow.tier].append((unit, rows))
    for (_, certain, tier), same in known.items():
        yield _masked(context, same, certain=certain, tier=tier)


def _is_square(unit: Unit) -> bool:
    """Whether there is one mask [T, T] for all batches and heads, and no is_causal."""
    query, key, mask = (unit.dims[at] if at < len(unit.dims) else () for at in (0, 1, MASK))
    square = len(query) >= 2 and query[-2] == key[-2] and mask[-2:] == (query[-2], query[-2])
    return square and prod(mask) == query[-2] ** 2 and scalar(unit, CAUSAL) != "True" and query[-2] > 1


def _made_causal(flow: Flow, index: int) -> set[int] | None:
    """The units that make the mask a causal one; None where it is not known to be one."""
    arguments = flow.arguments[index]
    return triangle(flow, arguments[MASK], index) if len(arguments) > MASK else None


def _may_be_causal(flow: Flow, index: int) -> bool:
    """Whether the mask was made outside the step: it is the same in every step and for every sequence."""
    arguments = flow.arguments[index]
    return len(arguments) > MASK and _from_outside(flow, arguments[MASK])


def _from_outside(flow: Flow, argument: Argument, depth: int = DEPTH) -> bool:
    """Whether nothing but changes of form makes it of what was there before the step."""
    if not argument.makers:
        return True
    maker = argument.makers[0]
    kept = flow.units[maker].name in KEEPS_FORM and depth > 0
    return kept and all(_from_outside(flow, a, depth - 1) for a in flow.arguments[maker])


def _masked(context: Context, same: list[tuple[Unit, tuple[int, ...]]], *, certain: bool, tier: Tier) -> Match:
    rows = [unit.row for unit, _ in same]
    making = sorted({row for _, made in same for row in made} - context.claimed)
    backward = context.backward_rows(rows)
    spent_s = context.seconds(rows) + context.seconds(backward)
    length = same[0][0].dims[MASK][-1]
    calls = times(len(same) / len(context.steps))
    size = f"{length} × {length}"
    how = f"F.{SDPA}(q, k, v, is_causal=True)"
    return Match(
        rows=(*rows, *making, *backward),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in rows})),
        key=f"{length}" if certain else f"{length}-unknown",
        summary=(
            f"a causal mask of {size} is made and passed to scaled_dot_product_attention, {calls}, which takes "
            f"{format_time(spent_s)}: with is_causal=True the masked half is skipped, block by block"
            if certain
            else f"one {size} mask serves every sequence of scaled_dot_product_attention, {calls}: if it is causal, "
            f"is_causal=True saves up to half of {format_time(spent_s)}"
        ),
        evidence=(
            "tril, triu or a comparison of positions in the step makes the mask"
            if certain
            else "the mask comes from outside the step: its values are not recorded",
        ),
        saving_s=spent_s * _skipped(length, context.trace.on_device) + context.seconds(making) if certain else None,
        where=f"scaled_dot_product_attention, {calls}",
        replacement="is_causal=True",
        how=how if certain else f"{how}  # only if the mask is lower triangular",
        tier=tier,
    )


def _skipped(length: int, on_device: bool) -> float:
    """The share of attention's time that is_causal saves: whole blocks of keys above the diagonal, and the mask itself.

    Measured on a CPU against a mask: 0.2 at 512 keys, 0.4 at 1,024, 0.5 at 2,048; its kernel skips blocks of 512.
    """
    blocks = -(-length // (GPU_BLOCK if on_device else CPU_BLOCK))
    return min(MASKING + (blocks - 1) / (2 * blocks), 0.5)


RULES = (
    Rule(
        "F07", "sdpa-math", "scaled_dot_product_attention without a fused kernel", fell_back,
        trigger="_scaled_dot_product_attention_math in the trace, on a CPU only where the call could be mended",
        advice="give it what a fused kernel takes: four dimensions, one type, equal heads, contiguous last dimension",
        saving="its time but for that of the two products",
        cannot_show="a mask that needs a gradient, or kernels that were switched off",
        proof="replay", effort="line", needs=("shapes",),
        example=Example("F.scaled_dot_product_attention(q, k, v)  # [heads, T, D]",
                        "F.scaled_dot_product_attention(q[None], k[None], v[None])[0]"),
    ),
    Rule(
        "F08", "dense-causal-mask", "a dense T × T mask where is_causal may do", dense_mask,
        trigger="scaled_dot_product_attention with one T × T mask for all sequences and without is_causal",
        advice="is_causal=True: the masked half is neither read nor computed",
        saving="the masked blocks, at most half its time, and making the mask, where the step makes it; else none",
        cannot_show="values of a mask that was made outside the steps",
        proof="replay", effort="line", needs=("shapes",),
        example=Example("F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(T, T).tril().bool())",
                        "F.scaled_dot_product_attention(q, k, v, is_causal=True)"),
    ),
)  # fmt: skip
