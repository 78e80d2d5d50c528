"""What do operators that one pass could do cost, forward and backward, and what would that one pass cost?

Eager operators rarely move bytes at a device's full rate (they allocate, and small ones mostly wait for their launch),
but they lose about the same factor, fused or not: of what they spend on moving, fusing leaves the share of the bytes
that still have to move, and never less than those bytes take at the full rate. What an operator spends on arithmetic
beyond its bytes (exp, erf, random numbers) fusing does not save; and what a forward pass of separate operators kept
for the backward pass, a fused one computes again. On a CPU freeing an array that only the next operator reads takes
time between the two, as giving its memory back does: fused, there is no such array.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from probe.analyzers.cost_models.dtypes import ELEMENT_TYPES, FLOAT32, ElementType
from probe.analyzers.operators.call_tree import under, with_callees
from probe.analyzers.rules.context import Context
from probe.analyzers.rules.matching.flow import Tier, weakest
from probe.analyzers.rules.matching.search import Match as Place
from probe.analyzers.rules.matching.units import Unit
from probe.trace import Int64s, Mask, Signature

Floats: TypeAlias = npt.NDArray[np.float64]

LEAST_FRACTION = 0.005  # of the step: places that take less altogether are not looked into
ARITHMETIC = frozenset(
    "exp exp2 log log1p log2 log10 expm1 tanh sigmoid gelu silu mish erf softplus elu sin cos tan atan "
    "native_dropout dropout bernoulli "
    "gelu_backward silu_backward mish_backward softplus_backward".split()
)
PRODUCTS_OR_ROOTS = frozenset({-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0})  # exponents that need no logarithm
MASKING = frozenset({"where", "masked_fill"})
OUTLIER = 4.0  # times the median of its group: a call that was interrupted
VIEWS_BEFORE = 8  # views that may lead up to a place: slices whose backward passes belong to it

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Account:
    """What the places of one pattern cost, per step."""

    places: tuple[Place, ...]
    rows: tuple[int, ...]  # operators that belong to it: forward, backward, and what the backward calls
    ops: tuple[int, ...]  # groups of the forward ones
    calls: float  # places per step
    seconds: float
    arithmetic_s: float  # of it, what is spent on arithmetic beyond the bytes
    again_s: float  # arithmetic of the forward pass that a fused backward pass does again
    moved_bytes: float  # by the cost models
    trained: bool
    bytes_per_s: float  # the most that memory can move

    @property
    def tier(self) -> Tier:
        """How all the places are known."""
        return weakest(place.tier for place in self.places)

    @property
    def names(self) -> tuple[str, ...]:
        """The operators of one place."""
        return tuple(unit.name for unit in self.places[0].units)

    def saving_s(self, least_bytes: float) -> float:
        """What fusing saves per step, where at least `least_bytes` have to be moved in each place."""
        least = least_bytes * self.calls
        share = min(1.0, least / self.moved_bytes) if self.moved_bytes else 1.0
        fused_s = max((self.seconds - self.arithmetic_s) * share, least / self.bytes_per_s) + self.again_s
        return max(self.seconds - self.arithmetic_s - fused_s, 0.0)


@dataclass(frozen=True, eq=False)
class Ledger:
    """The accounts of a trace."""

    context: Context

    def accounts(
        self, places: Iterable[Place], key: Callable[[Place], Key], stays: Collection[int] = ()
    ) -> list[tuple[Key, Account]]:
        """The places that cost anything to speak of, by `key`; none where the bandwidth is not known.

        stays: operators whose time fusing does not save, like that of arithmetic.
        """
        rate = self.context.machine.ceilings.dram_bytes_per_s
        groups: dict[Key, list[Place]] = defaultdict(list)
        for place in places:
            groups[key(place)].append(place)
        if not rate:
            return []
        least_s = LEAST_FRACTION * self.context.step_s
        found = ((key, self._account(tuple(same), rate, least_s, stays)) for key, same in groups.items())
        return [(key, account) for key, account in found if account is not None]

    def seconds(self, rows: Sequence[int]) -> float:
        """Time of the given operators with all they call, per step, as their usual share of a step unrecorded.

        A host deschedules: calls far longer than the usual ones of their kind are no more theirs than any other's.
        """
        counted = float(self._usual_ns[list(rows)].sum()) if rows else 0.0
        return counted / 1e9 / len(self.context.steps) * self.stretch

    @cached_property
    def stretch(self) -> float:
        """What all calls of the steps took, to what they usually take; shorter as a step is without the profiler."""
        ops = self.context.trace.host_ops
        outermost = (ops.parent < 0) & (self.context.groups.step_of_op >= 0)
        usual, spent = float(self._usual_ns[outermost].sum()), float(self.context.spent_ns[outermost].sum())
        return self.context.bare_fraction * (spent / usual if usual else 1.0)

    @cached_property
    def _usual_ns(self) -> Floats:
        """Time of each host operator with all it calls, outliers of a host cut to what is usual in their group."""
        spent = self.context.spent_ns.astype(float)
        if self.context.trace.on_device or not len(spent):
            return spent
        groups = self.context.groups.of_op
        order = np.lexsort((spent, groups))
        first = np.searchsorted(groups[order], np.arange(int(groups.max()) + 2))
        usual = spent[order][np.minimum((first[:-1] + first[1:] - 1) // 2, len(spent) - 1)]
        return np.where(spent > OUTLIER * usual[groups], usual[groups], spent)

    def _account(
        self, places: tuple[Place, ...], rate: float, least_s: float, stays: Collection[int]
    ) -> Account | None:
        """What these places cost together; None where it is less than `least_s` per step."""
        forward = [unit.row for place in places for unit in place.units]
        backward = self._backward(places)
        seconds, moved = self.seconds(forward + backward), float(self._moved[forward + backward].sum())
        seconds += self._freeing_s(places)
        if seconds < least_s:
            return None
        below, steps = self._below(backward), len(self.context.steps)
        heavy = [row for row in forward if row in stays or self._is_arithmetic[row]]
        again = self._stays_backward(below, masked=any(row in stays for row in forward))
        slowness = self._slowness([*heavy, *again], seconds, moved / steps, rate)
        once_s, back_s = self._arithmetic_s(heavy, slowness), self._arithmetic_s(again, slowness)
        return Account(
            places=places,
            rows=(*forward, *backward, *below),
            ops=tuple(sorted({int(self.context.groups.of_op[row]) for row in forward})),
            calls=len(places) / steps,
            seconds=seconds,
            arithmetic_s=once_s + back_s,
            again_s=max(once_s - back_s, 0.0) if backward else 0.0,
            moved_bytes=moved / steps,
            trained=bool(backward),
            bytes_per_s=rate,
        )

    def _freeing_s(self, places: Iterable[Place]) -> float:
        """Host time between a unit and the next where that is of the same place, each at most as long as the unit.

        It is Python's, too, but beside large arrays most of it is returning memory to the system.
        """
        if self.context.trace.on_device:
            return 0.0
        pairs = [(a.row, b.row) for place in places for a, b in pairwise(place.units)]
        tops = self.outermost[np.array(pairs, np.int64).reshape(-1, 2)]
        tops = tops[(self._next[tops[:, 0]] == tops[:, 1]) & (tops[:, 0] != tops[:, 1])]
        ops = self.context.trace.host_ops
        between = np.maximum(ops.start_ns[tops[:, 1]] - ops.end_ns[tops[:, 0]], 0)
        freeing_ns = float(np.minimum(between, self._usual_ns[tops[:, 0]]).sum())
        return freeing_ns / 1e9 / len(self.context.steps) * self.context.bare_fraction

    @cached_property
    def outermost(self) -> Int64s:
        """The outermost caller of each host operator, itself where nothing calls it; [ops]."""
        parent = self.context.trace.host_ops.parent
        found = np.arange(len(parent))
        while len(found) and (parent[found] >= 0).any():
            found = np.where(parent[found] >= 0, parent[found], found)
        return found

    @cached_property
    def _next(self) -> Int64s:
        """For each host operator that nothing calls the next such one of its thread; -1 for the others, [ops]."""
        ops = self.context.trace.host_ops
        tops = np.flatnonzero(ops.parent < 0)
        tops = tops[np.lexsort((ops.start_ns[tops], ops.thread[tops]))]
        found = np.full(len(ops), -1, np.int64)
        same = ops.thread[tops[1:]] == ops.thread[tops[:-1]]
        found[tops[:-1][same]] = tops[1:][same]
        return found

    def _stays_backward(self, below: Sequence[int], *, masked: bool) -> list[int]:
        """The operators of much arithmetic that backward ones call; where masks come from memory, masking as well."""
        return [row for row in below if self._is_arithmetic[row] or (masked and self._is_masking[row])]

    def _slowness(self, heavy: Sequence[int], seconds: float, moved: float, rate: float) -> float:
        """Seconds a byte that operators of little arithmetic take here, the full rate's at the least."""
        light_bytes = moved - float(self._moved[list(heavy)].sum()) / len(self.context.steps)
        return max((seconds - self.seconds(heavy)) / light_bytes, 1 / rate) if light_bytes > 0 else 1 / rate

    def _arithmetic_s(self, heavy: Sequence[int], slowness: float) -> float:
        """Time of operators of much arithmetic beyond what moving their bytes takes the other operators here."""
        heavy_bytes = float(self._moved[list(heavy)].sum()) / len(self.context.steps)
        return max(self.seconds(heavy) - heavy_bytes * slowness, 0.0)

    def _backward(self, places: Iterable[Place]) -> list[int]:
        """Backward operators of the places and of the views in them."""
        sequences = {number for place in places for number in self._numbers(place)}
        sequences.update(*(self._views_in(place) for place in places))
        return [row for sequence in sorted(sequences) for row in self.context.backward_of.get(sequence, [])]

    def _views_in(self, place: Place) -> set[int]:
        """Sequence numbers of the views between the units of a place and directly before them."""
        numbers = self._numbers(place)
        if not numbers:
            return set()
        first = min(numbers)
        while first - 1 in self._view_sequences and min(numbers) - first < VIEWS_BEFORE:
            first -= 1
        return self._view_sequences.intersection(range(first, max(numbers)))

    def _numbers(self, place: Place) -> list[int]:
        """Sequence numbers of the units of a place whose results have a backward operator."""
        rows = [unit.row for unit in place.units if self.context.differentiated[unit.row]]
        found: list[int] = self.context.trace.host_ops.sequence[rows].tolist()
        return found

    @cached_property
    def _view_sequences(self) -> set[int]:
        """Sequence numbers that only views have."""
        ops, kinds = self.context.trace.host_ops, [cost.kind == "view" for cost in self.context.costs]
        is_view = np.array(kinds, bool)[self.context.groups.of_op] if kinds else np.zeros(0, bool)
        forward = (ops.sequence >= 0) & (ops.forward_thread <= 0)
        units = ops.sequence[self.context.unit_rows]
        return set(np.setdiff1d(ops.sequence[forward & is_view], units).tolist())

    def _below(self, rows: list[int]) -> list[int]:
        """All that the given operators call."""
        marked = np.zeros(len(self.context.trace.host_ops), bool)
        marked[rows] = True
        found: list[int] = np.flatnonzero(under(self.context.trace.host_ops.parent, marked)).tolist() if rows else []
        return found

    @cached_property
    def _moved(self) -> Int64s:
        """Bytes of each host operator with all that it calls, by the cost models; 0 where they know none."""
        own = np.array([cost.bytes or 0.0 for cost in self.context.costs] or [0.0]).astype(np.int64)
        return with_callees(self.context.trace.host_ops.parent, own[self.context.groups.of_op])

    @cached_property
    def _is_arithmetic(self) -> Mask:
        """Which operators do much arithmetic on each element, [ops]."""
        trace, powers = self.context.trace, self._named(frozenset({"pow"}))
        needs_logarithm = np.array([_needs_logarithm(s) for s in (*trace.signatures, None)], bool)
        found: Mask = self._named(ARITHMETIC) | (powers & needs_logarithm[trace.host_ops.signature])
        return found

    @cached_property
    def _is_masking(self) -> Mask:
        """Which operators read a mask, [ops], those that another one of them calls apart."""
        masking, parent = self._named(MASKING), self.context.trace.host_ops.parent
        found: Mask = masking & ~((parent >= 0) & masking[parent])
        return found

    def _named(self, names: Collection[str]) -> Mask:
        """The operators of these names, in-place forms too, [ops]."""
        trace = self.context.trace
        return trace.named(lambda name: name.removeprefix("aten::").rstrip("_") in names)[trace.host_ops.name]


