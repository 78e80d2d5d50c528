"""Where do operators compute softmax(Q · Kᵀ) · V one by one?

From each softmax, one operator or spelled out, the makers of its argument are followed back to a matrix product and its
readers forward to another: only scaling, masking, casts, dropout and copies may stand between. Where makers are only
inferred from sizes, nothing else may even run between the two products.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import prod
from typing import NamedTuple

from probe.analyzers.rules.context import Context
from probe.analyzers.rules.matching.flow import Flow, Tier
from probe.analyzers.rules.matching.patterns import Pattern, op, through, value
from probe.analyzers.rules.matching.search import matches
from probe.analyzers.rules.matching.units import Unit
from probe.trace import Mask

PRODUCTS = frozenset({"bmm", "baddbmm", "mm"})
SOFTMAX = frozenset({"_softmax", "_safe_softmax"})
COPIES = "to_copy copy clone contiguous to"
# What may stand between the first product and the softmax, …
BEFORE = frozenset(f"div mul add sub rsub masked_fill where neg clamp clamp_min tanh {COPIES}".split())
# … between the softmax and the second product, …
AFTER = frozenset(f"dropout native_dropout mul div masked_fill where {COPIES}".split())
# … and beside them, making masks or the parts of a softmax.
BESIDE = frozenset(
    "amax max exp sum bernoulli tril triu le lt ge gt eq ne logical_not bitwise_not bitwise_and fill zero arange "
    "logsumexp reciprocal _log_softmax".split()
)
BETWEEN = BEFORE | AFTER | BESIDE | SOFTMAX
REACH = 24  # units between the two products; the longest real spelling seen has 16

# A softmax spelled out: exponentials, masked or not, over their sum, or through the logarithm of the sum.
_EXP = op("exp", name="enter")
_MASKED = op("mul masked_fill", _EXP, name="masked") | op("where", value(), _EXP, name="masked")


def _sum(weights: Pattern) -> Pattern:
    return through("add clamp clamp_min", op("sum", weights, test=lambda unit: _over_the_last(unit), name="sum"), 1)


def _over_sum(weights: Pattern) -> Pattern:
    return op("div", weights, _sum(weights)) | op("mul", weights, op("reciprocal", _sum(weights)))


def _divided_last(weights: Pattern) -> Pattern:
    """The same, divided only once the values were weighted."""
    return op("div", op("bmm mm", weights, name="weighted"), _sum(weights), name="divided")


BY_HAND = (
    _over_sum(_EXP)
    | _over_sum(_MASKED)
    | op("exp", op("sub", value("scores"), op("logsumexp", value("scores"), name="enter")))
    | op("exp", op("_log_softmax", name="enter"))
)
DIVIDED_LAST = _divided_last(_EXP) | _divided_last(_MASKED)
Readers = Mapping[int, list[int]]
FUSED = frozenset({"aten::_native_multi_head_attention", "aten::_transformer_encoder_layer_fwd"})  # torch's own


@dataclass(frozen=True)
class Written:
    """One attention written out: its units, and who made what they read."""

    flow: Flow
    first: int  # index of Q · Kᵀ among the units of the flow
    softmax: int  # the softmax, or the first operator of one spelled out
    last: int  # weights · V
    path: tuple[int, ...]  # what the scores go through, in order
    beside: tuple[int, ...]  # what else belongs to it, making masks or sums
    swapped: bool  # the weights are the right operand: Vᵀ · weightsᵀ

    @property
    def tier(self) -> Tier:
        """How it is known."""
        return self.flow.tier_of((*self.path, *self.beside, self.first, self.last))

    def unit(self, index: int) -> Unit:
        """The unit of that index."""
        return self.flow.units[index]

    @cached_property
    def weighed(self) -> int:
        """Where the weights are as they will be but for their sum: masks come before."""
        spelled = (i for i in self.path if i > self.softmax and self.unit(i).name in ("sum", "div"))
        return next(spelled, self.path[-1]) if self.unit(self.softmax).name == "exp" else self.softmax

    @cached_property
    def between(self) -> tuple[Unit, ...]:
        """All units between the two products that belong to it, in order of time."""
        return tuple(self.unit(i) for i in sorted({*self.path, *self.beside}) if i not in (self.first, self.last))


def attentions(context: Context) -> Iterator[Written]:
    """Every attention written out, in order of time, without units that are claimed; steps alike are read once."""
    backward = context.under_engine
    for flow in context.flows:
        for written in flow.shared("attentions", partial(_in_flow, flow, backward)):
            here = replace(written, flow=flow)
            rows = [here.unit(here.first).row, here.unit(here.last).row]
            if not context.claimed.intersection(rows) and not any(_is_part(context, row) for row in rows):
                yield here


def _is_part(context: Context, row: int) -> bool:
    """Whether the operator is a part of torch's own attention, or of a linear layer: its second factor is a weight."""
    return any(name in FUSED or name == "aten::linear" for name in callers(context, row))


