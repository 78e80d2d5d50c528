"""F01: pointwise operators that read one another, each passing through memory what one pass could do."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from probe.analyzers.operators.call_tree import under
from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.matching.by_hand import spelled_out
from probe.analyzers.rules.matching.chains import chains
from probe.analyzers.rules.matching.continued import CASTS, taken
from probe.analyzers.rules.matching.flow import Flow
from probe.analyzers.rules.matching.ledger import Account, array_bytes, as_recorded_s, element, ledger_of, spelled
from probe.analyzers.rules.matching.marks import Marked
from probe.analyzers.rules.matching.search import Match as Place
from probe.analyzers.rules.matching.units import POINTWISE, Unit
from probe.analyzers.rules.rule import Example, Rule
from probe.trace import Mask
from probe.units import format_time

SHORTEST = 3
LEAST_FRACTION = 0.01  # of the step, below which a chain is not worth a line
OPTIMIZER = "Optimizer.step#"


def find(context: Context) -> Iterator[Match]:
    """Activations written out, then one match per spelling of a chain, of at least 1 % of the step each."""
    ledger = ledger_of(context)
    lines: dict[str, str] = {}
    places = []
    for place, name, line in spelled_out(context):
        lines[name] = line
        places.append((name, place))
    names = {id(place): name for name, place in places}
    for (name, _), account in ledger.accounts((p for _, p in places), lambda p: (names[id(p)], p.units[-1].size)):
        yield from _worth(context, _activation(account, name, lines[name], context))
    least: dict[int, int] = {}
    found = _places(context, least)
    for _, account in ledger.accounts(found, lambda p: tuple(u.name for u in p.units)):
        mean = sum(least[id(p)] for p in account.places) / len(account.places)
        yield from _worth(context, _chain(account, mean, context))


def _worth(context: Context, match: Match) -> Iterator[Match]:
    free = not context.claimed.intersection(match.rows)
    if free and match.saving_s is not None and match.saving_s >= LEAST_FRACTION * context.step_s:
        yield match


def _places(context: Context, least: dict[int, int]) -> Iterator[Place]:
    """The chains in all runs; `least` gets the bytes that a fused pass would move, by the place's id."""
    closed = _closed(context)
    for flow in context.flows:
        free = [
            (unit.name in POINTWISE or unit.name in CASTS) and unit.numel > 1 and not closed[unit.row]
            for unit in flow.units
        ]
        for members in chains(flow, free):
            if _is_chain(flow, members):
                place = Place(tuple(flow.units[i] for i in members), {}, {}, flow.tier_of(members))
                least[id(place)] = _least_bytes(flow, members)
                yield place


def _is_chain(flow: Flow, members: list[int]) -> bool:
    """Long enough; by sizes alone one operator on several tensors looks like a chain of itself."""
    names = [flow.units[i].name for i in members if flow.units[i].name in POINTWISE]
    return len(names) >= SHORTEST and (flow.tier != "order" or len(set(names)) > 1)


def _closed(context: Context) -> Mask:
    """Operators that may be in no chain: of other findings, of optimizers, and backward ones (counted with theirs)."""
    trace = context.trace
    marked = taken(context)
    steps = [i for i, name in enumerate(trace.names) if name.startswith(OPTIMIZER)]
    marked |= Marked.of(trace, steps).holds(trace.host_ops.start_ns)
    return marked | under(trace.host_ops.parent, marked)


def _least_bytes(flow: Flow, members: list[int]) -> int:
    """Bytes of what a chain reads from outside, and of what others read of it."""
    inside = set(members)
    read = {
        (argument.value, argument.makers[:1]): prod(argument.size) * element(flow.units[i]).itemsize
        for i in members
        for argument in flow.arguments[i]
        if not inside.intersection(argument.makers[:1])
    }
    kept = {members[-1]}
    if flow.tier != "order":
        readers = enumerate(flow.arguments[members[0] :], members[0])
        kept |= inside & {m for i, args in readers if i not in inside for a in args for m in a.makers}
    return sum(read.values()) + sum(array_bytes(flow.units[i]) for i in kept)


def _chain(account: Account, least: float, context: Context) -> Match:
    names = account.names
    sizes = sorted({max(unit.numel for unit in place.units) for place in account.places})
    over = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    saving_s = account.saving_s(least * (2 if account.trained else 1))
    return Match(
        rows=account.rows,
        ops=account.ops,
        key=f"{names[0]}-{names[-1]}-{len(names)}",
        summary=(
            f"{len(names)} pointwise operators that read one another over {over} elements, {times(account.calls)}, "
            f"take {format_time(account.seconds)}{' with their backward passes' if account.trained else ''}; as one "
            f"pass they would take about {format_time(account.seconds - saving_s)}"
        ),
        evidence=(spelled(names, 8), *_arithmetic(account)),
        saving_s=as_recorded_s(context, saving_s),
        where=f"{times(account.calls)}, first operator {names[0]}, last {names[-1]}",
        replacement="torch.compile of the function that holds the chain",
        how="@torch.compile  # above the function that holds these operators",
        tier=account.tier,
    )


def _activation(account: Account, name: str, line: str, context: Context) -> Match:
    unit = _widest(account.places[0])
    saving_s = account.saving_s(array_bytes(unit) * (5 if account.trained else 2))
    return Match(
        rows=account.rows,
        ops=account.ops,
        key=f"{name}-" + "x".join(map(str, unit.size)),
        summary=(
            f"{name} over {list(unit.size)} is written out in {len(account.names)} operators, {times(account.calls)}: "
            f"{format_time(account.seconds)}; torch's own is one pass, about {format_time(account.seconds - saving_s)}"
        ),
        evidence=(spelled(account.names, 9), *_arithmetic(account)),
        saving_s=as_recorded_s(context, saving_s),
        where=times(account.calls),
        replacement=f"torch.nn.functional.{line[2:].split('(')[0]}",
        how=line,
        tier=account.tier,
    )


def _widest(place: Place) -> Unit:
    return max(place.units, key=lambda unit: unit.numel)


def _arithmetic(account: Account) -> Iterator[str]:
    """What fusing does not save."""
    if account.arithmetic_s > 0.1 * account.seconds:
        yield f"{format_time(account.arithmetic_s)} of it is arithmetic, which stays"


RULES = (
    Rule(
        "F01", "pointwise-chain", "pointwise operators in a row", find,
        trigger="three or more pointwise operators over as many elements that read one another, 1 % of the step",
        advice="compile the function that holds them, or use torch's own operator where it is one",
        saving="of their time without arithmetic, the share of the bytes that one pass need not move",
        cannot_show="by sizes alone, whether they do read one another",
        proof="replay", needs=("shapes",),
        example=Example(
            "def gate(x, y):\n    return torch.tanh(x * 2 + 1) * y",
            "@torch.compile\ndef gate(x, y):\n    return torch.tanh(x * 2 + 1) * y",
        ),
    ),
)  # fmt: skip
