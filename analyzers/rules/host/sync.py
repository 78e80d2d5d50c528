"""H02, H03: the host waits for values of the device, or reads tensors element by element."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from probe.analyzers.operators.call_tree import under, with_callees
from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.host.transfers import filling
from probe.analyzers.rules.host.waits import waits
from probe.analyzers.rules.matching.claims import claimed, free
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.timeline.threads import main_thread
from probe.intervals import EMPTY, length_before
from probe.trace import Dims, Int64s, Mask
from probe.units import format_fraction, format_time

# What asks for a value on the host: x.item(), float(x), bool(x), and in old traces what they call.
SCALAR = frozenset({"aten::item", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal"})
# Results whose sizes depend on values: on a device the host must wait for the count.
COUNTING = frozenset(
    "aten::nonzero aten::nonzero_numpy aten::masked_select aten::_unique2 aten::_unique aten::unique_dim "
    "aten::unique_consecutive aten::repeat_interleave aten::bincount aten::argwhere".split()
)
SELECTING = frozenset({"aten::index", "aten::masked_select", "aten::index_put_"})  # by a mask, or by indices
BY_INDEX = frozenset({"aten::index_select", "aten::take", "aten::gather"})
LISTING = frozenset("aten::nonzero aten::nonzero_numpy aten::argwhere aten::where".split())  # where a mask is true
BODY = 12  # operators of a loop over elements, besides the one that reads an element
ELEMENTS = 64  # such reads in a row
EACH_STEP = 0.5  # waits per step, at the least
STALLED_FRACTION = 0.01  # of the step
LOOP_FRACTION = 0.05  # of the step
SELECTED_FRACTION = 0.05  # of the step
NEAR = 32  # operators that a selection calls, at the most


def scalars(context: Context) -> Iterator[Match]:
    """H02: values that the host asks for: on a device each wait empties the queue, on a CPU only loops matter."""
    yield from _waits_for_values(context) if context.trace.on_device else _loops_over_elements(context)


def _told(context: Context, asked: Counter[str]) -> str:
    """Who asked most often, with how often per step."""
    return ", ".join(f"{n / len(context.steps):.0f} × {name}" for name, n in asked.most_common(4))


def _waits_for_values(context: Context) -> Iterator[Match]:
    """The waits that no copy or data-dependent size explains."""
    found = waits(context)
    rows = ~found.claimed(context) & ~found.asked_by(COUNTING)
    stalled_s, count = found.stalled_s(rows), float(rows.sum()) / len(context.steps)
    if count < EACH_STEP or stalled_s < STALLED_FRACTION * context.step_s:
        return
    asked = Counter(found.asker(row) for row in np.flatnonzero(rows).tolist())
    yield Match(
        rows=found.ops(rows),
        ops=found.groups(context, rows),
        summary=(
            f"the host waits for the device {times(count)}; each time the queue runs empty, and the device then idles "
            f"for {format_time(stalled_s)} per step, {format_fraction(stalled_s / context.step_s)}"
        ),
        evidence=(
            _told(context, asked),
            f"{format_time(found.waited_s(rows))} per step in the waits themselves",
        ),
        saving_s=stalled_s,
        where=f"{asked.most_common(1)[0][0]}, {times(count)}",
        replacement="values that stay on the device, read every N steps",
        how="total += loss.detach()  # and total.item() once every N steps",
    )


def _loops_over_elements(context: Context) -> Iterator[Match]:
    """A Python loop that reads a tensor element by element, on a CPU."""
    bursts = list(_bursts(context))
    reads = sum(b.reads for b in bursts) / len(context.steps)
    recorded_s = context.recorded_s
    fraction = sum(b.spent_ns for b in bursts) / 1e9 / len(context.steps) / recorded_s if bursts else 0.0
    if fraction < LOOP_FRACTION:
        return
    rows = np.concatenate([b.rows for b in bursts])
    body = _words(context, bursts[0])
    saving_s = fraction * context.step_s
    yield Match(
        rows=free(context, rows.tolist()),
        ops=tuple(np.unique(context.groups.of_op[rows]).tolist()),
        summary=(
            f"a Python loop reads tensors element by element: {reads:.0f} values per step, one operator call and more "
            f"for each, take {format_time(saving_s)}, {format_fraction(fraction)} of the step"
        ),
        evidence=(f"for each element: {body}",),
        saving_s=saving_s,
        where=f"{body}, {times(reads)}",
        replacement="an operator over the whole tensor, or .tolist() once before the loop",
        how="values = x.tolist()  # once; then loop over Python numbers, or use one tensor operator for all",
    )


@dataclass(frozen=True, eq=False)
class _Burst:
    """Reads of single elements in a row, with the operators of the loop's body."""

    rows: Int64s  # operators that the loop calls, without those that do work of their own
    reads: int
    spent_ns: int
    first: Int64s  # the operators of one iteration