def callers(context: Context, row: int) -> Iterator[str]:
    """Names of the operators that called the one in `row`, the nearest first."""
    ops = context.trace.host_ops
    above = int(ops.parent[row])
    while above >= 0:
        yield context.trace.names[ops.name[above]]
        above = int(ops.parent[above])


def _in_flow(flow: Flow, backward: Mask) -> tuple[Written, ...]:
    if not any(unit.name in PRODUCTS for unit in flow.units):
        return ()
    readers = flow.readers_of
    used: set[int] = set()
    whole = []
    for softmax in sorted(_softmaxes(flow, backward)):
        found = _around(flow, readers, softmax)
        if found is not None and not used.intersection((found.first, found.last)):
            used.update((found.first, found.last))
            whole.append(found)
    return tuple(whole)


class _Softmax(NamedTuple):
    """The index of the unit that reads the scores, of the one whose weights leave, and of all its units."""

    entry: int
    leaving: int
    inside: tuple[int, ...]
    after: tuple[int, ...] = ()  # units that divide the weighted values by the sums


def _softmaxes(flow: Flow, backward: Mask) -> Iterator[_Softmax]:
    for index, unit in enumerate(flow.units):
        if unit.name in SOFTMAX and not backward[unit.row]:
            yield _Softmax(index, index, (index,))
    at = flow.index_of
    for place in matches(flow, BY_HAND, backward):
        inside = tuple(at[unit.row] for unit in place.units)
        yield _Softmax(at[place.named["enter"].row], inside[-1], inside)
    for place in matches(flow, DIVIDED_LAST, backward):
        product = at[place.named["weighted"].row]
        inside = tuple(at[unit.row] for unit in place.units)
        weights = tuple(i for i in inside if i < product and flow.units[i].name != "sum")
        yield _Softmax(at[place.named["enter"].row], weights[-1], weights, tuple(set(inside) - {*weights, product}))


def _around(flow: Flow, readers: Readers, softmax: _Softmax) -> Written | None:
    """The attention around a softmax; None where the softmax is that of something else."""
    entry, leaving, inside, after = softmax
    back = _back(flow, entry)
    scores = product_size(flow.units[back[-1]]) if back else None
    if scores is None or not _over_keys(flow.units[entry], scores):
        return None
    onward = _onward(flow, readers, leaving, scores)
    if not onward:
        return None
    first, last = back[-1], onward[-1]
    if flow.tier == "order":  # sizes allow short cuts; whatever works on the scores is on their way
        back = [*_on_scores(flow, range(first + 1, entry), BEFORE, prod(scores))[::-1], first]
        onward = [*_on_scores(flow, range(leaving + 1, last), AFTER, prod(scores)), last]
    path = (*back[::-1], *inside, *onward)
    if not _alone(flow, readers, path, entry) or (len(scores) == 2 and not _is_of_two(flow, first, last, scores)):
        return None
    beside = tuple(sorted({*_beside(flow, readers, path), *after}))
    return Written(flow, first, entry, last, path, beside, side(flow.units[last], scores) == 1)


def _back(flow: Flow, entry: int) -> list[int]:
    """The way from the softmax, without it, back to the product that made the scores; empty where there is none."""
    elements = flow.units[entry].numel

    def made_by(index: int) -> Iterator[int]:
        return (m for a in flow.arguments[index] if prod(a.size) == elements for m in a.makers if m < index)

    def is_product(index: int) -> bool:
        return prod(product_size(flow.units[index]) or (0,)) == elements

    def passes(index: int) -> bool:
        return flow.units[index].name in BEFORE and flow.units[index].numel == elements

    return _way(entry, made_by, is_product, passes)


def _onward(flow: Flow, readers: Readers, leaving: int, scores: tuple[int, ...]) -> list[int]:
    """The way from the softmax, without it, to the product with the values; empty where there is none."""
    elements = prod(scores)

    def read_by(index: int) -> Iterator[int]:
        return (r for r in readers.get(index, ()) if r > index)

    def is_product(index: int) -> bool:
        return side(flow.units[index], scores) is not None

    def passes(index: int) -> bool:
        return flow.units[index].name in AFTER and flow.units[index].numel == elements

    return _way(leaving, read_by, is_product, passes)


def _on_scores(flow: Flow, indices: Iterable[int], names: Collection[str], elements: int) -> list[int]:
    """The named units among some that work on as many elements as there are scores."""
    return [i for i in indices if flow.units[i].name in names and flow.units[i].numel == elements]


def _way(
    start: int, next_to: Callable[[int], Iterable[int]], ends: Callable[[int], bool], passes: Callable[[int], bool]
) -> list[int]:
    """The shortest way from `start`, without it, to where it ends; empty where none does within reach."""
    came_from = {start: start}
    waiting = deque([start])
    while waiting:
        here = waiting.popleft()
        for index in next_to(here):
            if index in came_from or abs(index - start) > REACH:
                continue
            came_from[index] = here
            if ends(index):
                return _retraced(came_from, start, index)
            if passes(index):
                waiting.append(index)
    return []


def _retraced(came_from: Mapping[int, int], start: int, end: int) -> list[int]:
    way = [end]
    while came_from[way[-1]] != start:
        way.append(came_from[way[-1]])
    return way[::-1]


