"""Which unit made what another one reads? Known where tensors were recorded, inferred from sizes where they were not.

A trace alone names no tensors. Where an execution trace was recorded beside it, each argument has one maker: the last
unit before it that wrote the same storage. Otherwise every recent unit whose result has the argument's sizes may be the
maker, or, since views are no units, one whose result has as many elements; a pattern has to hold for one choice of
them. The graph of a captured module knows its edges as an execution trace does, and which tensors are parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, Literal, TypeVar

import numpy as np

from probe.analyzers.rules.matching.units import COPY, POINTWISE, REDUCTION, Unit, broadcast
from probe.tensors import Tensors, TensorUses
from probe.trace import Dims, Int64s

T = TypeVar("T")
Tier = Literal["order", "dataflow", "graph"]
TIERS: tuple[Tier, ...] = ("order", "dataflow", "graph")  # the weakest first
Value = tuple[object, ...]  # what tells two values apart, as far as the tier can

REACH = 48  # units back within which a maker is looked for by sizes: a value used later is kept, not passed on
CANDIDATES = 6  # of them, the most recent first


@dataclass(frozen=True)
class Argument:
    """One tensor argument of a unit: the units that may have made it, most recent first, and its sizes.

    origin: what a graph says it is: "parameter", "buffer", "input", or "made" in the forward pass; None: not known.
    """

    makers: tuple[int, ...]
    size: Dims
    value: Value
    origin: str | None = None


@dataclass(frozen=True, eq=False)
class Flow:
    """The units of one run (a step on a thread) with the makers of their arguments."""

    units: Sequence[Unit]
    arguments: tuple[tuple[Argument, ...], ...]  # per unit, tensor arguments only
    tier: Tier
    proven: frozenset[int] = frozenset()  # indices of the units that a graph knows too
    maker_names: dict[tuple[int, int], frozenset[str]] = field(default_factory=dict)  # kept by the patterns
    held: dict[Hashable, Any] = field(default_factory=dict)  # what `shared` keeps

    @cached_property
    def rows(self) -> Int64s:
        """The row of each unit, of Trace.host_ops."""
        return np.fromiter((unit.row for unit in self.units), np.int64, len(self.units))

    @cached_property
    def index_of(self) -> dict[int, int]:
        """The index of each unit by its row."""
        return {unit.row: index for index, unit in enumerate(self.units)}

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` says of the indices, asked once for all runs of the same calls: steps repeat."""
        if key not in self.held:
            self.held[key] = make()
        found: T = self.held[key]
        return found

    def tier_of(self, indices: Iterable[int]) -> Tier:
        """How what these units have to do with one another is known."""
        return "graph" if self.proven and self.proven.issuperset(indices) else self.tier

    def readers(self, index: int) -> list[int]:
        """The units that may read the result of unit `index`."""
        return self.readers_of.get(index, [])

    @property
    def readers_of(self) -> dict[int, list[int]]:
        """The units that may read each unit's result, by its index; none has no entry."""
        return self.shared("readers", lambda: _readers(self.arguments))


