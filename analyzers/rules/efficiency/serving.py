"""F29, F30: inference that copies its cache to grow it, or computes logits that nothing reads."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
import numpy.typing as npt

from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.fusion.attention_flow import scalar
from probe.analyzers.rules.fusion.attention_site import element_of
from probe.analyzers.rules.matching.flow import Flow, tensor_sizes
from probe.analyzers.rules.matching.ledger import usual_s
from probe.analyzers.rules.matching.repeats import replaced_as_recorded_s
from probe.analyzers.rules.matching.units import Unit
from probe.analyzers.rules.rule import Example, Rule
from probe.trace import Dims, Signature
from probe.units import format_bytes, format_time

GROWTH = 8  # tokens by which a cache may grow at once
READS_LAST = frozenset({"slice", "select", "narrow"})
LAST_REACH = 200  # operators behind a product within which its last position is taken
Rows = npt.NDArray[np.intp]
CASTS = frozenset({"to_copy", "copy", "clone", "to"})
PASSES = {True: 2, False: 3}  # of a copy, on a device and on a CPU, which reads what it is about to write as well
LOGITS_REACH = 24  # units after the product within which something may read all its rows


@dataclass(frozen=True)
class _Append:
    """One cat of what is kept with what is new, along one dimension."""

    row: int
    rest: tuple[int, ...]  # sizes but for the dimension that grows
    dim: int
    kept: int
    new: int
    itemsize: int


def growing_cache(context: Context) -> Iterator[Match]:
    """F29: a tensor that grows by a few tokens from call to call and is copied whole each time."""
    kinds: dict[tuple[object, ...], list[_Append]] = defaultdict(list)
    for unit in context.free_units(lambda unit: unit.name == "cat"):
        found = _append(unit)
        if found is not None:
            kinds[tuple(sorted(found.rest)), found.new].append(found)  # keys may be stored transposed
    for same in kinds.values():
        if _grows(context, same):
            yield _cache(context, same)


def _append(unit: Unit) -> _Append | None:
    """What a cat appends; None where it is no cache that grows by a few tokens."""
    sizes = tensor_sizes(unit)
    if len(sizes) < 2 or any(len(s) != len(sizes[0]) or not all(isinstance(n, int) for n in s) for s in sizes):
        return None
    first, last = sizes[0], sizes[-1]
    if len(first) < 3:
        return None
    dim = _dim(unit, sizes)
    if dim is None or any(_without(s, dim) != _without(first, dim) for s in sizes):
        return None
    kept, new = sum(s[dim] for s in sizes[:-1]), last[dim]
    if not 0 < new <= GROWTH or kept <= new:
        return None
    return _Append(unit.row, _without(first, dim), dim, kept, new, 4)


def _dim(unit: Unit, sizes: Sequence[Dims]) -> int | None:
    """The dimension that a cat joins: as recorded, else the only one in which the sizes differ."""
    text = scalar(unit, 1)
    if text is not None and text.lstrip("-").isdigit():
        return int(text) % len(sizes[0])
    differ = [at for at, (a, b) in enumerate(zip(sizes[0], sizes[-1], strict=True)) if a != b]
    return differ[0] if len(differ) == 1 else None


def _without(size: Dims, dim: int) -> tuple[int, ...]:
    return (*size[:dim], *size[dim + 1 :])


def _grows(context: Context, same: list[_Append]) -> bool:
    """Whether what one call makes is what a later one extends: for keys and values, or in the next step.

    A network that joins ever more channels has each length once in a step, and the same lengths in all of them.
    """
    later: set[int] = set()
    chained = False
    for append in reversed(same):
        chained = chained or append.kept + append.new in later
        later.add(append.kept)
    return chained and (_is_pair(context, same) or _moves_on(context, same))


def _is_pair(context: Context, same: list[_Append]) -> bool:
    """Whether each length is there twice a step or more, as those of keys and values are."""
    counts = Counter((int(context.groups.step_of_op[append.row]), append.kept) for append in same)
    return min(counts.values()) >= 2


def _moves_on(context: Context, same: list[_Append]) -> bool:
    """Whether most of three steps or more extend what the one before made, and nothing that is as long as it was."""
    lengths: dict[int, set[int]] = defaultdict(set)
    for append in same:
        lengths[int(context.groups.step_of_op[append.row])].add(append.kept)
    pairs = list(pairwise(lengths[step] for step in sorted(lengths)))
    moved = [not before & after and any(n + same[0].new in after for n in before) for before, after in pairs]
    return len(pairs) > 1 and 2 * sum(moved) > len(pairs)


def _cache(context: Context, same: list[_Append]) -> Match:
    rows = [a.row for a in same]
    spent_s = usual_s(context, rows)
    longest = max(same, key=lambda a: a.kept)
    new_s = context.roof_s(sum(2 * prod(a.rest) * a.new * a.itemsize for a in same) / len(context.steps)) or 0.0
    read_s = spent_s / PASSES[context.trace.on_device]
    size = [*longest.rest[: longest.dim], longest.kept, *longest.rest[longest.dim :]]
    calls, pair = times(len(same) / len(context.steps)), _is_pair(context, same)
    told = "caches of keys and values grow" if pair else "what is kept grows"
    return Match(
        rows=tuple(rows),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in rows})),
        key="x".join(map(str, longest.rest)),
        summary=(
            f"{told} by cat, {calls}: all that is kept, up to {size}, is copied for "
            f"{longest.new} new token{'s' * (longest.new > 1)}, which takes {format_time(spent_s)}"
        ),
        evidence=(
            f"cat along dimension {longest.dim}, lengths {min(a.kept for a in same)} to {longest.kept}, "
            f"{longest.new} more each time",
            f"what reads {'them' if pair else 'it'} then reads from memory itself, not what was just copied: about "
            f"{format_time(read_s)} stay",
        ),
        saving_s=max(spent_s - read_s - replaced_as_recorded_s(context, new_s), 0.0),
        where=f"cat, {calls}",
        replacement="a cache of full length, written in place",
        how=f"cache[{':, ' * longest.dim}at : at + {longest.new}] = new  # cache allocated once, at its full length",
    )  # fmt: skip


@dataclass(frozen=True)
class _Logits:
    """One product for all positions of which the last is read."""

    unit: Unit
    casts: tuple[Unit, ...]  # of its whole result
    positions: int
    rows: int
    weight: tuple[int, ...]


def unused_logits(context: Context) -> Iterator[Match]:
    """F30: a product for all positions of which only the last is read; one match per weight."""
    sites: dict[tuple[int, ...], list[_Logits]] = defaultdict(list)
    readers = _readers(context)
    for flow in context.flows if len(readers) else ():
        for index, unit in enumerate(flow.units):
            if unit.name in ("mm", "addmm") and unit.row not in context.claimed:
                found = _positions(context, flow, index, readers)
                if found is not None:
                    sites[found.weight].append(found)
    for same in sites.values():
        yield _logits(context, same)


def _readers(context: Context) -> Rows:
    """The operators that take the last of several positions: few, and most products have none near."""
    ops, trace = context.trace.host_ops, context.trace
    reading = trace.named(lambda name: name.removeprefix("aten::") in READS_LAST)
    rows = np.flatnonzero(reading[ops.name] & (ops.signature >= 0))
    known = np.unique(ops.signature[rows]).tolist()
    lasts = [at for at in known if _last_position(trace.signatures[at]) is not None]
    return rows[np.isin(ops.signature[rows], lasts)]


def _last_position(signature: Signature) -> int | None:
    """The number of positions of which a slice or select takes the last; None for others."""
    size = signature.dims[0] if signature.dims else ()
    length = size[len(size) - 2] if len(size) in (2, 3) else 0
    if not isinstance(length, int) or length <= 1 or not _takes_last(signature.scalars, len(size), length):
        return None
    return length


def _positions(context: Context, flow: Flow, index: int, readers: Rows) -> _Logits | None:
    """The product, where only the last position of its result is read; else None."""
    unit = flow.units[index]
    factors = unit.dims[1:3] if unit.name == "addmm" else unit.dims[:2]
    if len(factors) < 2 or any(len(f) != 2 for f in factors) or factors[1][1] < factors[1][0]:
        return None
    rows, vocabulary = factors[0][0], factors[1][1]
    length = _last_of(context, unit, rows, vocabulary, readers)
    if length is None or context.backward_rows([unit.row]):
        return None
    casts = _only_casts(flow, index, rows * vocabulary)
    return None if casts is None else _Logits(unit, casts, length, rows, factors[1])


def _last_of(context: Context, unit: Unit, rows: int, vocabulary: int, readers: Rows) -> int | None:
    """The number of positions of which the next slice takes the last; None where there is no such slice."""
    ops, trace = context.trace.host_ops, context.trace
    near = readers[np.searchsorted(readers, unit.row + 1) : np.searchsorted(readers, unit.row + LAST_REACH)]
    for row in near.tolist():
        signature = trace.signatures[ops.signature[row]]
        size = signature.dims[0]
        if ops.thread[row] == ops.thread[unit.row] and size[-1:] == (vocabulary,) and prod(size) == rows * vocabulary:
            return _last_position(signature)
    return None


def _takes_last(scalars: tuple[str, ...], dimensions: int, length: int) -> bool:
    """Whether a slice or select takes the last of the positions."""
    numbers = [int(s) if s.lstrip("-").isdigit() else None for s in (*scalars, "", "", "", "")]
    if numbers[1] is None or numbers[1] % dimensions != dimensions - 2:
        return False
    return numbers[2] in (-1, length - 1)


def _only_casts(flow: Flow, index: int, elements: int) -> tuple[Unit, ...] | None:
    """The casts and additions that read the whole product; None where something else does."""
    casts: list[Unit] = []
    exact = {index}
    for later in range(
        index + 1, min(len(flow.units), index + 1 + (len(flow.units) if flow.tier != "order" else LOGITS_REACH))
    ):
        whole = [a for a in flow.arguments[later] if prod(a.size) == elements]
        if flow.tier != "order":
            whole = [a for a in whole if exact.intersection(a.makers)]
        if not whole:
            continue
        if flow.units[later].name not in CASTS | {"add", "mul", "div", "tanh"}:
            return None
        exact.add(later)
        casts.append(flow.units[later])
    return tuple(casts)


def _logits(context: Context, same: list[_Logits]) -> Match:
    casts = {cast.row for one in same for cast in one.casts} - context.claimed
    rows = [one.unit.row for one in same]
    largest = max(same, key=lambda one: one.rows)
    vocabulary, element = largest.weight[1], element_of(largest.unit)
    spent_s = context.seconds([*rows, *casts])
    saved_s = sum(context.seconds(_rows_of(one, casts)) * (one.positions - 1) / one.positions for one in same)
    calls = times(len(same) / len(context.steps))
    return Match(
        rows=(*rows, *sorted(casts)),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in rows})),
        key="x".join(map(str, largest.weight)),
        summary=(
            f"{vocabulary:,} logits are computed for all positions, up to {largest.positions}, {calls}, and only the "
            f"last position is read: {format_time(saved_s)} of {format_time(spent_s)} are for nothing"
        ),
        evidence=(
            f"{largest.unit.name} of {largest.rows} rows and {list(largest.weight)}, then a slice of the last position",
            *((f"they take up to {format_bytes(largest.rows * vocabulary * element.itemsize)}",) if element else ()),
        ),
        saving_s=saved_s,
        saving_bytes=_unread(largest) * vocabulary * element.itemsize if element else None,
        where=f"{largest.unit.name}, {calls}",
        replacement="the last position's logits only",
        how="logits = lm_head(hidden[:, -1:])  # slice before the product",
    )


def _rows_of(one: _Logits, casts: Collection[int]) -> list[int]:
    return [one.unit.row, *(cast.row for cast in one.casts if cast.row in casts)]


def _unread(one: _Logits) -> int:
    """Rows of logits that nothing reads."""
    return one.rows - one.rows // one.positions


RULES = (
    Rule(
        "F29", "growing-cache", "a cache that is copied to grow", growing_cache,
        trigger="cat of a long tensor and a few tokens whose result the next step extends",
        advice="allocate the cache at its full length and write the new tokens in place",
        saving="the time of the cats less writing what is new, and less the pass that reads what is kept: its reader "
        "finds it in the processor's caches after a copy, and reads it from memory without",
        cannot_show="whether the full length is known beforehand (else grow in blocks)",
        proof="module", effort="function", needs=("shapes",),
        example=Example("k = torch.cat([past_k, k], dim=2)", "past_k[:, :, at : at + 1] = k  # allocated once"),
    ),
    Rule(
        "F30", "unused-logits", "logits for all positions where only the last is read", unused_logits,
        trigger="a product with a vocabulary for T positions, of whose result only a slice of the last is read",
        advice="take the last position before the product",
        saving="(T − 1) / T of the product and of what casts it",
        cannot_show="readers outside the recorded steps",
        proof="replay", effort="line", needs=("shapes",),
        example=Example("logits = lm_head(hidden)[:, -1]", "logits = lm_head(hidden[:, -1])"),
    ),
)  # fmt: skip