def _alone(flow: Flow, readers: Readers, path: Collection[int], entry: int) -> bool:
    """Whether nothing else takes part: where only sizes are known nothing else may run between the products.

    Where it is known who reads what, the scores may have no second softmax or product. The weights may: a module that
    returns them can be told not to.
    """
    if flow.tier == "order":
        first, last = min(path), max(path)
        others = [i for i in range(first + 1, last) if flow.units[i].name not in BETWEEN]
        return not others or (len(others) == 1 and others[0] > entry and _makes_values(flow, others[0], last))
    return not any(
        flow.units[reader].name in SOFTMAX | PRODUCTS and reader not in path
        for index in path
        if index < entry
        for reader in readers.get(index, ())
    )


def _makes_values(flow: Flow, index: int, last: int) -> bool:
    """Whether a unit may be the projection that makes the values, computed only after the weights."""
    unit, both = flow.units[index], factors(flow.units[last])
    made = product_size(unit) or (unit.dims[0] if unit.name == "convolution" else ())
    return bool(made) and both is not None and prod(made) in (prod(both[0]), prod(both[1]))


def _beside(flow: Flow, readers: Readers, path: Collection[int]) -> tuple[int, ...]:
    """The units between the two products that serve the path: the sums it reads and the masks made there."""
    first, last = min(path), max(path)
    within = [i for i in range(first + 1, last) if i not in path and flow.units[i].name in BETWEEN]
    if flow.tier == "order":
        return tuple(within)
    found: set[int] = set()
    for index in reversed(within):
        if any(r in found or r in path for r in readers.get(index, ())):
            found.add(index)
    return tuple(sorted(found))


def _over_keys(unit: Unit, scores: tuple[int, ...]) -> bool:
    """Whether a softmax runs over the dimension of the keys; taken for granted where it was not recorded.

    Views may stand between: [batch, T, S, heads] over its last but one is the same.
    """
    dim = over(unit)
    if dim is None:
        return unit.size[-1:] == scores[-1:]
    if dim == len(unit.size) - 1:
        return unit.size[-1] == scores[-1]
    return unit.size[-1] != scores[-1] and 0 < dim < len(unit.size) and unit.size[dim - 1 : dim + 1] == scores[-2:]


def over(unit: Unit) -> int | None:
    """The dimension that a softmax or a sum runs over, from 0; None where it was not recorded."""
    text = (scalar(unit, 1) or "").strip("[]")
    return int(text) % max(len(unit.size), 1) if text.lstrip("-").isdigit() else None


def _over_the_last(unit: Unit) -> bool:
    """Whether a sum runs over the last dimension, as far as that was recorded."""
    return over(unit) in (None, len(unit.size) - 1)


def scalar(unit: Unit, argument: int) -> str | None:
    """The recorded text of a scalar argument."""
    scalars = unit.signature.scalars if unit.signature else ()
    return scalars[argument] or None if argument < len(scalars) else None


def number(unit: Unit, argument: int) -> float | None:
    """The recorded value of a scalar argument."""
    try:
        return float(scalar(unit, argument) or "")
    except ValueError:
        return None


def factors(unit: Unit) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Sizes of the two factors of a product."""
    both = unit.dims[1:3] if unit.name == "baddbmm" else unit.dims[0:2]
    if len(both) < 2 or any(len(f) < 2 or not all(isinstance(n, int) for n in f) for f in both):
        return None
    return both[0], both[1]


def product_size(unit: Unit) -> tuple[int, ...] | None:
    """Sizes of the result of a product; None for other units."""
    both = factors(unit) if unit.name in PRODUCTS else None
    return (*both[0][:-1], both[1][-1]) if both else None


def side(unit: Unit, scores: tuple[int, ...]) -> int | None:
    """Which factor of a product the weights are: 0 as [.., T, S], 1 as [.., S, T]; None where they are neither."""
    both = factors(unit) if unit.name in PRODUCTS else None
    if both is None:
        return None
    if both[0][-2:] == scores[-2:] and prod(both[0]) == prod(scores):
        return 0
    return 1 if both[1][-2:] == scores[-2:][::-1] and prod(both[1]) == prod(scores) else None


def _is_of_two(flow: Flow, first: int, last: int, scores: tuple[int, ...]) -> bool:
    """Whether a product of matrices is one of queries and keys: a router's second factor is a weight.

    A graph knows its parameters. Else sizes tell: as many queries as keys, or keys enough, with values as wide as
    they are; or both factors must have been computed.
    """
    if flow.arguments[first][-1].origin == "parameter":
        return False
    both, weighted = factors(flow.units[first]), factors(flow.units[last])
    width = both[0][-1] if both else 0
    fits = weighted is not None and width in (weighted[0][-2], weighted[1][-1])
    if scores[0] == scores[1] or (fits and scores[-1] > 2 * width):
        return True
    computed = flow.arguments[first][1].makers and any(
        a.makers for a in flow.arguments[last] if prod(a.size) != prod(scores)
    )
    return flow.tier != "order" and bool(computed)
