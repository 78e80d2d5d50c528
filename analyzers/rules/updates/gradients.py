"""F26, H13: gradients clipped, measured or set to zero one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from probe.analyzers.operators.call_tree import under
from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.matching.repeats import as_recorded_s, bare_fraction
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.rules.updates.parameter_loops import (
    Loop,
    counted,
    groups_of,
    parameter_loops,
    rows_of,
    time_and_floor_s,
)
from probe.units import format_bytes, format_time

FEWEST = 8  # gradients
ACCUMULATE = "AccumulateGrad"  # in the name of autograd's node that adds to a gradient that is there


def clipped(context: Context) -> Iterator[Match]:
    """F26: the norms of the gradients taken, and the gradients scaled, one by one."""
    loops = [loop for loop in parameter_loops(context, "norm", "scale", "clamp") if len(loop.passes) >= FEWEST]
    measured = {len(loop.passes) for loop in loops if loop.kind == "norm"}
    loops = [loop for loop in loops if loop.kind != "scale" or any(_alike(len(loop.passes), n) for n in measured)]
    if not loops:
        return
    kinds = {loop.kind for loop in loops}
    does = "clamped" if kinds == {"clamp"} else "clipped" if "scale" in kinds else "measured"
    # Lists are clamped from below and from above, one after the other.
    spent_s, floor_s = time_and_floor_s(context, loops, arrays=2, fewer=2.0 if does == "clamped" else 1.0)
    count, operators = counted(context, loops)
    replacement = {
        "clamped": "torch._foreach_clamp_min_ and torch._foreach_clamp_max_",
        "clipped": "torch.nn.utils.clip_grad_norm_ (foreach)",
        "measured": "torch.nn.utils.get_total_norm (foreach)",
    }[does]
    yield Match(
        rows=rows_of(loops),
        ops=groups_of(context, loops),
        key=f"{does}-{count}",
        summary=(
            f"{count} gradients are {does} one after the other: {operators} operators and {format_time(spent_s)} per "
            f"step; over lists of tensors the same takes about {format_time(floor_s)}"
        ),
        evidence=_spelled(loops),
        saving_s=as_recorded_s(context, max(spent_s - floor_s, 0.0)),
        where="between the backward pass and the optimizer's step",
        replacement=replacement,
        how={
            "clamped": "torch._foreach_clamp_min_(grads, -value); torch._foreach_clamp_max_(grads, value)",
            "clipped": "torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)  # foreach by default",
            "measured": "torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])",
        }[does],
        tier=loops[0].tier,
    )


def _alike(count: int, other: int) -> bool:
    """Whether two loops may be over the same parameters: few of them may lack what one of the loops needs."""
    return abs(count - other) <= max(1, 0.1 * other)


def zeroed(context: Context) -> Iterator[Match]:
    """H13: gradients filled with zeros, to which the backward pass then adds, where it could just put them."""
    loops = [loop for loop in parameter_loops(context, "zero") if len(loop.passes) >= FEWEST // 2]
    lists = _lists(context)
    adding = _adding(context)
    cleared = sum(len(loop.passes) for loop in loops) + sum(count for _, count in lists)
    if not cleared or not adding or not _alike(min(cleared, len(adding)), cleared):
        return
    added = adding[:cleared] if len(adding) <= cleared else sorted(adding)[:: max(len(adding) // cleared, 1)][:cleared]
    spent_s, _ = time_and_floor_s(context, loops, arrays=1) if loops else (0.0, 0.0)
    spent_s += context.seconds([row for row, _ in lists]) * bare_fraction(context)
    adding_s = context.seconds(added) * bare_fraction(context)
    count = round(cleared / len(context.steps))
    size = sum(u.numel for loop in loops for u in loop.units if u.name in ("zero", "fill")) * 4 // len(context.steps)
    yield Match(
        rows=(*rows_of(loops), *(row for row, _ in lists), *added),
        ops=tuple(sorted({int(context.groups.of_op[r]) for r in (*(u.row for x in loops for u in x.units), *added)})),
        key=f"{count}-gradients",
        summary=(
            f"{count} gradients are filled with zeros in each step, and the backward pass adds to them: "
            f"{format_time(spent_s)} for the zeros, {format_time(adding_s)} for the additions"
        ),
        evidence=(
            f"zero_ over {count} tensors{f' of {format_bytes(size)} in all' if size else ''}",
            f"{len(adding) / len(context.steps):.0f} additions under {ACCUMULATE}",
        ),
        saving_s=spent_s + adding_s,
        saving_bytes=size or None,
        where="zero_grad() and the backward pass",
        replacement="zero_grad(set_to_none=True)",
        how="optimizer.zero_grad(set_to_none=True)  # the default; by hand: p.grad = None",
        tier=loops[0].tier if loops else "order",
    )


def _lists(context: Context) -> list[tuple[int, int]]:
    """Row and number of tensors of each call that fills a list of them with zeros."""
    found = context.free_units(lambda u: u.name == "_foreach_zero")
    return [(u.row, len(u.dims[0]) if u.dims else 0) for u in found]


def _adding(context: Context) -> list[int]:
    """The additions to gradients that were there before the backward pass came to them."""
    ops, trace = context.trace.host_ops, context.trace
    inside = under(ops.parent, trace.named(lambda name: ACCUMULATE in name)[ops.name])
    adds = trace.named(lambda name: name == "aten::add_")[ops.name]
    rows = np.flatnonzero(inside & adds & (context.groups.step_of_op >= 0)).tolist()
    return [row for row in rows if row not in context.claimed]


def _spelled(loops: Sequence[Loop]) -> tuple[str, ...]:
    """Each loop's operators, once."""
    told = dict.fromkeys(f"{' → '.join(loop.words.split())}, for {len(loop.passes)} tensors" for loop in loops)
    return tuple(told)[:4]


RULES = (
    Rule(
        "F26", "clip-loop", "gradients are clipped one after the other", clipped,
        trigger="norms, scalings or clampings in a row, the same for each of eight tensors or more",
        advice="the same over lists of tensors: clip_grad_norm_ does it by default",
        saving="on a CPU the time between the operators, on a device that of their launches",
        cannot_show="whether the tensors are gradients: that follows from what is done to them",
        proof="flag", effort="line", needs=("shapes",),
        example=Example(
            "total = sum(p.grad.norm() ** 2 for p in model.parameters()) ** 0.5\n"
            "for p in model.parameters():\n    p.grad.mul_(limit / total)",
            "torch.nn.utils.clip_grad_norm_(model.parameters(), limit)",
        ),
    ),
    Rule(
        "H13", "zeroed-gradients", "gradients are filled with zeros instead of dropped", zeroed,
        trigger="zero_ over the gradients, and a backward pass that adds to them",
        advice="zero_grad(set_to_none=True), the default of torch.optim: the backward pass then puts its results there",
        saving="the time of the zeros and of as many additions in the backward pass",
        cannot_show="whether something reads a gradient before it is computed",
        proof="flag", effort="flag", about="host", needs=("shapes",),
        example=Example("optimizer.zero_grad(set_to_none=False)", "optimizer.zero_grad()"),
    ),
)  # fmt: skip
