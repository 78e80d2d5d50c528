"""F20: a Python loop over rows: a few small operators for each, which whole-tensor operators do at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.matching.repeats import as_recorded_s, bare_fraction, elapsed_s, repeats, rows_between
from probe.analyzers.rules.matching.units import MATRIX
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.timeline.threads import loader_intervals
from probe.intervals import length_before
from probe.trace import Dims
from probe.units import format_time

FEWEST = 10  # passes
FEWEST_IRREGULAR = 16  # picks of one row each where the calls between them differ
FARTHEST = 40  # calls between two picks of an irregular loop
GAIN = 2.0  # how much longer than at once a loop takes before it is worth a word
UNKNOWN = 0.1  # of a loop's time, for its bytes, where sizes were not recorded
PICKS = frozenset({"select", "slice", "narrow", "index", "index_select", "gather", "take", "masked_select"})
PUTS = frozenset({"index_put_", "index_copy_", "select_scatter", "slice_scatter", "index_fill_", "scatter_"})
SPLITS = frozenset({"unbind", "split", "chunk", "split_with_sizes", "tensor_split"})
JOINS = frozenset({"stack", "cat", "concat", "hstack", "vstack", "stack_out"})
# What is worth a call of its own: a loop around it is one over layers, experts or chunks.
HEAVY = frozenset({"linear", "matmul", "einsum", "conv1d", "conv2d", "conv3d", "convolution", "_convolution",
                   "bilinear", "scaled_dot_product_attention", "lstm", "gru", "lstm_cell", "gru_cell", "embedding_bag",
                   "layer_norm", "batch_norm", "__matmul__", "chain_matmul", "tensordot", *MATRIX})  # fmt: skip

# What torch calls to format a tensor.
PRINTING = frozenset({"isfinite", "ne", "__and__", "masked_select"})

ADVICE = {
    "printed": (
        "no tensor printed in the step",
        "if step % 1000 == 0: print(x)  # or log x.mean().item(): str() of a tensor looks at every element",
    ),
    "grows": ("one torch.cat of a list", "parts.append(part)  # in the loop; torch.cat(parts) once, behind it"),
    "ordered": (
        "a scan, or a compiled loop",
        "scan = torch.compile(scan)  # the function that holds the loop; or its closed form with cumsum or cumprod",
    ),
    "free": (
        "operators over the whole tensor",
        "y = f(x)  # on all rows at once: broadcasting, index tensors, torch.where, or torch.vmap(f)(x)",
    ),
}


@dataclass(frozen=True)
class _Loop:
    """One loop of one step: its top-level calls (rows), pass after pass."""

    rows: tuple[int, ...]
    passes: int
    words: tuple[str, ...]  # of one pass
    grows: bool  # it joins a tensor with what it made so far
    regular: bool = True


def find(context: Context) -> Iterator[Match]:
    """One match per spelling of the loop's body: all its places and steps together."""
    same: dict[tuple[str, ...], list[_Loop]] = defaultdict(list)
    for loop in _loops(context):
        same[loop.words].append(loop)
    for loops in same.values():
        match = _match(context, loops)
        if match is not None:
            yield match


def _loops(context: Context) -> Iterator[_Loop]:
    """Loops of the forward pass, not in operators of torch's own; rows that are claimed belong to other findings."""
    ops, trace = context.trace.host_ops, context.trace
    ours = ~trace.named(lambda name: name.startswith(("aten::", "autograd::", "torch::")))
    top = np.flatnonzero(
        (context.groups.step_of_op >= 0) & trace.named(lambda name: name.startswith("aten::"))[ops.name]
        & ((ops.parent < 0) | ours[ops.name[ops.parent]]) & (ops.forward_thread <= 0)
    )  # fmt: skip
    loading = loader_intervals(trace)
    waits = length_before(loading, ops.end_ns[top]) > length_before(loading, ops.start_ns[top])
    top = top[~context.marked(context.claimed)[top] & ~waits]
    plain = [name.removeprefix("aten::") for name in trace.names]
    words = [plain[i] for i in ops.name[top].tolist()]
    heavy = trace.named(lambda name: name.removeprefix("aten::") in HEAVY)[ops.name[top]]
    changes = np.diff(context.groups.step_of_op[top]) | np.diff(ops.thread[top]) | np.diff(heavy)
    for first, last in pairwise([0, *(np.flatnonzero(changes) + 1).tolist(), len(top)]):
        if last - first >= FEWEST and not heavy[first]:
            yield from _in_stretch(context, top[first:last].tolist(), words[first:last])