def _readers(read: Sequence[Sequence[Argument]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for index, arguments in enumerate(read):
        for maker in {m for argument in arguments for m in argument.makers}:
            found.setdefault(maker, []).append(index)
    return found


def by_sizes(run: Sequence[Unit]) -> Flow:
    """The flow as sizes allow it; tier "order"."""
    results = [result_size(unit) for unit in run]
    counts = [prod(size) if size is not None else None for size in results]
    found = []
    for index, unit in enumerate(run):
        before = range(index - 1, max(-1, index - 1 - REACH), -1)
        found.append(tuple(_guess(size, before, results, counts) for size in tensor_sizes(unit)))
    return Flow(run, tuple(found), "order")


def tensor_sizes(unit: Unit) -> list[Dims]:
    """Sizes of the tensor arguments of a unit, those in lists one by one."""
    signature = unit.signature
    if signature is None:
        return []
    sizes: list[Dims] = []
    for dims, dtype in zip(signature.dims, signature.dtypes, strict=False):
        if dims and isinstance(dims[0], tuple):
            sizes += dims
        elif dims or _is_tensor(dtype):
            sizes.append(dims)
    return sizes


def _is_tensor(dtype: str) -> bool:
    """Whether an argument without sizes is a tensor of one element: the profiler names its element type."""
    return dtype not in ("", "Scalar", "ScalarList", "None", "GenericList", "TensorList")


def _guess(size: Dims, before: range, results: list[Dims | None], counts: list[int | None]) -> Argument:
    """The makers that sizes allow: the same sizes first, then as many elements, then results of unknown size."""
    wanted = prod(size)
    exact = [i for i in before if results[i] == size]
    viewed = [i for i in before if counts[i] == wanted and results[i] != size] if wanted > 1 else []
    unknown = [i for i in before[:1] if results[i] is None]
    return Argument((*exact[:CANDIDATES], *viewed[:CANDIDATES], *unknown), size, ("size", size))


def by_tensors(run: Sequence[Unit], tensors: Tensors) -> Flow:
    """The flow that was recorded; tier "dataflow". Arguments that nothing in the run wrote have no maker."""
    uses = tensors.uses
    rows = np.array([unit.row for unit in run], np.int64)
    first, last = np.searchsorted(uses.op, rows), np.searchsorted(uses.op, rows + 1)
    written: dict[int, int] = {}
    found = []
    for index, (unit, a, b) in enumerate(zip(run, first.tolist(), last.tolist(), strict=True)):
        found.append(tuple(_known(uses, i, unit, written) for i in range(a, b) if not uses.is_output[i]))
        written |= {int(uses.storage[i]): index for i in range(a, b) if uses.is_output[i]}
    return Flow(run, tuple(found), "dataflow")


Spelling = tuple[tuple[str, tuple[Dims, ...]], ...]
Recorded = Mapping[Spelling, tuple[tuple[Argument, ...], ...]]


def spelling(run: Sequence[Unit]) -> Spelling:
    """What makes two runs the same: the operators and the sizes of their arguments, in order."""
    return tuple((unit.name, unit.dims) for unit in run)


def recorded(runs: Sequence[Sequence[Unit]], tensors: Tensors) -> Recorded:
    """The arguments of the runs in which tensors were recorded, for all other runs of the same spelling."""
    return {spelling(run): by_tensors(run, tensors).arguments for run in runs}


def _known(uses: TensorUses, row: int, unit: Unit, written: Mapping[int, int]) -> Argument:
    """The recorded argument in `row` of the uses, made by the last unit that wrote its storage."""
    storage, at, item = int(uses.storage[row]), int(uses.argument[row]), int(uses.item[row])
    size: Dims = unit.dims[at] if at < len(unit.dims) else ()
    if size and isinstance(size[0], tuple):
        size = size[item] if item < len(size) else ()
    makers = (written[storage],) if storage in written else ()
    return Argument(makers, size, ("storage", storage, int(uses.offset[row]), *makers))


def weakest(tiers: Iterable[Tier]) -> Tier:
    """The tier of what rests on several."""
    return min(tiers, key=TIERS.index, default="order")


def result_size(unit: Unit) -> Dims | None:
    """Sizes of a unit's result; None where its arguments do not tell."""
    sizes = [size for size in tensor_sizes(unit) if all(isinstance(n, int) for n in size)]
    if unit.name in PRODUCT_OF:
        return _product(unit.name, sizes)
    if not sizes:
        return None
    if unit.name in POINTWISE or unit.name in ("where", "masked_fill"):
        return broadcast(sizes)
    if unit.name in REDUCTION:
        return _reduced(unit, sizes[0])
    if unit.name in ("cat", "stack"):
        return _joined(unit, sizes)
    if unit.name == "convolution":
        return _convolved(unit, sizes)
    if unit.name == "embedding" and len(sizes) > 1:
        return (*sizes[1], sizes[0][-1])
    if unit.name in SAME or unit.name.endswith("_") or unit.name in {name.strip("_") for name in COPY}:
        return sizes[0]
    return None


# Products, with the place of A among the arguments.
PRODUCT_OF = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1, "mv": 0, "addmv": 1, "_scaled_mm": 0, "_int_mm": 0}
WEIGHT_OF = {"mm": 1, "bmm": 1, "addmm": 2, "baddbmm": 2, "mv": 0, "addmv": 1}  # of the factor that may be a weight
SAME = frozenset(
    "_softmax _log_softmax _safe_softmax _softmax_backward_data _log_softmax_backward_data native_dropout dropout "
    "native_dropout_backward native_layer_norm native_batch_norm native_group_norm bernoulli tril triu rms_norm "
    "cudnn_batch_norm miopen_batch_norm "
    "_fused_rms_norm cumsum cumprod sort scaled_dot_product_attention".split()
)


def _product(name: str, sizes: list[Dims]) -> Dims | None:
    """Sizes of A · B."""
    at = PRODUCT_OF[name]
    if len(sizes) < at + 2 or len(sizes[at]) < 2:
        return None
    return (*sizes[at][:-1], *sizes[at + 1][-1:]) if name not in ("mv", "addmv") else sizes[at][:-1]


def _reduced(unit: Unit, size: Dims) -> Dims | None:
    """Sizes after a reduction whose dimensions were recorded as a list, kept or not as the last truth value says."""
    scalars = unit.signature.scalars if unit.signature else ()
    listed = next((text for text in scalars if text.startswith("[") and text != "[]"), None)
    truths = [text for text in scalars if text in ("True", "False")]
    if listed is None or not truths:
        return None
    gone = {int(text) % len(size) for text in listed.strip("[]").split(",")} if size else set()
    kept = truths[-1] == "True"
    return tuple(1 if at in gone else n for at, n in enumerate(size) if kept or at not in gone)


def _convolved(unit: Unit, sizes: list[Dims]) -> Dims | None:
    """Sizes after a convolution whose stride, padding and dilation were recorded; None for a transposed one."""
    scalars = unit.signature.scalars if unit.signature else ()
    if len(scalars) < 7 or scalars[6] != "False" or len(sizes) < 2:
        return None
    x, weight = sizes[:2]
    stride, padding, dilation = ([int(n) for n in text.strip("[]").split(",") if n.strip()] for text in scalars[3:6])
    rank = len(weight) - 2
    if len(x) != len(weight) or not len(stride) == len(padding) == len(dilation) == rank:
        return None
    image = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x[2:], weight[2:], stride, padding, dilation, strict=True)
    )
    return (x[0], weight[0], *image)


def _joined(unit: Unit, sizes: list[Dims]) -> Dims | None:
    """Sizes of what is joined along a recorded dimension, or stacked along a new one."""
    scalars = unit.signature.scalars if unit.signature else ()
    if len(scalars) < 2 or not scalars[1].lstrip("-").isdigit() or len({len(size) for size in sizes}) > 1:
        return None
    rank = len(sizes[0]) + (unit.name == "stack")
    at = int(scalars[1]) % rank if rank else 0
    if unit.name == "stack":
        return (*sizes[0][:at], len(sizes), *sizes[0][at:])
    return (*sizes[0][:at], sum(size[at] for size in sizes), *sizes[0][at + 1 :])
