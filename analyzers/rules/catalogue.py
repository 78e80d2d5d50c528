"""All rules in the order in which they may claim operators, special patterns first, and what they find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from probe.analyzers.rules.chain_site import Sites
from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.efficiency import (
    copies,
    embedding,
    inference,
    kernel_shape,
    layout,
    precision,
    recompute,
    scatter,
    serving,
)
from probe.analyzers.rules.fusion import (
    attention,
    convolution,
    gated,
    gemm,
    losses,
    normalisation,
    packing,
    pointwise,
    rope,
)
from probe.analyzers.rules.host import compile_time, debug, full_queue, launches, loader, pauses, sync, transfers
from probe.analyzers.rules.loops import experts, rows
from probe.analyzers.rules.memory import allocator, footprint
from probe.analyzers.rules.order import order
from probe.analyzers.rules.rule import NEEDS, Need, Rule
from probe.analyzers.rules.scale_out import communication
from probe.analyzers.rules.updates import gradients, optimizer, weight_copies
from probe.results.findings import Finding
from probe.sites import Site

LEAST_FRACTION = 0.005  # of the step: below it a change is not worth a line

# What a program without a device or without ranks cannot have: nothing is missing there.
ONLY_WHERE_IT_APPLIES = frozenset({"device work", "launches", "collectives"})

# In the order in which they may claim operators.
MODULES = (
    attention, losses, normalisation, rope, gated, experts, embedding, optimizer, gradients, weight_copies,
    debug, loader, transfers, sync, rows, convolution, gemm, packing, layout, precision, scatter, recompute, serving,
    inference, kernel_shape, copies, compile_time, allocator, footprint, pauses, communication,
    full_queue, launches, pointwise,
)  # fmt: skip
RULES: tuple[Rule, ...] = tuple(rule for module in MODULES for rule in module.RULES)
HOST_CODES = frozenset(rule.code for rule in RULES if rule.about == "host")


@dataclass(frozen=True)
class Found:
    """A finding and, where its replacement can be run, what to run it on."""

    finding: Finding
    site: Site | None
    rows: tuple[int, ...] = ()  # of Trace.host_ops


def findings(context: Context, index_of_group: dict[int, int], *, preview: bool = False) -> tuple[Found, ...]:
    """All that the rules find, most saving first; an operator belongs to one finding only. Empty steps have none.

    preview: with the rules that are not on by default.
    """
    if context.step_s <= 0:
        return ()
    context.claimed.clear()
    found: list[Found] = []
    sites = Sites(context)
    for rule in asked(context, preview=preview):
        for match in rule.find(context):
            if not rule.shares and context.claimed.intersection(match.rows):
                continue
            if not context.may_be_worth(match.saving_s, LEAST_FRACTION):  # replaying the step for it takes long
                continue
            rows = () if rule.about in ("host", "communication") else match.rows  # waits are no operator's time
            match = replace(match, saving_s=context.shortens_s(match.saving_s, rows))
            if match.saving_s is None or match.saving_s >= LEAST_FRACTION * context.step_s:
                context.claimed.update(match.rows)  # only what is told is taken from other rules
                found.append(Found(_finding(rule, match, context, index_of_group), sites.of(rule, match), match.rows))
    return tuple(found[i] for i in order([f.finding for f in found], context.parts, HOST_CODES))


def asked(context: Context, *, preview: bool) -> list[Rule]:
    """The rules that can be asked of this trace."""
    return [r for r in RULES if (preview or not r.preview) and not any(missing(need, context) for need in r.needs)]


def unasked(context: Context, *, preview: bool) -> Iterator[str]:
    """One sentence for each kind of evidence whose absence keeps rules from being asked."""
    for need, remedy in NEEDS.items():
        codes = [r.code for r in RULES if need in r.needs and (preview or not r.preview)]
        if codes and need not in ONLY_WHERE_IT_APPLIES and missing(need, context):
            yield f"not looked for, because it needs {remedy}: {', '.join(sorted(codes))}"


def missing(need: Need, context: Context) -> bool:
    """Whether the trace lacks what a rule needs."""
    trace = context.trace
    there = {
        "shapes": trace.with_shapes or any(s.dims for s in trace.signatures),
        "device work": trace.on_device,
        "launches": len(trace.runtime_calls) > 0,
        "stacks": trace.with_stacks,
        "memory": trace.with_memory,
        "collectives": len(trace.collectives) > 0,
        "graph": context.graph is not None,
    }
    return not there[need]


def _written(match: Match, context: Context) -> Iterator[str]:
    """The line of the program that most of the operators are written in, and of how many modules' calls."""
    places = [context.written[row] for row in match.rows if row in context.written]
    if places and match.tier == "graph":
        (kind, line), _ = Counter((place.kind, place.line) for place in places).most_common(1)[0]
        calls = len({(place.step, place.call) for place in places if (place.kind, place.line) == (kind, line)})
        often = times(calls / len(context.steps))
        yield f"written in {line} of {kind}, called {often}"


def _finding(rule: Rule, match: Match, context: Context, index_of_group: dict[int, int]) -> Finding:
    saving_s = match.saving_s
    return Finding(
        id=f"{rule.code}:{match.key}" if match.key else rule.code,
        code=rule.code,
        rule=rule.name,
        title=rule.title,
        summary=match.summary,
        evidence=(*match.evidence, *_written(match, context)),
        where=match.where,
        ops=tuple(sorted(index_of_group[g] for g in match.ops if g in index_of_group)),
        saving_s=saving_s,
        saving_fraction=saving_s / context.step_s if saving_s is not None else None,
        saving_bytes=match.saving_bytes,
        matched=match.tier,
        replacement=match.replacement,
        how=match.how,
        module=match.module,
        effort=rule.effort,
        preview=rule.preview,
    )