def _bursts(context: Context) -> Iterator[_Burst]:
    """Runs of reads on the main thread that lie a few operators apart, with little work of their own in between."""
    ops, inside = context.trace.host_ops, context.groups.step_of_op
    tops = np.flatnonzero((ops.parent < 0) & (ops.thread == main_thread(context.trace)) & (inside >= 0))
    reads = np.flatnonzero(np.isin(ops.name[tops], _named(context, SCALAR)))
    reads = reads[~claimed(context)[tops[reads]]]
    apart = (np.diff(reads) > BODY + 1) | (np.diff(inside[tops[reads]]) != 0)
    working, filled = _working_ns(context, tops), filling(context) if len(reads) >= ELEMENTS else EMPTY
    for run in np.split(reads, np.flatnonzero(apart) + 1):
        if len(run) < ELEMENTS:
            continue
        begin, end = _begins(context, tops, int(run[0]), int(run[1] - run[0])), int(run[-1])
        edges = np.array([ops.start_ns[tops[begin]], ops.end_ns[tops[end]]])
        elapsed = int(np.diff(edges)[0] - np.diff(length_before(filled, edges))[0])  # H06 has lists made into tensors
        other = int(working[begin : end + 1].sum())
        if 2 * other < elapsed:
            called = begin + np.flatnonzero(2 * working[begin : end + 1] < _durations(context, tops[begin : end + 1]))
            yield _Burst(tops[called], len(run), elapsed - other, tops[run[-2] + 1 : end + 1])


def _begins(context: Context, tops: Int64s, first: int, apart: int) -> int:
    """Where a loop begins whose first read is `first`: with its body, and the unbind() of `for x in tensor`."""
    begin = max(first - apart + 1, 0)
    name = context.trace.names[context.trace.host_ops.name[tops[max(begin - 1, 0)]]]
    return begin - 1 if begin and name == "aten::unbind" else begin


def _durations(context: Context, rows: Int64s) -> Int64s:
    ops = context.trace.host_ops
    return np.asarray(np.maximum((ops.end_ns - ops.start_ns)[rows], 1), np.int64)


def _working_ns(context: Context, tops: Int64s) -> Int64s:
    """What each of `tops` and those that it calls spend on more than being called, [tops]."""
    ops = context.trace.host_ops
    bounds = context.groups.of_calls(context.bounds)
    own = np.where(np.isin(bounds, ("compute", "memory", "latency", "communication")), ops.self_ns, 0)
    return with_callees(ops.parent, own)[tops]


def _named(context: Context, names: frozenset[str]) -> Int64s:
    return np.flatnonzero(context.trace.named(names.__contains__))


def _words(context: Context, burst: _Burst) -> str:
    names = context.trace.names
    return " → ".join(names[n].removeprefix("aten::") for n in context.trace.host_ops.name[burst.first].tolist())


def selections(context: Context) -> Iterator[Match]:
    """H03: results whose size depends on values: a wait on a device, several passes on a CPU."""
    yield from _waits_for_counts(context) if context.trace.on_device else _selections_by_mask(context)


