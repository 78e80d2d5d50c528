"""How is a pattern of operators written, once, for flows known exactly or only by sizes?

A pattern is an expression read from its last operator back: `op("mul", X, op("rsqrt", …))`. Alternatives are joined by
`|`. Casts, copies and clones between two operators are looked through. An operator that is read twice is given a name
and written out at one of its places; the other says `op("…", name=…)` too. A `value("x")` stands for whatever is read
there; the same name must be the same value wherever it stands (where only sizes are known: of the same sizes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from probe.analyzers.rules.matching.flow import Argument
from probe.analyzers.rules.matching.units import Unit

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