def _needs_logarithm(signature: Signature | None) -> bool:
    """Whether a power with these arguments is no product and no root: its exponent is another one, or a tensor."""
    if signature is None or len(signature.scalars) < 2:
        return False
    try:
        return float(signature.scalars[1]) not in PRODUCTS_OR_ROOTS
    except ValueError:
        return True


def ledger_of(context: Context) -> Ledger:
    """The one ledger of a trace."""
    found: Ledger = context.held.setdefault("ledger", Ledger(context))
    return found


def as_recorded_s(context: Context, saving_s: float) -> float:
    """A saving of the ledger, whose times are those without the profiler, as a Match states it: in recorded time."""
    return saving_s / (context.bare_fraction or 1.0)


def usual_s(context: Context, rows: Sequence[int]) -> float:
    """Time of the given operators in recorded time per step, without what interrupted some of their calls."""
    return as_recorded_s(context, ledger_of(context).seconds(rows))


def element(unit: Unit) -> ElementType:
    """Element type of the first argument; float32 where it was not recorded."""
    dtypes = unit.signature.dtypes if unit.signature else ()
    return next((ELEMENT_TYPES[d] for d in dtypes if d in ELEMENT_TYPES), FLOAT32)


def array_bytes(unit: Unit) -> int:
    """Bytes of the largest argument of a unit."""
    return prod(unit.size) * element(unit).itemsize


def scalars(unit: Unit) -> tuple[str, ...]:
    """The recorded texts of what is not a tensor, one per argument, "" for tensors; () where not recorded."""
    return unit.signature.scalars if unit.signature else ()


def spelled(names: Sequence[str], most: int = 9) -> str:
    """Operators in words."""
    return " → ".join(names[:most]) + (" → …" if len(names) > most else "")
