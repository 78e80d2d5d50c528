"""F01: a chain of pointwise operators on tensors of one size, each passing through memory what one pass could do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby

from probe.analyzers.cost_models import Cost
from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.rules.units import POINTWISE, Unit, places
from probe.units import format_time

SHORTEST = 3
LEAST_FRACTION = 0.01  # of the step, below which a chain is not worth a line


def find(context: Context) -> Iterator[Match]:
    """One match per spelling, of at least 1 % of the step; units in `context.claimed` belong to other findings."""
    chains: dict[tuple[str, ...], list[list[Unit]]] = defaultdict(list)
    free = ([u for u in run if u.row not in context.claimed] for run in context.runs)
    for chain in places(free, _chains):
        chains[tuple(u.name for u in chain)].append(chain)
    for same in chains.values():
        match = _match(context, same)
        if match is not None:
            yield match


def _chains(run: list[Unit]) -> Iterator[tuple[int, int]]:
    """Where maximal sequences of pointwise units over the same number of elements begin and end."""
    sizes = [unit.numel if unit.name in POINTWISE and unit.numel > 1 else 0 for unit in run]
    first = 0
    for size, same in groupby(sizes):
        last = first + sum(1 for _ in same)
        if size and last - first >= SHORTEST:
            yield first, last
        first = last


def _match(context: Context, same: list[list[Unit]]) -> Match | None:
    rows = [u.row for chain in same for u in chain]
    spent_s = context.seconds(rows)
    floor_s = _fused_s(context, same)
    if floor_s is None or spent_s - floor_s < LEAST_FRACTION * context.step_s:
        return None
    names = [u.name for u in same[0]]
    sizes = sorted({chain[0].numel for chain in same})
    over = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    return Match(
        rows=tuple(rows),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in rows})),
        key=f"{names[0]}-{names[-1]}-{len(names)}",
        summary=(
            f"{len(names)} pointwise operators in a row over {over} elements, {times(len(same) / len(context.steps))}, "
            f"take {format_time(spent_s)}; fused passes would take about {format_time(floor_s)}"
        ),
        evidence=(" → ".join(names[:8]) + (" → …" if len(names) > 8 else ""),),
        saving_s=spent_s - floor_s,
        where=f"{times(len(same) / len(context.steps))}, first operator {names[0]}, last {names[-1]}",
        replacement="torch.compile of the function that holds the chain",
        how="@torch.compile  # above the function that holds these operators",
    )


def _fused_s(context: Context, same: list[list[Unit]]) -> float | None:
    """Time of fused passes: what goes in first is read, what comes out last is written; None where not known."""
    total = 0.0
    for chain in same:
        first, last = _bytes(context, chain[0]), _bytes(context, chain[-1])
        if first is None or last is None:
            return None
        moved_s = context.roof_s((first + last) / 2)
        if moved_s is None:
            return None
        total += moved_s + (context.machine.ceilings.launch_s or 0.0)
    return total / len(context.steps)


def _bytes(context: Context, unit: Unit) -> float | None:
    """Bytes that a unit reads and writes, by the cost model."""
    cost: Cost = context.costs[context.groups.of_op[unit.row]]
    return cost.bytes


RULES = (
    Rule(
        "F01", "pointwise-chain", "pointwise operators in a row", find,
        trigger="three or more pointwise operators in a row over the same number of elements, 1 % of the step or more",
        advice="compile the function that holds them, or use a fused kernel",
        saving="their time less that of one pass over what goes in first and comes out last",
        cannot_show="whether the results between are used elsewhere: they would still have to be written",
        proof="replay", needs=("shapes",),
        example=Example(
            "def gate(x, y):\n    return torch.tanh(x * 2 + 1) * y",
            "@torch.compile\ndef gate(x, y):\n    return torch.tanh(x * 2 + 1) * y",
        ),
    ),
)  # fmt: skip
