"""F01: pointwise operators that read one another, each passing through memory what one pass could do."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from probe.analyzers.operators.call_tree import under
from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.matching.by_hand import Spelling, spelled_out
from probe.analyzers.rules.matching.chains import chains
from probe.analyzers.rules.matching.continued import CASTS, taken
from probe.analyzers.rules.matching.flow import Argument, Flow
from probe.analyzers.rules.matching.ledger import Account, array_bytes, as_recorded_s, element, ledger_of, spelled
from probe.analyzers.rules.matching.marks import Marked
from probe.analyzers.rules.matching.search import Match as Place
from probe.analyzers.rules.matching.units import POINTWISE, RECURRENT, Unit
from probe.analyzers.rules.rule import Example, Rule
from probe.trace import Mask
from probe.units import format_time

SHORTEST = 3
LEAST_FRACTION = 0.01  # of the step, below which a chain is not worth a line
CALL = 20  # dispatches that it takes to call a compiled function: guards, 25 to 70 µs; its backward pass twice more
MASK_OF = {"where": 0, "masked_fill": 1}  # the mask among the tensor arguments
COMPARISONS = frozenset("eq ne lt le gt ge".split())
LOGICAL = frozenset("logical_not logical_and logical_or bitwise_not bitwise_and bitwise_or".split())
OPTIMIZER = "Optimizer.step#"


def find(context: Context) -> Iterator[Match]:
    """Functions written out that torch has, then one match per spelling of a chain: of 1 % of the step or more."""
    ledger = ledger_of(context)
    spellings = {id(place): (place, spelling) for place, spelling in spelled_out(context)}
    places = [place for place, _ in spellings.values()]
    for (spelling, _), account in ledger.accounts(places, lambda p: (spellings[id(p)][1], p.units[-1].size)):
        yield from _worth(context, _by_hand(account, spelling, context))
    least: dict[int, int] = {}
    masked: set[int] = set()
    found = list(_places(context, least, masked))
    for _, account in ledger.accounts(found, lambda p: tuple(u.name for u in p.units), masked):
        mean = sum(least[id(p)] for p in account.places) / len(account.places)
        yield from _worth(context, _chain(account, mean, context))


def _worth(context: Context, match: Match) -> Iterator[Match]:
    free = not context.claimed.intersection(match.rows)
    if free and match.saving_s is not None and match.saving_s >= LEAST_FRACTION * context.step_s:
        yield match


def _places(context: Context, least: dict[int, int], masked: set[int]) -> Iterator[Place]:
    """The chains in all runs.

    `least` gets the bytes that a fused pass would move, by the place's id; `masked` the operators that a compiler
    makes no faster: on a CPU a mask that lies in memory, or is made of indices, is applied element by element.
    """
    closed, idle = _closed(context), _idle(context)
    for flow in context.flows:
        free = [
            (unit.name in POINTWISE or unit.name in CASTS) and unit.numel > 1 and not closed[unit.row]
            for unit in flow.units
        ]
        for members in chains(flow, free):
            if _is_chain(flow, members):
                units = tuple(flow.units[i] for i in members if not idle[flow.units[i].row])
                place = Place(units, {}, {}, flow.tier_of(members))
                least[id(place)] = _least_bytes(flow, members)
                masked.update(() if context.trace.on_device else _with_kept_mask(flow, members))
                yield place


def _with_kept_mask(flow: Flow, members: list[int]) -> Iterator[int]:
    """The rows of what reads a mask that the chain does not make of numbers."""
    inside = frozenset(members)
    for i in members:
        at = MASK_OF.get(flow.units[i].name)
        arguments = flow.arguments[i]
        if at is not None and len(arguments) > at and not _is_compared(flow, arguments[at], inside):
            yield flow.units[i].row


def _is_compared(flow: Flow, mask: Argument, inside: frozenset[int]) -> bool:
    """Whether comparisons of numbers inside the chain make the mask, which vectors hold; not those of indices."""
    maker = max(inside.intersection(mask.makers), default=None)
    if maker is None:
        return False
    unit = flow.units[maker]
    if unit.name in LOGICAL:
        return all(_is_compared(flow, argument, inside) for argument in flow.arguments[maker])
    return unit.name in COMPARISONS and element(unit).is_floating


def _is_chain(flow: Flow, members: list[int]) -> bool:
    """Long enough; by sizes alone one operator on several tensors looks like a chain of itself."""
    names = [flow.units[i].name for i in members if flow.units[i].name in POINTWISE]
    return len(names) >= SHORTEST and (flow.tier != "order" or len(set(names)) > 1)


def _closed(context: Context) -> Mask:
    """Operators that may be in no chain: of other findings, of optimizers, backward ones (counted with theirs).

    Nor may those inside recurrent layers, which no compiler takes apart.
    """
    trace = context.trace
    marked = taken(context) | trace.named(RECURRENT.__contains__)[trace.host_ops.name]
    steps = [i for i, name in enumerate(trace.names) if name.startswith(OPTIMIZER)]
    marked |= Marked.of(trace, steps).holds(trace.host_ops.start_ns)
    return marked | under(trace.host_ops.parent, marked)


def _idle(context: Context) -> Mask:
    """Casts that found nothing to do: they call no other operator, [ops]."""
    ops = context.trace.host_ops
    idle = context.trace.named(lambda name: name == "aten::to")[ops.name]
    idle[ops.parent[ops.parent >= 0]] = False
    return idle


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
    saving_s = account.saving_s(least * (2 if account.trained else 1)) - _calling_s(account, context)
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


def _calling_s(account: Account, context: Context) -> float:
    """What calling a compiled function takes, which a device does not wait for."""
    called_s = 0.0 if context.trace.on_device else CALL * context.machine.dispatch_s
    return account.calls * called_s * (3 if account.trained else 1)


def _by_hand(account: Account, spelling: Spelling, context: Context) -> Match:
    unit, name, line = _widest(account.places[0]), spelling.name, spelling.line
    saving_s = account.saving_s(array_bytes(unit) * spelling.passes[account.trained])
    return Match(
        rows=account.rows,
        ops=account.ops,
        key=f"{name.removeprefix('a ')}-" + "x".join(map(str, unit.size)),
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
