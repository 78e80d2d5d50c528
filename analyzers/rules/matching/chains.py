"""Which pointwise operators could run as one pass: those that read one another, over as many elements?

A chain is grown along the flow. Two operators join only if nothing outside the chain lies on a way from one to the
other: one pass cannot wait in the middle for somebody else's result. A chain that nothing has joined for a while is
complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from probe.analyzers.rules.matching.flow import Flow

REACH = {"dataflow": 64, "graph": 64, "order": 6}  # units after which nothing joins a chain any more: a guess is near


@dataclass(eq=False)
class _Chain:
    """Units by index; `needs` are the chains whose results it reads, directly or on the way through others."""

    members: list[int] = field(default_factory=list)
    needs: set[_Chain] = field(default_factory=set)
    merged_into: _Chain | None = None

    def now(self) -> _Chain:
        """Itself, or what it has become a part of."""
        chain = self
        while chain.merged_into is not None:
            chain = chain.merged_into
        return chain


@dataclass(eq=False)
class _Growth:
    """What is known while the units are read in order of time."""

    flow: Flow
    chain_of: dict[int, _Chain] = field(default_factory=dict)
    needs_of: list[set[_Chain]] = field(default_factory=list)  # of each unit, by the way through units outside chains

    def read(self, index: int, *, joins: bool) -> None:
        """The next unit."""
        makers = {argument.makers[0] for argument in self.flow.arguments[index] if argument.makers}
        makers = {maker for maker in makers if maker < index}
        numel = self.flow.units[index].numel
        if joins:
            own = _Chain([index])
            near = {self.chain_of[m].now() for m in makers if m in self.chain_of and self.flow.units[m].numel == numel}
            near = {chain for chain in near if self._is_open(chain)}
            outside = {m: self._needs(m) for m in makers}
            for chain in sorted(near, key=lambda c: c.members[-1], reverse=True):
                self._join(own, chain, outside)
            self.chain_of[index] = own
            own.needs = self._current(own.needs.union(*outside.values())) - {own}
        self.needs_of.append(set().union(*(self._needs(maker) for maker in makers)) if makers else set())

    def _needs(self, maker: int) -> set[_Chain]:
        """The chains that what a unit made depends on, its own among them."""
        if maker in self.chain_of:
            chain = self.chain_of[maker].now()
            return self._current(chain.needs) | {chain}
        return self._current(self.needs_of[maker])

    def _current(self, chains: set[_Chain]) -> set[_Chain]:
        """As they are now, without those that nothing can join any more."""
        return {now for chain in chains if self._is_open(now := chain.now())}

    def _is_open(self, chain: _Chain) -> bool:
        return len(self.needs_of) - chain.members[-1] <= REACH[self.flow.tier]

    def _join(self, own: _Chain, chain: _Chain, outside: dict[int, set[_Chain]]) -> None:
        """Make `chain` a part of `own`, unless something outside both depends on it."""
        for maker, needs in outside.items():
            made_by = self.chain_of[maker].now() if maker in self.chain_of else None
            if made_by not in (chain, own) and chain in self._current(needs):
                return
        if chain in self._current(own.needs) or own in self._current(chain.needs):
            return
        own.members, own.needs = sorted(own.members + chain.members), own.needs | chain.needs
        chain.merged_into = own


def chains(flow: Flow, joins: Sequence[bool]) -> list[list[int]]:
    """Indices of the units of each chain, in order of time; `joins` says which units may be in one."""
    return flow.shared(("chains", bytes(joins)), lambda: _chains(flow, joins))


def _chains(flow: Flow, joins: Sequence[bool]) -> list[list[int]]:
    growth = _Growth(flow)
    for index in range(len(flow.units)):
        growth.read(index, joins=joins[index])
    found = {id(chain.now()): chain.now().members for chain in growth.chain_of.values()}
    return sorted(found.values())
