"""How is a pattern of operators written, once, and found in a flow known exactly or only by sizes?

A pattern is an expression read from its last operator back: `op("mul", X, op("rsqrt", …))`. Alternatives are joined by
`|`. Casts, copies and clones between two operators are looked through. An operator that is read twice is given a name
and written out at one of its places; the other says `op("…", name=…)` too. A `value("x")` stands for whatever is read
there; the same name must be the same value wherever it stands (where only sizes are known: of the same sizes).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations

from probe.analyzers.rules.matching.flow import Argument, Flow, Tier, Value
from probe.analyzers.rules.matching.units import Unit

SEEN_THROUGH = frozenset({"to_copy", "copy", "clone", "contiguous", "to"})
# Copies in a row that are looked through: fewer where only sizes are known, and each of them has several makers.
MOST_COPIES: dict[Tier, int] = {"order": 2, "dataflow": 16, "graph": 16}
SPAN = 96  # units within which a whole expression lies where only sizes are known
EFFORT = 3000  # arguments looked at for one last operator: where only sizes are known, a search can go on for ever
COMMUTATIVE = frozenset({"add", "mul", "maximum", "minimum", "eq", "ne"})
Test = Callable[[Unit], bool]


class Pattern:
    """What may stand in a place of an expression."""

    @cached_property
    def last_names(self) -> frozenset[str] | None:
        """Names of the operators that may be the last one of the expression; None: any."""
        return None

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

    @cached_property
    def last_names(self) -> frozenset[str] | None:
        """Its own."""
        return self.names

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

    @cached_property
    def last_names(self) -> frozenset[str] | None:
        """Those of all choices."""
        found = [choice.last_names for choice in self.choices]
        known = [names for names in found if names is not None]
        return frozenset().union(*known) if len(known) == len(found) else None


@dataclass(frozen=True)
class Through(Pattern):
    """`source` after up to `most` of the named operators, each reading the one before in any of its arguments."""

    names: frozenset[str]
    source: Pattern
    most: int = 8

    @cached_property
    def last_names(self) -> frozenset[str] | None:
        """Its own and those of the source."""
        return None if self.source.last_names is None else self.names | self.source.last_names


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
    used = frozenset(i for i, unit in enumerate(flow.units) if unit.row in taken)
    key = (id(pattern), used)
    if key not in flow.held:  # steps repeat: runs of the same calls share what was found in the first of them
        flow.held[key] = (
            pattern,
            tuple(_states(flow, pattern, used)),
        )  # with the pattern, so that its id stays its own
    for state in flow.held[key][1]:
        yield _match(flow, state)


def _states(flow: Flow, pattern: Pattern, taken: frozenset[int]) -> list[_State]:
    """Where the pattern holds, in order of time, without the units of those indices."""
    names = [unit.name for unit in flow.units]
    if not _is_possible(pattern, set(names)):
        return []
    pattern = _possible(pattern, frozenset(names))
    used = set(taken)
    found = []
    for root in range(len(flow.units) - 1, -1, -1):
        if root in used or not _may_end(flow.units[root], pattern):
            continue
        if flow.tier == "order" and not _is_possible(pattern, set(names[max(0, root - SPAN) : root + 1])):
            continue
        state = _first(flow, root, pattern, used)
        if state is not None:
            used |= state.used
            found.append(state)
    return found[::-1]


class _TooLongError(Exception):
    """A search was given up."""


def _first(flow: Flow, root: int, pattern: Pattern, used: Collection[int]) -> _State | None:
    """The first way in which the pattern holds without units that are used; None too where a search is too long."""
    flow.effort[0] = EFFORT
    try:
        return next((s for s in _unit(flow, root, pattern, _State()) if s.used.isdisjoint(used)), None)
    except _TooLongError:
        return None


def _is_possible(pattern: Pattern, names: Collection[str]) -> bool:
    """Whether there are operators of all the names that the pattern needs, wherever they stand."""
    match pattern:
        case Op(own, arguments):
            return not own.isdisjoint(names) and all(_is_possible(argument, names) for argument in arguments)
        case OneOf(choices):
            return any(_is_possible(choice, names) for choice in choices)
        case Through(_, source):
            return _is_possible(source, names)
    return True


def _possible(pattern: Pattern, names: frozenset[str]) -> Pattern:
    """The pattern without choices for which an operator is missing."""
    match pattern:
        case Op(_, arguments):
            return replace(pattern, arguments=tuple(_possible(argument, names) for argument in arguments))
        case OneOf(choices):
            return OneOf(tuple(_possible(choice, names) for choice in choices if _is_possible(choice, names)))
        case Through(own, source):
            return replace(pattern, names=own & names, source=_possible(source, names))
    return pattern


def _may_end(unit: Unit, pattern: Pattern) -> bool:
    """Whether the unit has a name that the last operator of the pattern may have: most have not."""
    return pattern.last_names is None or unit.name in pattern.last_names


def _match(flow: Flow, state: _State) -> Match:
    units = tuple(flow.units[i] for i in sorted(state.used))
    return Match(units, {n: flow.units[i] for n, i in state.named}, dict(state.values), flow.tier_of(state.used))


def _unit(flow: Flow, index: int, pattern: Pattern, state: _State) -> Iterator[_State]:
    """The ways in which `pattern` holds with unit `index` as its last operator."""
    unit = flow.units[index]
    match pattern:
        case OneOf(choices):
            for choice in choices:
                if _may_end(unit, choice):
                    yield from _unit(flow, index, choice, state)
        case Through(names, source, most):  # the longest way first
            if most and unit.name in names and index not in state.used:
                taken = _State(state.used | {index}, state.named, state.values)
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
            bound = _State(state.used | {index}, named, state.values)
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


def _argument(
    flow: Flow, reader: int, argument: Argument, pattern: Pattern, state: _State, copies: int = 0
) -> Iterator[_State]:
    """The ways in which what is read there fits `pattern`, after so many copies in a row."""
    flow.effort[0] -= 1
    if flow.effort[0] < 0:
        raise _TooLongError
    if isinstance(pattern, Anything):
        yield from _bind(argument, pattern, state)
        return
    if isinstance(pattern, OneOf):
        for choice in pattern.choices:
            yield from _argument(flow, reader, argument, choice, state, copies)
        return
    if pattern.last_names is not None and pattern.last_names.isdisjoint(_makers(flow, argument)):
        return
    for maker in argument.makers:
        if maker >= reader:
            continue
        if _may_end(flow.units[maker], pattern):
            yield from _unit(flow, maker, pattern, state)
        seen_through = flow.units[maker].name in SEEN_THROUGH and copies < MOST_COPIES[flow.tier]
        if seen_through:  # again too: what is read twice may have been copied once
            taken = _State(state.used | {maker}, state.named, state.values)
            for source in _copied(flow, maker):
                yield from _argument(flow, maker, source, pattern, taken, copies + 1)
    if isinstance(pattern, Through) and isinstance(pattern.source, Anything):
        yield from _bind(argument, pattern.source, state)


def _copied(flow: Flow, copy: int) -> Sequence[Argument]:
    """The argument that a copy copies."""
    return flow.arguments[copy][-1:] if flow.units[copy].name == "copy" else flow.arguments[copy][:1]


def _makers(flow: Flow, argument: Argument, copies: int = 0) -> Collection[str]:
    """Names of the units that may have made an argument, those behind copies too: most patterns name none of them."""
    known = flow.maker_names.get((id(argument), copies))
    if known is None:
        found = {flow.units[maker].name for maker in argument.makers}
        for maker in argument.makers if found & SEEN_THROUGH and copies < MOST_COPIES[flow.tier] else ():
            if flow.units[maker].name in SEEN_THROUGH:
                found.update(*(_makers(flow, source, copies + 1) for source in _copied(flow, maker)))
        known = flow.maker_names[id(argument), copies] = frozenset(found)
    return known


def _bind(argument: Argument, pattern: Anything, state: _State) -> Iterator[_State]:
    if pattern.test and not pattern.test(argument):
        return
    known = dict(state.values).get(pattern.name)
    if not pattern.name:
        yield state
    elif known is None:
        yield _State(state.used, state.named, (*state.values, (pattern.name, argument.value)))
    elif known == argument.value:
        yield state
