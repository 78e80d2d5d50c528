"""Where in a flow does a pattern hold?

From its last operator back, a choice of makers at a time, undone where the rest does not fit. Before any choice is
made it is asked, once for each operator and part of the pattern, whether that part could hold there if no other part
mattered (`_Search.may_hold`): by sizes alone nearly every choice is a dead end, and most are seen to be at once.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np

from probe.analyzers.rules.matching.flow import Argument, Flow, Tier, Value
from probe.analyzers.rules.matching.patterns import Anything, OneOf, Op, Pattern, Through
from probe.analyzers.rules.matching.units import Unit
from probe.trace import Mask

SEEN_THROUGH = frozenset({"to_copy", "copy", "clone", "contiguous", "to"})
# Copies in a row that are looked through: fewer where only sizes are known, and each of them has several makers.
MOST_COPIES: dict[Tier, int] = {"order": 2, "dataflow": 16, "graph": 16}
SPAN = 96  # units within which a whole expression lies where only sizes are known
EFFORT = 3000  # arguments looked at for one last operator: where only sizes are known, a search can go on for ever
COMMUTATIVE = frozenset({"add", "mul", "maximum", "minimum", "eq", "ne"})


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


def matches(flow: Flow, pattern: Pattern, taken: Mask | None = None) -> Iterator[Match]:
    """The places where `pattern` holds, later roots first where two overlap; none uses operators in `taken`, [ops]."""
    _, possible = flow.shared(id(pattern), lambda: (pattern, _is_possible(pattern, {u.name for u in flow.units})))
    if not possible:
        return
    used = np.flatnonzero(taken[flow.rows]) if taken is not None else np.zeros(0, np.int64)
    key = (id(pattern), used.tobytes())  # kept with the pattern, so that its id stays its own
    for state in flow.shared(key, lambda: (pattern, _states(flow, pattern, frozenset(used.tolist()))))[1]:
        yield _match(flow, state)


def _states(flow: Flow, pattern: Pattern, taken: frozenset[int]) -> list[_State]:
    """Where the pattern holds, in order of time, without the units of those indices."""
    names = [unit.name for unit in flow.units]
    pattern = _possible(pattern, frozenset(names))
    used, search = set(taken), _Search(flow)
    found = []
    for root in range(len(flow.units) - 1, -1, -1):
        if root in used or not _may_end(flow.units[root], pattern):
            continue
        if flow.tier == "order" and not _is_possible(pattern, set(names[max(0, root - SPAN) : root + 1])):
            continue
        state = _first(search, root, pattern, used)
        if state is not None:
            used |= state.used
            found.append(state)
    return found[::-1]


class _TooLongError(Exception):
    """A search was given up."""


@dataclass
class _Search:
    """One pattern in one flow."""

    flow: Flow
    effort: int = 0  # what may still be spent on one last operator
    known: dict[Hashable, bool] = field(default_factory=dict)  # what `may_hold` and `may_fit` have said

    def may_hold(self, index: int, pattern: Pattern) -> bool:
        """Whether `pattern` could hold with unit `index` as its last operator, were it not for names and other uses."""
        key = (index, _key(pattern))
        if key not in self.known:
            self.known[key] = self._may_hold(index, pattern)
        return self.known[key]

    def _may_hold(self, index: int, pattern: Pattern) -> bool:
        unit, arguments = self.flow.units[index], self.flow.arguments[index]
        match pattern:
            case OneOf(choices):
                return any(_may_end(unit, choice) and self.may_hold(index, choice) for choice in choices)
            case Through(names, source, most):
                return self.may_hold(index, source) or (
                    most > 0 and unit.name in names
                    and any(self.may_fit(index, a, replace(pattern, most=most - 1)) for a in arguments)
                )  # fmt: skip
            case Op(names, wanted, test, name, any_order):
                if name and not wanted:  # may be written out at another of its places
                    return unit.name in names
                if unit.name not in names or len(arguments) < len(wanted) or (test and not test(unit)):
                    return False
                if _is_free(unit, arguments, any_order):
                    return all(any(self.may_fit(index, a, one) for a in arguments) for one in wanted)
                return all(self.may_fit(index, a, one) for a, one in zip(arguments, wanted, strict=False))
        return False

    def may_fit(self, reader: int, argument: Argument, pattern: Pattern, copies: int = 0) -> bool:
        """The same for what unit `reader` reads there, after so many copies in a row."""
        if isinstance(pattern, Anything):
            return pattern.test is None or pattern.test(argument)
        key = (reader, id(argument), _key(pattern), copies)
        if key not in self.known:
            self.known[key] = self._may_fit(reader, argument, pattern, copies)
        return self.known[key]

    def _may_fit(self, reader: int, argument: Argument, pattern: Pattern, copies: int) -> bool:
        flow = self.flow
        if isinstance(pattern, OneOf):
            return any(self.may_fit(reader, argument, choice, copies) for choice in pattern.choices)
        if isinstance(pattern, Through) and isinstance(pattern.source, Anything):
            return True
        if pattern.last_names is not None and pattern.last_names.isdisjoint(_makers(flow, argument)):
            return False
        for maker in argument.makers:
            if maker >= reader:
                continue
            if _may_end(flow.units[maker], pattern) and self.may_hold(maker, pattern):
                return True
            if _is_seen_through(flow, maker, copies) and any(
                self.may_fit(maker, source, pattern, copies + 1) for source in _copied(flow, maker)
            ):
                return True
        return False


def _key(pattern: Pattern) -> Hashable:
    """What tells parts of one pattern apart. A `Through` is made anew on the way: its own id would be used again."""
    return (id(pattern.source), pattern.names, pattern.most) if isinstance(pattern, Through) else id(pattern)


def _first(search: _Search, root: int, pattern: Pattern, used: Collection[int]) -> _State | None:
    """The first way in which the pattern holds without units that are used; None too where a search is too long."""
    search.effort = EFFORT
    try:
        return next((s for s in _unit(search, root, pattern, _State()) if s.used.isdisjoint(used)), None)
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


def _unit(search: _Search, index: int, pattern: Pattern, state: _State) -> Iterator[_State]:
    """The ways in which `pattern` holds with unit `index` as its last operator."""
    if not search.may_hold(index, pattern):
        return
    flow = search.flow
    unit = flow.units[index]
    match pattern:
        case OneOf(choices):
            for choice in choices:
                if _may_end(unit, choice):
                    yield from _unit(search, index, choice, state)
        case Through(names, source, most):  # the longest way first
            if most and unit.name in names and index not in state.used:
                taken = _State(state.used | {index}, state.named, state.values)
                for argument in flow.arguments[index]:
                    yield from _argument(search, index, argument, replace(pattern, most=most - 1), taken)
            yield from _unit(search, index, source, state)
        case Op(names, arguments, test, name, any_order):
            known = dict(state.named).get(name) if name else None
            if known is not None:
                yield from [state] if known == index else []  # what is read twice is matched once
                return
            if unit.name not in names or index in state.used or (test and not test(unit)):
                return
            named = (*state.named, (name, index)) if name else state.named
            bound = _State(state.used | {index}, named, state.values)
            for order in _orders(unit, flow.arguments[index], len(arguments), any_order):
                yield from _all(search, index, order, arguments, bound)


def _is_free(unit: Unit, arguments: Sequence[Argument], any_order: bool) -> bool:
    """Whether the arguments may stand in any order."""
    return (any_order or unit.name in COMMUTATIVE) and len(arguments) <= 3


def _orders(unit: Unit, arguments: Sequence[Argument], n: int, any_order: bool) -> Iterator[Sequence[Argument]]:
    """The arguments as they stand, or where their order does not matter in every order."""
    if len(arguments) < n:
        return
    if n and _is_free(unit, arguments, any_order):
        yield from (order[:n] for order in permutations(arguments))
    else:
        yield arguments[:n]


def _all(
    search: _Search, reader: int, arguments: Sequence[Argument], patterns: Sequence[Pattern], state: _State
) -> Iterator[_State]:
    """The ways in which all the patterns hold for the arguments, one for one."""
    if not patterns:
        yield state
        return
    for one in _argument(search, reader, arguments[0], patterns[0], state):
        yield from _all(search, reader, arguments[1:], patterns[1:], one)


def _argument(
    search: _Search, reader: int, argument: Argument, pattern: Pattern, state: _State, copies: int = 0
) -> Iterator[_State]:
    """The ways in which what is read there fits `pattern`, after so many copies in a row."""
    search.effort -= 1
    if search.effort < 0:
        raise _TooLongError
    if isinstance(pattern, Anything):
        yield from _bind(argument, pattern, state)
        return
    if isinstance(pattern, OneOf):
        for choice in pattern.choices:
            yield from _argument(search, reader, argument, choice, state, copies)
        return
    if not search.may_fit(reader, argument, pattern, copies):
        return
    flow = search.flow
    for maker in argument.makers:
        if maker >= reader:
            continue
        if _may_end(flow.units[maker], pattern):
            yield from _unit(search, maker, pattern, state)
        if _is_seen_through(flow, maker, copies):  # again too: what is read twice may have been copied once
            taken = _State(state.used | {maker}, state.named, state.values)
            for source in _copied(flow, maker):
                yield from _argument(search, maker, source, pattern, taken, copies + 1)
    if isinstance(pattern, Through) and isinstance(pattern.source, Anything):
        yield from _bind(argument, pattern.source, state)


def _is_seen_through(flow: Flow, maker: int, copies: int) -> bool:
    """Whether a maker is a copy that is looked through, after so many."""
    return flow.units[maker].name in SEEN_THROUGH and copies < MOST_COPIES[flow.tier]


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