def _in_stretch(context: Context, rows: list[int], words: list[str]) -> Iterator[_Loop]:
    """The loops among calls of which none is heavy: regular ones, else those that pick rows of one tensor."""
    ids = context.trace.host_ops.name[rows]
    found = False
    for repeat in repeats(ids.tolist(), FEWEST):
        body = tuple(words[repeat.first : repeat.first + repeat.period])
        before, after = words[max(repeat.first - 2, 0) : repeat.first], words[repeat.last : repeat.last + 3]
        over_rows = SPLITS.intersection(before) or JOINS.intersection(after) or (PICKS | PUTS).intersection(body)
        if over_rows and len(set(body)) + ("cat" in body) > 1:
            found = True
            inside = tuple(rows[repeat.first : repeat.last])
            yield _Loop(inside, repeat.times, body, _grows(context, inside, body))
    if not found:
        yield from _irregular(context, rows, words)


def _irregular(context: Context, rows: list[int], words: list[str]) -> Iterator[_Loop]:
    """A stretch in which rows of a tensor of one size are picked many times, with other calls in between."""
    picked: dict[tuple[str, Dims], list[int]] = defaultdict(list)
    for at, (row, word) in enumerate(zip(rows, words, strict=True)):
        if word in PICKS:
            picked[word, _size(context, row)].append(at)
    places = max(picked.values(), key=len, default=[])
    if len(places) < FEWEST_IRREGULAR or max(np.diff(places), default=0) > FARTHEST:
        return
    first, last = places[0], min(places[-1] + int(np.median(np.diff(places))), len(rows))
    if set(words[first:last]) <= PICKS:
        return
    inside = tuple(rows[first:last])
    body = tuple(dict.fromkeys(words[first:last]))
    yield _Loop(inside, len(places), body, grows=False, regular=False)


def _size(context: Context, row: int) -> Dims:
    """Sizes of the first argument."""
    at = int(context.trace.host_ops.signature[row])
    dims = context.trace.signatures[at].dims if at >= 0 else ()
    return dims[0] if dims else ()


def _grows(context: Context, rows: Sequence[int], body: Sequence[str]) -> bool:
    """Whether a cat in the loop is given more in each pass."""
    cats = [row for row, word in zip(rows, (*body,) * (len(rows) // len(body)), strict=True) if word in JOINS]
    sizes = [_joined(_size(context, row)) for row in cats]
    return len(sizes) >= FEWEST and all(a < b for a, b in pairwise(sizes))


def _joined(lists: Dims) -> int:
    """Elements of the tensors in a list."""
    return sum(int(np.prod(d)) for d in lists if isinstance(d, tuple))


def _match(context: Context, loops: list[_Loop]) -> Match | None:
    ops = context.trace.host_ops
    top = [row for loop in loops for row in loop.rows]
    back = [row for row in context.backward_rows(top) if row not in context.claimed]
    spans = [(int(ops.start_ns[loop.rows[0]]), int(ops.end_ns[loop.rows[-1]])) for loop in loops]
    spent_s = elapsed_s(context, spans) + context.seconds(back) * bare_fraction(context)
    ordered = not loops[0].grows and any(_is_sequential(context, loop) for loop in loops)
    at_once_s = _at_once(context, loops, bool(back), ordered)
    if at_once_s is not None and not context.trace.with_shapes:
        at_once_s = max(at_once_s, UNKNOWN * spent_s)
    if at_once_s is None or spent_s < GAIN * at_once_s:
        return None
    passes = sum(loop.passes for loop in loops) / len(context.steps)
    grows = loops[0].grows
    printed = PRINTING.issubset(loops[0].words)
    bound = ordered and _is_bound(context, loops)
    advice = ADVICE["printed" if printed else "grows" if grows else "ordered" if ordered else "free"]
    below = (r for loop in loops for r in rows_between(context, loop.rows[0], loop.rows[-1]))
    behind = (r for row in back for r in rows_between(context, row, row))
    return Match(
        rows=tuple(dict.fromkeys((*below, *behind))),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in loops[0].rows})),
        key="-".join(dict.fromkeys(loops[0].words))[:60],
        summary=(
            f"a loop runs {passes:.0f} times per step over {len(loops[0].words)} small operators and takes "
            f"{format_time(spent_s)}; {'at best' if ordered else 'over whole tensors'} they would take about "
            f"{format_time(at_once_s)}"
        ),
        evidence=(
            " → ".join(loops[0].words[:12]),
            *(("each pass copies all that the passes before it made",) if grows else ()),
            *(("each pass reads what the one before it made",) if ordered else ()),
            *(("a pass is one operator, or writes in place: compiling the loop may not help",) if bound else ()),
            *(("torch calls them to print a tensor",) if printed else ()),
            *((f"{len(back)} operators in the backward pass repeat it",) if back else ()),
        ),
        saving_s=None if bound else as_recorded_s(context, spent_s - at_once_s),
        where=f"the loop around {_main(loops[0].words)}",
        replacement=advice[0],
        how=advice[1],
        tier="dataflow" if ordered else "order",
    )


