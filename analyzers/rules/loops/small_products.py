"""F21: many small matrix products of the same sizes, none of which needs another's result.

A loop around them repeats other operators as well: a batched product makes those act on all at once, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from probe.analyzers.roofline import place
from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.matching.flow import Flow, Tier
from probe.analyzers.rules.matching.ledger import spelled, usual_s
from probe.analyzers.rules.matching.repeats import replaced_as_recorded_s
from probe.analyzers.rules.matching.units import Unit
from probe.analyzers.rules.rule import Example, Rule
from probe.trace import Dims, Mask
from probe.units import format_time

FEWEST = 8  # products in a row of alike ones
APART = 12  # units between two of them at most
PRODUCTS = frozenset({"mm", "addmm", "mv", "addmv", "bmm", "baddbmm"})
SMALL = 8  # dispatches that a product's arithmetic may take and still be small
ATTAINED = 0.5  # of the roof, by one batched product
PER_MATRIX = 0.2  # dispatches a CPU needs for each matrix of a batch, which it works off one by one: 0.2 to 0.4 µs
JOINS = frozenset({"cat", "stack"})
BESIDE = frozenset({"to_copy", "copy", "clone", "contiguous", "to"})  # between products that are known only by sizes


@dataclass(frozen=True)
class _Series:
    """Alike products in a run, one after the other."""

    units: tuple[Unit, ...]
    beside: tuple[Unit, ...]  # the other units of a loop around them
    passes: int  # of that loop
    among: int  # units from the first to the last, these included
    idle_ns: int  # host time between them all: views and Python
    shared: str  # what they have in common: "left", "right" or ""
    joined: tuple[int, ...]  # the operator that puts the results together, which one product leaves together
    tier: Tier


def find(context: Context) -> Iterator[Match]:
    """One match per size of products."""
    backward = context.under_engine
    found: dict[tuple[str, tuple[Dims, ...]], list[_Series]] = defaultdict(list)
    for flow in context.flows:
        for series in _series(context, flow, backward):
            found[series.units[0].name, series.units[0].dims].append(series)
    for same in found.values():
        match = _match(context, same)
        if match is not None:
            yield match


def _series(context: Context, flow: Flow, backward: Mask) -> Iterator[_Series]:
    """Products of one size, close to one another and independent; a loop with several of them is told once."""
    kinds: dict[tuple[str, tuple[Dims, ...]], list[int]] = defaultdict(list)
    for index in flow.shared("products", lambda: [i for i, u in enumerate(flow.units) if u.name in PRODUCTS]):
        unit = flow.units[index]
        if not backward[unit.row] and unit.row not in context.claimed:
            kinds[unit.name, unit.dims].append(index)
    many = [same for same in kinds.values() if len(same) >= FEWEST and is_small(context, flow.units[same[0]])]
    groups = [group for same in many for group in _near(same) if len(group) >= FEWEST and _independent(flow, group)]
    told = 0
    for group in sorted(groups):
        if group[0] >= told:
            series, last = _one(context, flow, group)
            told = last if series.beside else told
            yield series


def _one(context: Context, flow: Flow, group: Sequence[int]) -> tuple[_Series, int]:
    """The series, and the index behind the loop around it, or behind its last product."""
    last = group[-1] + _period(flow, group)
    among = flow.units[group[0] : last]
    busy_ns = sum(unit.end_ns - unit.start_ns for unit in among)
    idle_ns = max(among[-1].end_ns - among[0].start_ns - busy_ns, 0)
    units, own = tuple(flow.units[i] for i in group), set(group)
    beside = tuple(flow.units[i] for i in range(group[0], last) if i not in own) if last > group[-1] + 1 else ()
    beside = tuple(unit for unit in beside if unit.row not in context.claimed)
    joined = _joined(flow, last, len(group))
    return _Series(units, beside, len(group), len(among), idle_ns, _shared(flow, group), joined, flow.tier), last


def _period(flow: Flow, group: Sequence[int]) -> int:
    """Units in a pass of the loop in which each pass calls one of the products and reads no other pass; else 1."""
    period = group[1] - group[0]
    first, last = group[0], group[-1] + period
    if last > len(flow.units) or any(b - a != period for a, b in pairwise(group)):
        return 1
    kinds = [(unit.name, unit.dims) for unit in flow.units[first:last]]
    if flow.tier == "order" or kinds[period:] != kinds[:-period]:
        return 1
    read = ((i, m) for i in range(first, last) for a in flow.arguments[i] for m in a.makers if first <= m < last)
    return period if all((i - first) // period == (m - first) // period for i, m in read) else 1


def _joined(flow: Flow, last: int, count: int) -> tuple[int, ...]:
    """The row of the unit behind the products that joins as many tensors as they are, if there is one.

    Of long lists no sizes are recorded.
    """
    after = flow.units[last : last + 1]
    return tuple(u.row for u in after if u.name in JOINS and len(u.dims[0] if u.dims else ()) in (0, count))


def is_small(context: Context, unit: Unit) -> bool:
    """Whether starting the product costs about as much as its arithmetic."""
    roof_s = place(context.costs[context.groups.of_op[unit.row]], context.machine.ceilings).roof_s
    return roof_s is not None and roof_s < SMALL * context.machine.dispatch_s


def _near(indices: Sequence[int]) -> Iterator[list[int]]:
    """The indices in groups without large gaps."""
    group: list[int] = []
    for index in indices:
        if group and index - group[-1] > APART:
            yield group
            group = []
        group.append(index)
    yield group


def _independent(flow: Flow, group: Sequence[int]) -> bool:
    """Whether no product needs another's result; where only sizes are known nothing may be computed between them."""
    inside, first, last = set(group), group[0], group[-1]
    if flow.tier == "order":
        return all(i in inside or flow.units[i].name in BESIDE for i in range(first, last + 1))
    made_of: set[int] = set()  # units after the first product that need the result of one of them
    for index in range(first, last + 1):
        makers = {m for a in flow.arguments[index] for m in a.makers if m < index}
        if makers & (inside | made_of):
            made_of.add(index)
    return not made_of & inside


