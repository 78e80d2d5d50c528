"""F22: the backward pass of an embedding fills a gradient of the whole table for the few rows that were looked up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import prod

from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.fusion.attention_flow import scalar
from probe.analyzers.rules.fusion.attention_site import element_of
from probe.analyzers.rules.matching.ledger import usual_s
from probe.analyzers.rules.matching.repeats import replaced_as_recorded_s
from probe.analyzers.rules.matching.units import Unit
from probe.analyzers.rules.rule import Example, Rule
from probe.trace import Dims
from probe.units import format_bytes, format_time

BACKWARD = {
    "embedding_dense_backward": ("Embedding", 2),
    "_embedding_bag_dense_backward": ("EmbeddingBag", 5),
}  # the module, and which argument says how many rows its table has
MODE, MAX = 7, "2"  # of a bag: the largest of its rows, which has no sparse gradient
MUCH = 4  # times as many rows in the table as were looked up
NEXT = 6  # units after it in which a second gradient of the same table is added


def find(context: Context) -> Iterator[Match]:
    """One match per table."""
    tables: dict[tuple[int, tuple[Dims, ...]], list[Unit]] = defaultdict(list)
    for run in context.runs:
        for index, unit in enumerate(run):
            rows = _rows(unit)
            if rows is None or unit.row in context.claimed or rows < MUCH * prod(unit.dims[1]):
                continue
            if not _shared(context, run[index + 1 : index + 1 + NEXT], (rows, unit.dims[0][-1])):
                tables[rows, unit.dims].append(unit)
    for (rows, _), same in tables.items():
        yield _match(context, rows, same)


def _rows(unit: Unit) -> int | None:
    """Rows of the table; None for other units."""
    if unit.name not in BACKWARD or len(unit.dims) < 2 or not unit.dims[0]:
        return None
    if unit.name.startswith("_embedding_bag") and scalar(unit, MODE) == MAX:
        return None
    text = scalar(unit, BACKWARD[unit.name][1]) or ""
    return int(text) if text.isdigit() else None


def _shared(context: Context, following: list[Unit], size: tuple[int, int]) -> bool:
    """Whether another gradient of the same table is added at once: a table that is the last layer's weight as well."""
    ops, names = context.trace.host_ops, context.trace.names
    for unit in following:
        if unit.name == "add" and unit.dims[:2] == (size, size) and context.under_engine[unit.row]:
            parent = int(ops.parent[unit.row])
            return parent < 0 or "AccumulateGrad" not in names[ops.name[parent]]
    return False


def _match(context: Context, rows: int, same: list[Unit]) -> Match:
    taken, module = [unit.row for unit in same], BACKWARD[same[0].name][0]
    width, looked_up = same[0].dims[0][-1], prod(same[0].dims[1])
    element = element_of(same[0])
    itemsize = element.itemsize if element else 4
    spent_s = usual_s(context, taken)
    needed_s = context.roof_s(2 * looked_up * width * itemsize * len(same) / len(context.steps)) or 0.0
    calls = times(len(same) / len(context.steps))
    table = rows * width * itemsize
    return Match(
        rows=tuple(taken),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in taken})),
        key=f"{rows}x{width}",
        summary=(
            f"the gradient of an embedding of {rows:,} × {width} is written whole, {calls}, {format_bytes(table)} for "
            f"{looked_up:,} rows looked up, which takes {format_time(spent_s)}; the optimizer then reads all of it"
        ),
        evidence=(
            f"{same[0].name} of {looked_up:,} rows into {rows:,}",
            f"{looked_up / rows:.1%} of the table's rows have a gradient at most",
        ),
        saving_s=max(spent_s - replaced_as_recorded_s(context, needed_s), 0.0),
        saving_bytes=max(table - looked_up * width * itemsize, 0),
        where=f"{same[0].name}, {calls}",
        replacement="a sparse gradient",
        how=f"torch.nn.{module}({rows}, {width}, sparse=True)  # its own torch.optim.SparseAdam, or SGD",
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
