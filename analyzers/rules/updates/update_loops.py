"""F24: loops over parameters other than torch.optim's Adam and SGD: its other optimizers, and those written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.matching.marks import OPTIMIZER, Marked
from probe.analyzers.rules.matching.repeats import as_recorded_s, elapsed_s, repeats, rows_between
from probe.analyzers.rules.matching.units import POINTWISE, Unit
from probe.analyzers.rules.updates.parameter_loops import (
    CASTS,
    counted,
    groups_of,
    parameter_loops,
    pass_bytes,
    rows_of,
    time_and_floor_s,
)
from probe.trace import Trace
from probe.units import format_time

FEWEST = 4  # parameters inside a mark
FEWEST_BY_HAND = 8
LONGEST = 30  # operators of one update
FUSED_ON_CPU = frozenset({"Adagrad"})
ARRAYS = {"Adagrad": 5, "RMSprop": 7}  # that a fused update reads or writes once
MOVING = frozenset({"add", "addcmul"})  # what ends the update of a moment, after its decay
MOST_ARRAYS = 9  # parameter, gradient and three states


def marked_runs(context: Context) -> Iterator[tuple[str, list[list[Unit]]]]:
    """Each optimizer with its units in every run, unless it calls multi-tensor or fused operators, or cannot."""
    trace = context.trace
    names = {i: m[1] for i, name in enumerate(trace.names) if (m := OPTIMIZER.fullmatch(name))}
    several = trace.named(lambda name: name.startswith(("aten::_foreach", "aten::_fused")))
    for name in sorted(set(names.values())):
        marked = Marked.of(trace, [i for i, known in names.items() if known == name])
        if marked.holds(trace.host_ops.start_ns[several[trace.host_ops.name]]).any() or is_sparse(trace, marked):
            continue
        yield name, context.runs_inside(marked)


def is_sparse(trace: Trace, marked: Marked) -> bool:
    """Whether an update reads a sparse gradient, which fused optimizers refuse."""
    values = trace.named(lambda name: name == "aten::_values")
    return bool(marked.holds(trace.host_ops.start_ns[values[trace.host_ops.name]]).any())


def outside_marks(context: Context) -> list[list[Unit]]:
    """The units of each run that are in no optimizer's step."""
    trace = context.trace
    marked = Marked.of(trace, [i for i, name in enumerate(trace.names) if OPTIMIZER.fullmatch(name)])
    return context.runs_outside(marked)


def other_optimizers(context: Context, known: frozenset[str]) -> Iterator[Match]:
    """Loops inside the marks of optimizers that are not `known` (names in small letters)."""
    for name, runs in marked_runs(context):
        free = ([u for u in run if u.row not in context.claimed] for run in runs)
        work = [kept for run in free if (kept := [u for u in run if u.name in POINTWISE | CASTS])]
        updates = [update for run in work for update in _updates(context, run)]
        if name.lower() not in known and len(updates) >= FEWEST * len(context.steps):
            yield _marked_match(context, name, work, updates)


def _updates(context: Context, run: Sequence[Unit]) -> Iterator[Sequence[Unit]]:
    """The units of each parameter: what repeats itself in a step, as far as it can be told."""
    names = context.trace.host_ops.name
    for repeat in repeats([int(names[u.row]) for u in run], FEWEST, LONGEST):
        if repeat.period > 1:
            yield from (run[at : at + repeat.period] for at in range(repeat.first, repeat.last, repeat.period))


