"""All rules in the order in which they may claim operators: special patterns before general ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from probe.analyzers.rules import attention, host, normalisation, optimizer, pointwise
from probe.analyzers.rules.context import Context, Match
from probe.findings import Finding
from probe.sites import Site

LEAST_FRACTION = 0.005  # of the step: below it a change is not worth a line

Finder = Callable[[Context, frozenset[int]], Iterator[Match]]


@dataclass(frozen=True)
class Rule:
    """One entry. `cannot_show` is what a trace leaves open; it is printed with the explanation."""

    code: str
    name: str
    title: str
    find: Finder
    trigger: str
    advice: str
    saving: str
    cannot_show: str


def _plain(find: Callable[[Context], Iterator[Match]]) -> Finder:
    """A rule that does not ask what others have claimed."""
    return lambda context, claimed: (m for m in find(context) if not claimed.intersection(m.rows))


RULES = (
    Rule(
        "F06", "naive-attention", "attention written out by hand", _plain(attention.find),
        trigger="a matrix product whose T × S result goes through a softmax into a second product",
        advice="call scaled_dot_product_attention, which keeps the scores on the chip",
        saving="the time of every operator between the two products, forward and backward",
        cannot_show="whether a mask is causal (then is_causal=True saves half of the arithmetic too)",
    ),
    Rule(
        "F04", "unfused-rmsnorm", "RMSNorm written out by hand", _plain(normalisation.find),
        trigger="square, mean, epsilon, inverse root and scale in a row over one tensor",
        advice="one fused operator: F.rms_norm on a GPU, a compiled module on a CPU",
        saving="the time of its operators less that of reading and writing the tensor once",
        cannot_show="whether the epsilon is inside the root, as F.rms_norm has it",
    ),
    Rule(
        "F24", "optimizer-loop", "the optimizer updates parameter after parameter", _plain(optimizer.find),
        trigger="the operators of an Adam update, for four parameters or more, none of it _foreach_ or _fused_",
        advice="fused=True: one pass over parameters, gradients and both moments",
        saving="the time of the loop less that of moving seven arrays per parameter once",
        cannot_show="options that the fused form does not support (sparse gradients, some subclasses)",
    ),
    Rule(
        "H01", "tiny-operators", "more time to start operators than to run them", host.many_tiny,
        trigger="500 kernels or operators per step, most no longer than their dispatch, 15 % of the step",
        advice="run them as one graph, or as fewer, larger operators",
        saving="the overhead part of the step",
        cannot_show="which of them depend on values that a graph would have to fix",
    ),
    Rule(
        "F01", "pointwise-chain", "pointwise operators in a row", pointwise.find,
        trigger="three or more pointwise operators in a row over the same number of elements, 1 % of the step or more",
        advice="compile the function that holds them, or use a fused kernel",
        saving="their time less that of one pass over what goes in first and comes out last",
        cannot_show="whether the results between are used elsewhere: they would still have to be written",
    ),
    Rule(
        "H07", "loader-starvation", "the step waits for data", _plain(host.starved),
        trigger="5 % of the step or more inside the data loader's next()",
        advice="load in worker processes, ahead of time",
        saving="the wait",
        cannot_show="whether the storage or the machine's cores can deliver more",
    ),
    Rule(
        "H08", "synchronous-loader", "the data loader has no workers", _plain(host.synchronous),
        trigger="H07, and torch's single-process loader in the trace",
        advice="num_workers > 0",
        saving="that of H07",
        cannot_show="the cost of a batch apart from waiting for it",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A finding and, where its replacement can be run, what to run it on."""

    finding: Finding
    site: Site | None


def findings(context: Context, index_of_group: dict[int, int]) -> tuple[Found, ...]:
    """All that the rules find, most saving first; an operator belongs to one finding only. Empty steps have none."""
    if context.step_s <= 0:
        return ()
    claimed: frozenset[int] = frozenset()
    found: list[Found] = []
    for rule in RULES:
        for match in rule.find(context, claimed):
            claimed |= frozenset(match.rows)
            if match.saving_s is None or match.saving_s >= LEAST_FRACTION * context.step_s:
                found.append(Found(_finding(rule, match, context, index_of_group), match.site))
    return tuple(sorted(found, key=lambda f: (f.finding.saving_s is None, -(f.finding.saving_s or 0.0))))


def _finding(rule: Rule, match: Match, context: Context, index_of_group: dict[int, int]) -> Finding:
    saving_s = match.saving_s
    return Finding(
        id=f"{rule.code}:{match.key}" if match.key else rule.code,
        code=rule.code,
        rule=rule.name,
        title=rule.title,
        summary=match.summary,
        evidence=match.evidence,
        where=match.where,
        ops=tuple(sorted(index_of_group[g] for g in match.ops if g in index_of_group)),
        saving_s=saving_s,
        saving_fraction=saving_s / context.step_s if saving_s is not None else None,
        saving_bytes=match.saving_bytes,
        matched="order",
        replacement=match.replacement,
        how=match.how,
    )
