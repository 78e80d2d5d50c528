"""Where do patterns of the forward pass hold, and which operators continue them: a weight, a bias, a cast?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from probe.analyzers.rules.context import Context
from probe.analyzers.rules.matching.flow import Argument, Flow
from probe.analyzers.rules.matching.patterns import Pattern
from probe.analyzers.rules.matching.search import Match as Place
from probe.analyzers.rules.matching.search import matches
from probe.analyzers.rules.matching.units import Unit
from probe.trace import Mask

NEAR = 6  # units after the last one among which the next is looked for
Fits = Callable[[Unit, Sequence[Argument]], bool]  # given the other arguments
CASTS: dict[str, Fits] = {name: lambda unit, others: True for name in ("to", "to_copy")}


def in_backward(context: Context) -> Mask:
    """Operators that belong to backward passes, [host operators]."""
    return context.in_backward


def taken(context: Context) -> Mask:
    """The operators that no pattern of the forward pass may use, [ops]: claimed ones, and backward ones."""
    return context.marked(context.claimed) | in_backward(context)


def forward(context: Context, pattern: Pattern) -> Iterator[Place]:
    """The places of `pattern` in the forward passes, without units that are claimed."""
    closed = taken(context)
    for flow in context.flows:
        yield from matches(flow, pattern, closed)


def places(context: Context, pattern: Pattern, following: Mapping[str, Fits]) -> Iterator[Place]:
    """The same with what follows: each named operator at most once, if the rest of it fits."""
    closed = taken(context)
    for flow in context.flows:
        for place in matches(flow, pattern, closed):
            yield continued(flow, place, flow.index_of[place.units[-1].row], following, closed)


def continued(flow: Flow, place: Place, last: int, following: Mapping[str, Fits], closed: Mask | None = None) -> Place:
    """The place with the units that continue it; `last` is the index of its last unit."""
    units = list(place.units)
    seen: Counter[str] = Counter()
    while (index := _next(flow, last, following, seen)) is not None:
        if closed is not None and closed[flow.units[index].row]:
            break
        seen[flow.units[index].name] += 1
        units.append(flow.units[index])
        last = index
    return replace(place, units=tuple(units))


def _next(flow: Flow, last: int, following: Mapping[str, Fits], seen: Counter[str]) -> int | None:
    """The first unit that reads the last one, where it is one that may follow."""
    for index in range(last + 1, min(last + 1 + NEAR, len(flow.units))):
        unit, arguments = flow.units[index], flow.arguments[index]
        if any(last in argument.makers for argument in arguments):
            others = [argument for argument in arguments if last not in argument.makers]
            allowed = unit.name in following and seen[unit.name] < (2 if unit.name in CASTS else 1)
            return index if allowed and following[unit.name](unit, others) else None
    return None


def made_by(flow: Flow, argument: Argument, names: Collection[str], past: Collection[str], most: int = 4) -> bool:
    """Whether what is read was made by one of the named operators, changed by those in `past` at the most."""
    for maker in argument.makers:
        name = flow.units[maker].name
        if name in names:
            return True
        if most and name in past and any(made_by(flow, a, names, past, most - 1) for a in flow.arguments[maker]):
            return True
    return False
