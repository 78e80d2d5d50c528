"""F22: the backward pass of an embedding fills a gradient of the whole table for the few rows that were looked up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.fusion.attention_flow import scalar
from probe.analyzers.rules.fusion.attention_site import element_of
from probe.analyzers.rules.matching.flow import Flow
from probe.analyzers.rules.matching.ledger import usual_s
from probe.analyzers.rules.matching.repeats import replaced_as_recorded_s
from probe.analyzers.rules.matching.units import Unit
from probe.analyzers.rules.rule import Example, Rule
from probe.trace import Dims
from probe.units import format_bytes, format_time

BACKWARD = {
    "embedding_dense_backward": ("torch.nn.Embedding", 2),
    "_embedding_bag_dense_backward": ("torch.nn.EmbeddingBag", 5),
}  # the module, and which argument says how many rows its table has
INDEXED = "_index_put_impl_"  # the backward pass of w[ids], into a table of zeros
ACCUMULATES = 3  # which of its arguments says that rows are added up
MODE, MAX = 7, "2"  # of a bag: the largest of its rows, which has no sparse gradient
MUCH = 4  # times as many rows in the table as were looked up
NEXT = 6  # units after it in which a second gradient of the same table is added


class _Gradient(NamedTuple):
    """A dense gradient of a table: its sizes, how many rows of it were looked up, and the units that make it."""

    rows: int
    width: int
    looked_up: int
    units: tuple[Unit, ...]


def find(context: Context) -> Iterator[Match]:
    """One match per table."""
    tables: dict[tuple[str, int, int, int], list[_Gradient]] = defaultdict(list)
    for flow in context.flows:
        for index, unit in enumerate(flow.units):
            found = _gradient(flow, index) if unit.name in (*BACKWARD, INDEXED) else None
            if found is None or unit.row in context.claimed or found.rows < MUCH * found.looked_up:
                continue
            if not _shared(context, flow, index, (found.rows, found.width)):
                tables[unit.name, *found[:3]].append(found)
    for same in tables.values():
        yield _match(context, same)


def _gradient(flow: Flow, index: int) -> _Gradient | None:
    """What a unit makes of a table's gradient; None where it does nothing of the kind."""
    unit = flow.units[index]
    if unit.name == INDEXED:
        return _of_indexing(flow, index)
    if len(unit.dims) < 2 or not unit.dims[0]:
        return None
    if unit.name.startswith("_embedding_bag") and scalar(unit, MODE) == MAX:
        return None
    text = scalar(unit, BACKWARD[unit.name][1]) or ""
    return _Gradient(int(text), unit.dims[0][-1], prod(unit.dims[1]), (unit,)) if text.isdigit() else None


def _of_indexing(flow: Flow, index: int) -> _Gradient | None:
    unit, before = flow.units[index], flow.units[index - 1] if index else None
    sizes = [size for size in unit.dims if size]
    if scalar(unit, ACCUMULATES) != "True" or len(sizes) < 2 or len(sizes[0]) != 2 or sizes[0][1:] != sizes[-1][-1:]:
        return None
    if before is None or before.name != "zero" or before.size != sizes[0]:
        return None
    if sizes[0] not in flow.shared("indexed", lambda: _indexed(flow)):
        return None
    return _Gradient(*sizes[0], prod(sizes[-1][:-1]), (before, unit))


def _indexed(flow: Flow) -> frozenset[Dims]:
    """Sizes of the tensors that are indexed and that no unit of the step makes; none where that is not known."""
    outside: dict[Dims, bool] = {}
    for index, unit in enumerate(flow.units):
        if unit.name == "index" and flow.arguments[index] and flow.tier_of([index]) != "order":
            source = flow.arguments[index][0]
            outside[source.size] = outside.get(source.size, True) and not source.makers
    return frozenset(size for size, known in outside.items() if known)


def _shared(context: Context, flow: Flow, index: int, size: tuple[int, int]) -> bool:
    """Whether another gradient of the same table is added at once that is no such one: the last layer's, mostly."""
    ops, names = context.trace.host_ops, context.trace.names
    for at in range(index + 1, min(index + 1 + NEXT, len(flow.units))):
        unit = flow.units[at]
        if unit.name == "add" and unit.dims[:2] == (size, size) and context.under_engine[unit.row]:
            parent = int(ops.parent[unit.row])
            made = [flow.units[m].name for argument in flow.arguments[at] for m in argument.makers[:1]]
            sparse = len(made) > 1 and all(name in BACKWARD or name == INDEXED for name in made)
            return not sparse and (parent < 0 or "AccumulateGrad" not in names[ops.name[parent]])
    return False


def _match(context: Context, same: list[_Gradient]) -> Match:
    rows, width, looked_up, (*_, last) = same[0]
    taken = [unit.row for gradient in same for unit in gradient.units]
    element = element_of(last)
    itemsize = element.itemsize if element else 4
    spent_s = usual_s(context, taken)
    needed_s = context.roof_s(2 * looked_up * width * itemsize * len(same) / len(context.steps)) or 0.0
    calls = times(len(same) / len(context.steps))
    table = rows * width * itemsize
    module = BACKWARD[last.name][0] if last.name in BACKWARD else None
    return Match(
        rows=tuple(taken),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in taken})),
        key=f"{rows}x{width}",
        summary=(
            f"the gradient of a table of {rows:,} × {width} is written whole, {calls}, {format_bytes(table)} for "
            f"{looked_up:,} rows looked up, which takes {format_time(spent_s)}; the optimizer then reads all of it"
        ),
        evidence=(
            f"{last.name} of {looked_up:,} rows into {rows:,}",
            f"{looked_up / rows:.1%} of the table's rows have a gradient at most",
        ),
        saving_s=max(spent_s - replaced_as_recorded_s(context, needed_s), 0.0),
        saving_bytes=max(table - looked_up * width * itemsize, 0),
        where=f"{last.name}, {calls}",
        replacement="a sparse gradient",
        how=(
            f"{module}({rows}, {width}, sparse=True)  # its own torch.optim.SparseAdam, or SGD"
            if module
            else "F.embedding(ids, table, sparse=True)  # instead of table[ids]; torch.optim.SparseAdam, or SGD"
        ),
    )


RULES = (
    Rule(
        "F22", "dense-embedding-gradient", "a gradient of the whole table for a few rows", find,
        trigger="the dense backward pass of an embedding whose table has four times as many rows as were looked up",
        advice="sparse=True and an optimizer for sparse gradients",
        saving="the time of writing the dense gradient less that of the rows looked up; the optimizer's comes on top",
        cannot_show="whether the optimizer, gradient clipping or data parallelism in use takes sparse gradients",
        proof="module", effort="line", needs=("shapes",),
        example=Example("nn.Embedding(1_000_000, 64)", "nn.Embedding(1_000_000, 64, sparse=True)"),
    ),
)  # fmt: skip
