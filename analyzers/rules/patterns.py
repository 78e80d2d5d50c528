"""How is a pattern of operators written, once, and found in a flow known exactly or only by sizes?

A pattern is an expression read from its last operator back: `op("mul", X, op("rsqrt", …))`. Alternatives are joined by
`|`. Casts, copies and clones between two operators are looked through. An operator that is read twice is given a name
and written out at one of its places; the other says `op("…", name=…)` too. A `value("x")` stands for whatever is read
there; the same name must be the same value wherever it stands (where only sizes are known: of the same sizes).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from probe.analyzers.rules.flow import Argument, Flow, Tier, Value
from probe.analyzers.rules.units import Unit

SEEN_THROUGH = frozenset({"to_copy", "copy", "clone", "contiguous", "to"})
COMMUTATIVE = frozenset({"add", "mul", "maximum", "minimum", "eq", "ne"})
Test = Callable[[Unit], bool]


class Pattern:
    """What may stand in a place of an expression."""

    def __or__(self, other: Pattern) -> OneOf:
        """Either."""
        return OneOf((*(self.choices if isinstance(self, OneOf) else (self,)),
                      *(other.choices if isinstance(other, OneOf) else (other,))))  # fmt: skip


@dataclass(frozen=True)
class Op(Pattern):
    """A call of one of the named operators whose tensor arguments fit `arguments`, one for one; more may follow.

    any_order: whether the arguments may stand in any order, for operators that are not commutative by themselves.
    """

    names: frozenset[str]
    arguments: tuple[Pattern, ...] = ()
    test: Test | None = None
    name: str = ""  # under which the match keeps the unit
    any_order: bool = False

    def called(self, name: str) -> Op:
        """The same, kept in the match under `name`."""
        return replace(self, name=name)


@dataclass(frozen=True)
class Anything(Pattern):
    """Any value; the same name is the same value in all places."""

    name: str = ""
    test: Callable[[Argument], bool] | None = None


@dataclass(frozen=True)
class OneOf(Pattern):
    """The first of the choices that fits."""

    choices: tuple[Pattern, ...]


@dataclass(frozen=True)
class Through(Pattern):
    """`source` after up to `most` of the named operators, each reading the one before in any of its arguments."""

    names: frozenset[str]
    source: Pattern
    most: int = 8


def op(names: str, *arguments: Pattern, test: Test | None = None, name: str = "", any_order: bool = False) -> Op:
    """An operator by its name or one of several, separated by blanks."""
    return Op(frozenset(names.split()), arguments, test, name, any_order)


def value(name: str = "", test: Callable[[Argument], bool] | None = None) -> Anything:
    """Any value."""
    return Anything(name, test)


def through(names: str, source: Pattern, most: int = 8) -> Through:
    """`source`, changed by some of the named operators, or by none."""
    return Through(frozenset(names.split()), source, most)


@dataclass(frozen=True)
class Match:
    """One place where a pattern holds: its units in order of time, those kept by name, and how it is known."""

    units: tuple[Unit, ...]
    named: Mapping[str, Unit]
    values: Mapping[str, Value]
    tier: Tier


@dataclass(frozen=True)
class _State:
    """What has been bound on the way."""

    used: frozenset[int] = frozenset()
    named: tuple[tuple[str, int], ...] = ()
    values: tuple[tuple[str, Value], ...] = ()


def matches(flow: Flow, pattern: Pattern, taken: Collection[int] = ()) -> Iterator[Match]:
    """The places where `pattern` holds, later roots first where two overlap; units in `taken` (rows) are not used."""
    used = {i for i, unit in enumerate(flow.units) if unit.row in taken}
    found = []
    for root in range(len(flow.units) - 1, -1, -1):
        if root in used:
            continue
        state = next((s for s in _unit(flow, root, pattern, _State()) if not (s.used & used)), None)
        if state is not None:
            used |= state.used
            found.append(_match(flow, state))
    yield from reversed(found)


def _match(flow: Flow, state: _State) -> Match:
    units = tuple(flow.units[i] for i in sorted(state.used))
    return Match(units, {n: flow.units[i] for n, i in state.named}, dict(state.values), flow.tier)


def _unit(flow: Flow, index: int, pattern: Pattern, state: _State) -> Iterator[_State]:
    """The ways in which `pattern` holds with unit `index` as its last operator."""
    unit = flow.units[index]
    match pattern:
        case OneOf(choices):
            for choice in choices:
                yield from _unit(flow, index, choice, state)
        case Through(names, source, most):  # the longest way first
            if most and unit.name in names and index not in state.used:
                taken = replace(state, used=state.used | {index})
                for argument in flow.arguments[index]:
                    yield from _argument(flow, index, argument, replace(pattern, most=most - 1), taken)
            yield from _unit(flow, index, source, state)
        case Op(names, arguments, test, name, any_order):
            known = dict(state.named).get(name) if name else None
            if known is not None:
                yield from [state] if known == index else []  # what is read twice is matched once
                return
            if unit.name not in names or index in state.used or (test and not test(unit)):
                return
            named = (*state.named, (name, index)) if name else state.named
            bound = replace(state, used=state.used | {index}, named=named)
            orders = _orders(flow.arguments[index], len(arguments), any_order or unit.name in COMMUTATIVE)
            for order in orders:
                yield from _all(flow, index, order, arguments, bound)


def _orders(arguments: Sequence[Argument], n: int, free: bool) -> Iterator[Sequence[Argument]]:
    """The arguments as they stand, or where their order does not matter in every order."""
    if len(arguments) < n:
        return
    if free and n and len(arguments) <= 3:
        yield from (order[:n] for order in permutations(arguments))
    else:
        yield arguments[:n]


def _all(
    flow: Flow, reader: int, arguments: Sequence[Argument], patterns: Sequence[Pattern], state: _State
) -> Iterator[_State]:
    """The ways in which all the patterns hold for the arguments, one for one."""
    if not patterns:
        yield state
        return
    for one in _argument(flow, reader, arguments[0], patterns[0], state):
        yield from _all(flow, reader, arguments[1:], patterns[1:], one)


def _argument(flow: Flow, reader: int, argument: Argument, pattern: Pattern, state: _State) -> Iterator[_State]:
    """The ways in which what is read there fits `pattern`."""
    if isinstance(pattern, Anything):
        yield from _bind(argument, pattern, state)
        return
    if isinstance(pattern, OneOf):
        for choice in pattern.choices:
            yield from _argument(flow, reader, argument, choice, state)
        return
    for maker in argument.makers:
        if maker >= reader:
            continue
        yield from _unit(flow, maker, pattern, state)
        if flow.units[maker].name in SEEN_THROUGH and maker not in state.used:
            taken = replace(state, used=state.used | {maker})
            for source in flow.arguments[maker][-1:] if flow.units[maker].name == "copy" else flow.arguments[maker][:1]:
                yield from _argument(flow, maker, source, pattern, taken)
    if isinstance(pattern, Through) and isinstance(pattern.source, Anything):
        yield from _bind(argument, pattern.source, state)


def _bind(argument: Argument, pattern: Anything, state: _State) -> Iterator[_State]:
    if pattern.test and not pattern.test(argument):
        return
    known = dict(state.values).get(pattern.name)
    if not pattern.name:
        yield state
    elif known is None:
        yield replace(state, values=(*state.values, (pattern.name, argument.value)))
    elif known == argument.value:
        yield state