def _is_sequential(context: Context, loop: _Loop) -> bool:
    """Whether a pass is known to read what the one before it made; what is written into one tensor does not count."""
    if not loop.regular or len(loop.rows) != len(loop.words) * loop.passes:
        return False
    ops, names = context.trace.host_ops, context.trace.names
    last = rows_between(context, loop.rows[-1], loop.rows[-1])[-1:] or [loop.rows[-1]]
    for flow in context.flows:
        if flow.tier == "order" or ops.thread[flow.units[0].row] != ops.thread[loop.rows[0]]:
            continue
        inside = {i: u.row for i, u in enumerate(flow.units) if loop.rows[0] <= u.row <= last[0]}
        at = np.searchsorted(loop.rows, list(inside.values()), "right") - 1
        of_pass = dict(zip(inside, (at // len(loop.words)).tolist(), strict=True))
        makers = ((i, m) for i in inside for a in flow.arguments[i] if a.size for m in a.makers if m in inside)
        if any(of_pass[m] < of_pass[i] and not names[ops.name[inside[m]]].endswith("_") for i, m in makers):
            return True
    return False


def _is_bound(context: Context, loops: Sequence[_Loop]) -> bool:
    """Whether a pass is one operator besides views, which nothing fuses, or writes its row in place.

    Compiled, a loop that writes in place took longer than not.
    """
    body = loops[0].rows[: len(loops[0].words)]
    computing = [row for row in body if context.costs[context.groups.of_op[row]].kind != "view"]
    return len(computing) <= 1 or bool({"copy_", *PUTS}.intersection(loops[0].words))


def _at_once(context: Context, loops: Sequence[_Loop], trained: bool, ordered: bool) -> float | None:
    """Time of the same work in one call of each operator of the body: its bytes, and a dispatch for each.

    ordered: each pass needs the one before, so that the best is one operator a pass.
    """
    total = 0.0
    for loop in loops:
        costs = [context.costs[context.groups.of_op[row]].bytes or 0.0 for row in loop.rows]
        moved = max(costs) if loop.grows else sum(costs)
        moved_s = context.roof_s(moved)
        if moved_s is None:
            return None
        total += moved_s + (loop.passes if ordered else len(loop.words)) * context.machine.dispatch_s
    return total * (3 if trained else 1) / len(context.steps)  # a derivative reads what it reads, and twice as much


def _main(words: Sequence[str]) -> str:
    """The operators of a body that are no views."""
    return ", ".join(dict.fromkeys(w.strip("_") for w in words if w not in PICKS))[:60] or ", ".join(words[:4])


RULES = (
    Rule(
        "F20", "row-loop", "a Python loop over rows", find,
        trigger="the same small operators ten times or more in a row, on rows picked from a tensor or joined behind it",
        advice="the same over the whole tensor: broadcasting, index tensors, cumulative operators, torch.vmap",
        saving="the time of the loop less that of its bytes and of one dispatch for each operator of its body; not "
        "known where each pass needs the one before it and is one operator, or writes in place",
        cannot_show="whether a pass needs what the one before it made: then a scan (cumsum) or a compiled loop",
        proof="module",
        example=Example(
            "for i in range(len(x)):\n    y[i] = torch.tanh(x[i] * w[i])",
            "y = torch.tanh(x * w[:, None])",
        ),
    ),
)  # fmt: skip