def _waits_for_counts(context: Context) -> Iterator[Match]:
    found = waits(context)
    rows = ~found.claimed(context) & found.asked_by(COUNTING)
    stalled_s, count = found.stalled_s(rows), float(rows.sum()) / len(context.steps)
    if count < EACH_STEP or stalled_s < STALLED_FRACTION * context.step_s:
        return
    asked = Counter(found.asker(row) for row in np.flatnonzero(rows).tolist())
    yield Match(
        rows=found.ops(rows),
        ops=found.groups(context, rows),
        summary=(
            f"sizes that depend on values make the host wait for the device {times(count)}; it then idles for "
            f"{format_time(stalled_s)} per step, {format_fraction(stalled_s / context.step_s)}"
        ),
        evidence=(_told(context, asked),),
        saving_s=stalled_s,
        where=f"{asked.most_common(1)[0][0]}, {times(count)}",
        replacement="torch.where, or a size fixed in advance",
        how="torch.where(mask, x, 0)  # for x[mask]; torch.nonzero_static(mask, size=N) where indices are needed",
    )


def _selections_by_mask(context: Context) -> Iterator[Match]:
    """x[mask] and masked_select with a mask of the size of x, on a CPU, with their backward passes."""
    chosen, lists = _masked_rows(context)
    if not chosen:
        return
    ops = context.trace.host_ops
    picks = chosen + context.backward_rows(_below(context, chosen))
    rows = np.array(picks + lists, np.int64)
    recorded_s = context.recorded_s
    spent_s = float((ops.end_ns - ops.start_ns)[rows].sum()) / 1e9 / len(context.steps)
    floor_s = context.roof_s(sum(_passes_bytes(context, row) for row in picks) / len(context.steps))
    if floor_s is None or spent_s - floor_s < SELECTED_FRACTION * recorded_s:
        return
    saving_s = (spent_s - floor_s) / recorded_s * context.step_s
    count = len(chosen) / len(context.steps)
    yield Match(
        rows=free(context, rows.tolist()),
        ops=tuple(np.unique(context.groups.of_op[rows]).tolist()),
        summary=(
            f"elements are picked by masks {times(count)}: finding and gathering them takes {format_time(spent_s)}; "
            f"keeping all and masking takes one pass, {format_time(floor_s)}"
        ),
        evidence=tuple(f"{name} × {n / len(context.steps):.0f}" for name, n in _names(context, chosen + lists)),
        saving_s=saving_s,
        where=f"x[mask], {times(count)}",
        replacement="torch.where, or a product with the mask",
        how="(loss * mask).sum() / mask.sum()  # in place of loss[mask].mean()",
    )


def _names(context: Context, rows: list[int]) -> list[tuple[str, int]]:
    return Counter(context.trace.names[n] for n in context.trace.host_ops.name[rows].tolist()).most_common(4)


def _masked_rows(context: Context) -> tuple[list[int], list[int]]:
    """Outermost selections of elements by a mask of the same sizes, in the steps, and what lists the mask's places."""
    listed = _listed(context)
    chosen, lists = [], set()
    for row in _outermost(context, SELECTING | BY_INDEX if listed else SELECTING):
        by_mask, counts = _picked(context, row)
        step = int(context.groups.step_of_op[row])
        keys = [(step, _sizes(context, row)[0], n) for n in counts]
        before = [rows[at - 1] for rows in (listed.get(key, []) for key in keys) if (at := bisect_left(rows, row))]
        if by_mask or before:
            chosen.append(row)
            lists.update(before[-1:])
    return chosen, sorted(lists)


def _outermost(context: Context, names: frozenset[str]) -> list[int]:
    """The free operators of these names that none of them calls, in the steps."""
    trace, inside = context.trace, context.groups.step_of_op >= 0
    candidates: Mask = trace.named(names.__contains__)[trace.host_ops.name] & inside
    outermost = np.flatnonzero(candidates & ~under(trace.host_ops.parent, candidates))
    return list(free(context, outermost.tolist()))


