"""What does a chain of operators take as one? Tensors between them are neither written nor read, and it starts once.

A chain is operators that follow each other on a thread of a step, in the order asked for, with little in between. What
one hands to the next is the largest argument of the next that the first can have written: sizes alone tell it. What a
later one reads is a result of the chain, too, where it is as large as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from probe.analyzers.cost_models import Cost
from probe.analyzers.cost_models.call import Call
from probe.analyzers.cost_models.tensors import UndeterminedError
from probe.analyzers.cost_models.terms import IDLE
from probe.analyzers.projection.base import FIXED_S, Base
from probe.analyzers.projection.move import Factor
from probe.analyzers.roofline import Placement
from probe.errors import UsageError
from probe.trace import Int64s, Mask, Signature

BETWEEN = 4  # other operators that may run between two of a chain, as a product between an activation and its use
Factors = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Chain:
    """What is to become one: for each place the indices of the analysis' operators that may stand there."""

    label: str  # as it was asked for
    ops: tuple[frozenset[int], ...]


@dataclass(frozen=True, eq=False)
class Work:
    """What the groups do after all other changes: arguments, costs, roofs, and the factors of their time."""

    signatures: Sequence[Signature | None]
    costs: Sequence[Cost]
    after: Sequence[Placement]
    factors: Sequence[Factor]


@dataclass(frozen=True, eq=False)
class Joined:
    """Chains found in the trace. Factors [host operators] on top of those of the groups.

    gone: rows that are no longer called. means: value, low and high of each group that has calls in chains.
    """

    value: Factors
    low: Factors
    high: Factors
    gone: Int64s
    means: dict[int, Factor]

    def of_group(self, group: int) -> Factor | None:
        """The mean factor of a group's calls; None where none is in a chain."""
        return self.means.get(group)


def joined(base: Base, chains: Sequence[Chain], work: Work) -> Joined | None:
    """The chains as one call each; None where none is asked for. Raises UsageError for what is no chain."""
    if not chains:
        return None
    factors = np.ones((3, len(base.trace.host_ops)))
    taken = np.zeros(len(base.trace.host_ops), bool)
    gone = [np.zeros(0, np.int64)]
    for chain in chains:
        rows = occurrences(base, chain)
        if taken[rows].any():
            raise UsageError(f"--fuse {chain.label}: some of these calls are fused already by another --fuse")
        taken[rows] = True
        of_op = base.groups.of_op[rows]
        for kind in np.unique(of_op, axis=0):
            one = as_one(base, chain, kind.tolist(), work)
            alike = rows[(of_op == kind).all(axis=1)]
            factors[:, alike] = np.array([one.value, one.low, one.high])[:, None, None]
        gone.append(rows[:, 1:].reshape(-1))
    return Joined(factors[0], factors[1], factors[2], np.concatenate(gone), _means(base, factors, taken))


def _means(base: Base, factors: Factors, taken: Mask) -> dict[int, Factor]:
    of_op = base.groups.of_op
    calls = np.maximum(np.bincount(of_op), 1)
    value, low, high = (np.bincount(of_op, weights=each) / calls for each in factors)
    groups = np.unique(of_op[taken]).tolist()
    return {g: Factor(float(value[g]), float(low[g]), float(high[g]), "fused") for g in groups}


def occurrences(base: Base, chain: Chain) -> Int64s:
    """Rows of host operators that follow each other as the chain says, [found, length]; UsageError where none do."""
    found = list(_runs(base, chain.ops))
    if not found:
        raise UsageError(
            f"--fuse {chain.label}: in no step do these follow each other with at most {BETWEEN} others between two of"
            " them; give them in the order in which they run"
        )
    return np.array(found, np.int64)


def _runs(base: Base, ops: Sequence[frozenset[int]]) -> Iterator[list[int]]:
    rows = np.flatnonzero(_working(base) & (base.groups.step_of_op >= 0))
    index = np.array([-1 if i is None else i for i in base.index])[base.groups.of_op[rows]].tolist()
    places = np.stack([base.trace.host_ops.thread[rows], base.groups.step_of_op[rows]], axis=1).tolist()
    begun, last = list[int](), 0
    for at, row in enumerate(rows.tolist()):
        if at - last > BETWEEN + 1 or places[at] != places[last]:
            begun = []
        if index[at] in ops[len(begun)]:
            begun, last = [*begun, row], at
        elif index[at] in ops[0]:
            begun, last = [row], at
        if len(begun) == len(ops):
            yield begun
            begun = []


def as_one(base: Base, chain: Chain, groups: Sequence[int], work: Work) -> Factor:
    """The factor of every call of a chain of these groups.

    value: one start, and what is left of the traffic. low: the same without the start. high: every operator still takes
    its own time, and only the reads of what was handed over go, as where the backward pass needs the tensors between.
    """
    names = [base.groups.name[g] for g in groups]
    times = [float(base.time_s[g]) * work.factors[g].value for g in groups]
    total, places = sum(times), [work.after[g] for g in groups]
    if any(not p.roof_s for p in places) or total <= 0:
        raise UsageError(f"--fuse {chain.label}: the work of one of them is not known, so nor is what is saved")
    spared = _spared(chain, names, groups, work)
    fixed = min(base.ceilings.launch_s or FIXED_S, total / len(groups))
    moving = total - len(groups) * fixed
    if base.on_device:
        left = moving * _roof_s(places, spared) / sum(p.roof_s or 0.0 for p in places)
    else:
        left = max(moving - _traffic_s(places, spared, [t - fixed for t in times]), 0.0)
    reads = sum(_read_s(p, s.read, t) for p, s, t in zip(places, spared, times, strict=True))
    value, high, low = (fixed + left) / total, 1 - reads / total, left / total
    return Factor(value, max(min(low, value), 0.0), max(high, value), "fused")


