"""F25: an optimizer's step as a sequence of multi-tensor operators, each of them a pass over its arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.matching.marks import OPTIMIZER, Marked
from probe.analyzers.rules.matching.repeats import as_recorded_s, elapsed_s, rows_between
from probe.analyzers.rules.matching.units import Unit
from probe.analyzers.rules.updates.update_loops import is_sparse
from probe.units import format_time

ARRAYS = {"AdamW": 7, "Adam": 7, "SGD": 5}  # that a fused update reads or writes once
ON_CPU = {"Adagrad": 5}
FEWEST = 2  # operators over lists: one alone is a pass as well


def foreach(context: Context) -> Iterator[Match]:
    """One match per optimizer that has a fused form and does not use it."""
    trace = context.trace
    for name, arrays in (ARRAYS | ({} if trace.on_device else ON_CPU)).items():
        ids = [i for i, text in enumerate(trace.names) if (m := OPTIMIZER.fullmatch(text)) and m[1] == name]
        marked = Marked.of(trace, ids)
        runs = context.runs_inside(marked)
        if is_sparse(trace, marked):
            continue
        lists = [[u for u in run if u.name.startswith("_foreach_") and u.row not in context.claimed] for run in runs]
        lists = [run for run in lists if run]
        if any(u.name.startswith("_fused_") for run in runs for u in run):
            continue
        if lists and min(map(len, lists)) >= FEWEST:
            yield from _match(context, name, arrays, lists)


def _match(context: Context, name: str, arrays: int, lists: Sequence[Sequence[Unit]]) -> Iterator[Match]:
    units = [u for run in lists for u in run]
    sizes = max((_sizes(u) for u in units), key=lambda s: sum(map(prod, s)))
    spent_s = elapsed_s(context, [(run[0].start_ns, run[-1].end_ns) for run in lists])
    moved = sum(map(_arrays, units)) / len(context.steps)
    floor_s = spent_s * min(arrays / moved, 1.0) if sizes else None
    about = f": about {format_time(floor_s)}" if floor_s is not None else ""
    passes = len(units) / len(context.steps)
    yield Match(
        rows=tuple(row for run in lists for row in rows_between(context, run[0].row, run[-1].row)),
        ops=tuple(sorted({int(context.groups.of_op[u.row]) for u in units})),
        key=name.lower(),
        summary=(
            f"{name} passes over its arrays in {passes:.0f} _foreach_ operators and {format_time(spent_s)} per step; "
            f"fused, each array is read and written once{about}"
        ),
        evidence=(
            " → ".join(u.name for u in lists[-1][:10]),
            f"{len(sizes)} parameters, {sum(map(prod, sizes)):,} elements" if sizes else "sizes not recorded",
            f"{moved:.0f} times an array of their size is read or written; a fused step does so {arrays} times",
        ),
        saving_s=as_recorded_s(context, max(spent_s - floor_s, 0.0)) if floor_s is not None else None,
        where="the optimizer's step()",
        replacement=f"torch.optim.{name}(…, fused=True)",
        how=f"torch.optim.{name}(model.parameters(), lr=lr, fused=True)",
    )


def _arrays(unit: Unit) -> int:
    """How many arrays of the parameters' size a call reads or writes: its lists, and what it changes or makes."""
    lists = [dims for dims in unit.dims if dims and isinstance(dims[0], tuple) and any(prod(d) > 1 for d in dims)]
    return len(lists) + 1 if lists else 0


def _sizes(unit: Unit) -> tuple[tuple[int, ...], ...]:
    """Sizes of the tensors in the first list of a call."""
    first = unit.dims[0] if unit.dims else ()
    return first if first and isinstance(first[0], tuple) else ()