def _listed(context: Context) -> dict[tuple[int, Dims, int], list[int]]:
    """What lists the places at which a mask is true: by step, the mask's sizes and how many places there are."""
    found: dict[tuple[int, Dims, int], list[int]] = {}
    if not context.trace.named(LISTING.__contains__)[context.trace.host_ops.name].any():
        return found
    for row in _outermost(context, LISTING | SELECTING):
        step, mask = int(context.groups.step_of_op[row]), _sizes(context, row)
        if len(mask) != 1 or context.trace.names[context.trace.host_ops.name[row]] not in LISTING:
            continue  # where(mask, x, y) lists nothing
        for name, sizes in _called(context, row):
            if name == "aten::as_strided_" and len(sizes[0]) == 2:  # [places, dimensions]
                found.setdefault((step, mask[0], int(sizes[0][0])), []).append(row)
    return found


def _picked(context: Context, row: int) -> tuple[bool, set[int]]:
    """Whether a call looks for the true elements of a mask of its first argument's sizes; else how many it picks."""
    size = _sizes(context, row)
    if not size or not size[0]:
        return False, set()
    called = _called(context, row)
    masks = [sizes[:1] for name, sizes in called if name == "aten::nonzero"]
    masks += [size[1:2]] if context.trace.names[context.trace.host_ops.name[row]] == "aten::masked_select" else []
    indices = [*size[1:], *(sizes[0] for name, sizes in called if name == "aten::reshape")]
    return size[:1] in masks, {int(d[0]) for d in indices if len(d) == 1 and isinstance(d[0], int)}


def _called(context: Context, row: int) -> list[tuple[str, tuple[Dims, ...]]]:
    """What a call calls, with the sizes of the arguments, where those were recorded."""
    ops, names = context.trace.host_ops, context.trace.names
    near = slice(row + 1, row + 1 + NEAR)
    below = np.flatnonzero((ops.thread[near] == ops.thread[row]) & (ops.start_ns[near] < ops.end_ns[row])) + row + 1
    called = ((names[ops.name[r]], _sizes(context, r)) for r in below.tolist())
    return [(name, sizes) for name, sizes in called if sizes]


def _sizes(context: Context, row: int) -> tuple[Dims, ...]:
    """The sizes of a call's arguments; none where not recorded."""
    number = int(context.trace.host_ops.signature[row])
    return context.trace.signatures[number].dims if number >= 0 else ()


def _below(context: Context, rows: list[int]) -> list[int]:
    """The given operators and all that they call: one of them is the node of the backward pass."""
    marked = np.zeros(len(context.trace.host_ops), bool)
    marked[rows] = True
    below: list[int] = np.flatnonzero(marked | under(context.trace.host_ops.parent, marked)).tolist()
    return below


def _passes_bytes(context: Context, row: int) -> float:
    """What one pass over the tensor and its mask moves: read both, write the product. Four bytes an element."""
    sizes = [d for d in _sizes(context, row) if d and all(isinstance(n, int) for n in d)]
    return 9.0 * max((float(np.prod(d)) for d in sizes), default=0.0)


RULES = (
    Rule(
        "H03", "data-dependent-sizes", "sizes depend on values", selections,
        trigger="nonzero, x[mask], masked_select, unique on a device, once every other step, with an idle device after "
        "them; on a CPU x[mask], or x[mask.nonzero(as_tuple=True)], with a mask of the size of x for 5 % of the step",
        advice="torch.where or a product with the mask, or sizes fixed in advance",
        saving="how long the device idles after them; on a CPU their time less that of one pass",
        cannot_show="how many elements are picked, and whether later operators need the compact result",
        proof="replay", effort="line", about="host",
        example=Example("loss[mask].mean()", "(loss * mask).sum() / mask.sum()"),
    ),
    Rule(
        "H02", "scalar-reads", "the host waits for values", scalars,
        trigger="a wait for the device once every other step, with an idle device after it; on a CPU 64 reads of "
        "single elements in a loop, for 5 % of the step",
        advice="keep values on the device and read them every N steps; on a CPU .tolist(), or one operator for all",
        saving="how long the device idles after the waits; on a CPU the time of the loop",
        cannot_show="whether the program decides anything by the values",
        proof="flag", effort="line", about="host",
        example=Example("total += loss.item()", "total += loss.detach()  # .item() once, at the end"),
    ),
)  # fmt: skip