def _shared(flow: Flow, group: Sequence[int]) -> str:
    """Which factor is the same in all of them, where that is known."""
    if flow.tier == "order":
        return ""
    at = 1 if flow.units[group[0]].name.startswith("add") or flow.units[group[0]].name == "baddbmm" else 0
    for name, argument in (("left", at), ("right", at + 1)):
        values = {(flow.arguments[i][argument].value, flow.arguments[i][argument].makers) for i in group
                  if len(flow.arguments[i]) > argument}  # fmt: skip
        if len(values) == 1:
            return name
    return ""


HOW = {
    "left": (
        "one product with all weights",
        "y = x @ torch.cat(weights, dim=1)  # weights packed once, outside the loop",
    ),
    "right": ("one product of all rows", "y = torch.stack(xs) @ w  # one product for all"),
    "": ("one batched product", "y = torch.bmm(xs, ws)  # [n, T, K] and [n, K, N], kept stacked; or torch.vmap"),
}


def _match(context: Context, same: list[_Series]) -> Match | None:
    units = [u for series in same for u in series.units]
    rows = [u.row for u in units]
    beside = [u for series in same for u in series.beside]
    joins = [row for series in same for row in series.joined]
    others = [*(u.row for u in beside), *joins]
    backward = context.backward_rows(rows + others)
    roof_s = place(context.costs[context.groups.of_op[rows[0]]], context.machine.ceilings).roof_s
    if roof_s is None:
        return None
    steps = len(context.steps)
    spent_s = usual_s(context, [*rows, *others, *backward])
    spent_s += 0.0 if context.trace.on_device else _gaps(same) / steps
    passes = 3 if backward else 1
    dispatches = len(same) + (0.0 if same[0].shared or context.trace.on_device else PER_MATRIX * len(rows))
    attained_s = roof_s * _of_all_cores(context) / ATTAINED
    floor_s = attained_s * len(rows) + context.machine.dispatch_s * dispatches + _beside_s(context, same)
    floor_s *= passes / steps
    replacement, how = HOW[same[0].shared]
    sizes = " and ".join(str(list(d)) for d in units[0].dims if d)
    return Match(
        rows=(*rows, *others, *backward),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in rows + others})),
        key="x".join(str(n) for d in units[0].dims for n in d if isinstance(n, int)),
        summary=(
            f"{len(same[0].units)} small products of {sizes} one by one, {times(len(same) / steps)}: "
            f"{'the loop around them takes' if beside else 'they take'} {format_time(spent_s)} where one "
            f"{'pass over all' if beside else 'product of all'} would take about {format_time(floor_s)}"
        ),
        evidence=(
            f"{units[0].name}: {format_time(roof_s)} at the roof, its start {format_time(context.machine.dispatch_s)}",
            "none reads what another made" if same[0].tier != "order" else "nothing is computed between them",
            *((f"each pass: {spelled(_pass(same[0]))}",) if beside else ()),
        ),
        saving_s=max(spent_s - replaced_as_recorded_s(context, floor_s), 0.0),
        where=f"{len(rows) / steps:.0f} calls of {units[0].name} per step",
        replacement=replacement,
        how=how,
        tier=same[0].tier,
    )


def _pass(series: _Series) -> list[str]:
    """The units of the loop's first pass."""
    units = sorted((*series.units, *series.beside), key=lambda unit: unit.start_ns)
    return [unit.name for unit in units[: len(units) // series.passes]]


def _beside_s(context: Context, same: Sequence[_Series]) -> float:
    """Least time of the other units of the loops, over all passes at once; their own where no roof is known."""
    total_s = 0.0
    for series in same:
        for unit in series.beside:
            roof_s = place(context.costs[context.groups.of_op[unit.row]], context.machine.ceilings).roof_s
            own_s = float(context.spent_ns[unit.row]) / 1e9
            total_s += own_s if roof_s is None else min(roof_s * _of_all_cores(context) / ATTAINED, own_s)
        total_s += context.machine.dispatch_s * len(series.beside) / series.passes
    return total_s


def _of_all_cores(context: Context) -> float:
    """How many times more cores the roofs were measured on than the program ran on."""
    machine = context.machine
    return max(machine.cores / machine.threads, 1.0) if machine.cores and machine.threads else 1.0


def _gaps(same: list[_Series]) -> float:
    """Host time between units that is the products' share: views and Python."""
    return sum(s.idle_ns / 1e9 * (len(s.units) + len(s.beside)) / s.among for s in same)


RULES = (
    Rule(
        "F21", "small-products", "many small products of the same sizes", find,
        trigger="eight or more small matrix products of the same sizes, near one another and independent",
        advice="stack their arguments and run one batched product",
        saving="their time, that of the loop around them and of joining their results, and on a CPU that between them, "
        "less a batched product's at half its roof",
        cannot_show="whether the arguments could be kept stacked: stacking them each time costs a copy",
        proof="module", effort="function", needs=("shapes",),
        example=Example("y = [x[i] @ w[i] for i in range(n)]", "y = torch.bmm(x, w)"),
    ),
)  # fmt: skip