@dataclass(frozen=True)
class Spared:
    """Bytes that a call in a chain no longer reads, and no longer writes."""

    read: float
    written: float

    @property
    def all(self) -> float:
        return self.read + self.written


def _roof_s(places: Sequence[Placement], spared: Sequence[Spared]) -> float:
    """The roof of all as one, where arithmetic hides memory traffic."""
    computing = sum(p.compute_s or 0.0 for p in places)
    moving = sum(p.memory_s or 0.0 for p in places)
    moving -= sum(s.all / p.peak_bytes_per_s for p, s in zip(places, spared, strict=True) if p.peak_bytes_per_s)
    return max(computing, moving, 0.0)


def _traffic_s(places: Sequence[Placement], spared: Sequence[Spared], times: Sequence[float]) -> float:
    """What a chain takes less on a CPU without moving so much; none saves more than its time beyond its arithmetic.

    A byte takes what it takes in that operator of the chain that moves its own fastest: what others take longer is
    arithmetic, as that of `exp`, and stays. Calls that move little, or that arithmetic bounds, do not tell.
    """
    beyond = [max(t - (p.compute_s or 0.0), 0.0) for p, t in zip(places, times, strict=True)]
    most = max(p.bytes or 0.0 for p in places)
    telling = [p.side == "memory" and (p.bytes or 0.0) >= most / 2 > 0 for p in places]
    paces = [t / p.bytes for p, t, tells in zip(places, beyond, telling, strict=True) if tells and p.bytes]
    if not paces:
        paces = [1 / p.peak_bytes_per_s for p in places if p.peak_bytes_per_s]
    return sum(min(s.all * min(paces, default=0.0), t) for s, t in zip(spared, beyond, strict=True))


def _read_s(place: Placement, size: float, time_s: float) -> float:
    """What a call no longer takes without reading so much; nothing where arithmetic bounds it."""
    if place.side == "compute" or not place.bytes:
        return 0.0
    return time_s * min(size / place.bytes, 1.0)


def _spared(chain: Chain, names: Sequence[str], groups: Sequence[int], work: Work) -> list[Spared]:
    """What each call of a chain no longer moves: its result, unless it is the last, and results of those before it."""
    found, results = list[Spared](), list[float]()
    for n, group in enumerate(groups):
        read = 0.0
        if n:
            handed = _handed_over(chain, names[n - 1 : n + 1], groups[n - 1 : n + 1], work)
            read = max(handed, _of_results(_sizes(work.signatures[group]), results))
            found[-1] = Spared(found[-1].read, max(handed, found[-1].written))
        results.append(_written(work, group))
        found.append(Spared(read, results[-1] if n + 1 < len(groups) else 0.0))
    return found


def _of_results(taken: Sequence[float], results: Sequence[float]) -> float:
    """Bytes of arguments that are as large as results of earlier calls, each of which is one argument at the most."""
    left, found = list(results), 0.0
    for size in taken:
        same = next((one for one in left if size and abs(one - size) <= 1e-9 * size), None)
        if same is not None:
            left.remove(same)
            found += size
    return found


def _handed_over(chain: Chain, names: Sequence[str], groups: Sequence[int], work: Work) -> float:
    """Bytes that the first of two hands to the second. Raises UsageError where sizes do not tell."""
    written = _written(work, groups[0])
    fitting = [size for size in _sizes(work.signatures[groups[1]]) if 0 < size <= written * (1 + 1e-9)]
    if not fitting:
        raise UsageError(
            f"--fuse {chain.label}: by its sizes {names[1]} reads nothing that {names[0]} before it writes; choose"
            " operators that hand a tensor on, by their index in `probe analyze`"
        )
    return max(fitting)


def _written(work: Work, group: int) -> float:
    """Bytes of a call's result: what it moves beyond its arguments, else the last of them, as with `out=`."""
    given = _sizes(work.signatures[group])
    written = (work.costs[group].bytes or 0.0) - sum(given)
    return written if written > 0 or not given else given[-1]


def _sizes(signature: Signature | None) -> list[float]:
    try:
        return [float(t.bytes) for t in Call("", signature).tensors()] if signature is not None else []
    except UndeterminedError:
        return []


def _working(base: Base) -> Mask:
    """Host operators that do work themselves and lie in none that does, [host operators]."""
    does = np.array([c.kind not in IDLE and not (c.flops == 0 and c.bytes == 0) for c in base.costs], bool)
    own = does[base.groups.of_op]
    inside = np.zeros(len(own), bool)
    for row, parent in enumerate(base.trace.host_ops.parent.tolist()):
        inside[row] = parent >= 0 and (inside[parent] or own[parent])
    return own & ~inside