def _marked_match(
    context: Context, name: str, work: Sequence[Sequence[Unit]], updates: Sequence[Sequence[Unit]]
) -> Match:
    units = [u for run in work for u in run]
    spent_s = elapsed_s(context, [(run[0].start_ns, run[-1].end_ns) for run in work])
    moved_s = context.roof_s(ARRAYS.get(name, MOST_ARRAYS) * sum(map(pass_bytes, updates)) / len(context.steps))
    floor_s = moved_s + context.machine.dispatch_s if moved_s is not None else None
    count = round(len(updates) / len(context.steps))
    fused = name in FUSED_ON_CPU and not context.trace.on_device
    about = f": about {format_time(floor_s)}" if floor_s is not None else ""
    return Match(
        rows=tuple(row for run in work for row in rows_between(context, run[0].row, run[-1].row)),
        ops=tuple(sorted({int(context.groups.of_op[u.row]) for u in units})),
        key=f"{name.lower()}-{count}-parameters",
        summary=(
            f"{name} updates about {count} parameters one after the other: {len(units) / len(context.steps):.0f} "
            f"operators and {format_time(spent_s)} per step; fused, each array is read and written once{about}"
        ),
        evidence=("no _foreach_ or _fused_ operator in its step", " → ".join(u.name for u in updates[-1])),
        saving_s=as_recorded_s(context, max(spent_s - floor_s, 0.0)) if floor_s is not None else None,
        where="the optimizer's step()",
        replacement=f"torch.optim.{name}(…, fused=True)" if fused else "a compiled step, or foreach=True",
        how=(
            f"torch.optim.{name}(model.parameters(), lr=lr, fused=True)"
            if fused
            else "optimizer.step = torch.compile(optimizer.step)  # foreach=True saves the time between the operators"
        ),
    )


def by_hand(context: Context) -> Iterator[Match]:
    """Updates in a loop of the user's own."""
    loops = [loop for loop in parameter_loops(context, "update") if len(loop.passes) >= FEWEST_BY_HAND]
    if not loops:
        return
    words = loops[0].words.split()
    stock, arrays = _stock(words)
    spent_s, floor_s = time_and_floor_s(context, loops, arrays=arrays)
    if stock and not context.trace.on_device:
        moved_s = context.roof_s(
            arrays * sum(pass_bytes(one) for loop in loops for one in loop.passes) / len(context.steps)
        )
        floor_s = min(floor_s, moved_s + context.machine.dispatch_s) if moved_s is not None else floor_s
    count, operators = counted(context, loops)
    better = f"torch.optim.{stock}(…, fused=True)" if stock else "torch._foreach_ operators over lists of parameters"
    yield Match(
        rows=rows_of(loops),
        ops=groups_of(context, loops),
        key=f"by-hand-{count}-parameters",
        summary=(
            f"{count} parameters are updated by hand, one after the other: {operators} operators and "
            f"{format_time(spent_s)} per step; {'fused' if stock else 'over lists'} about {format_time(floor_s)}"
        ),
        evidence=(f"{' → '.join(words[:12])}, for {count} tensors",),
        saving_s=as_recorded_s(context, max(spent_s - floor_s, 0.0)),
        where="the loop that updates the parameters",
        replacement=better,
        how=(
            f"torch.optim.{stock}(model.parameters(), lr=lr, fused=True).step()"
            if stock
            else "torch._foreach_add_(parameters, updates, alpha=-lr)  # each line of the loop as one such call"
        ),
        tier=loops[0].tier,
    )


def _stock(words: Sequence[str]) -> tuple[str | None, int]:
    """The optimizer that does what a loop does, by the operators, and how many arrays it reads or writes."""
    plain = {word.rstrip("_") for word in words}
    if "sign" in plain:
        return None, 5
    if plain & {"sqrt", "rsqrt", "addcdiv"}:
        rooted = next((at for at, word in enumerate(words) if word.rstrip("_") in ("sqrt", "rsqrt")), len(words))
        decayed = pairwise(word.rstrip("_") for word in words[:rooted])
        moments = sum(word == "lerp" or (before == "mul" and word in MOVING) for before, word in decayed)
        return ("AdamW", 7) if moments > 1 else (None, 5)  # with one it is RMSprop, which has no fused form
    return "SGD", 5 if len(words) > 2 else 3
