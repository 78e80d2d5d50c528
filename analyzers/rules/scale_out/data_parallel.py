"""D02, D03, D04: what DistributedDataParallel exchanges that it need not, or could hide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import numpy as np

from probe.analyzers.operators.call_tree import under
from probe.analyzers.operators.steps import step_of
from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.matching.units import MATRIX
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.rules.scale_out.exchanges import ACCUMULATE, Exchange, Exchanges, exchanges, found
from probe.trace import Int64s
from probe.units import format_bytes, format_fraction, format_time

SEARCH = "search_unused_parameters"  # torch's mark around DDP's walk through the graph
COPY_BACK = "copy_bucket_to_grad"
WORTH = 0.01  # of the step: what a finding here must save at the least
MOST = 0.4  # of the exposed time: a cause that explains less of it is left to D01
ENGINE = "autograd::engine"  # how the names of autograd's own ranges begin
PRODUCTS = frozenset("aten::" + name for name in (*MATRIX, "convolution", "embedding", "linear"))
MANY = 8  # buckets per step
SMALL_BYTES = 4 << 20  # of a bucket on average: below it most of an exchange is latency
DEFAULT_BYTES = 25 << 20  # DDP's own bucket_cap_mb
LARGE_BYTES = 4 << 20
PIECES = 8  # buckets, of which all but the last can be hidden behind the backward pass


def unused(context: Context) -> Iterator[Match]:
    """D03: DDP looks for unused parameters, and every parameter got a gradient."""
    trace, ops = context.trace, context.trace.host_ops
    searches = np.flatnonzero(trace.named(lambda name: SEARCH in name)[ops.name] & (context.groups.step_of_op >= 0))
    if not len(searches):
        return
    table = exchanges(context)
    maps = _bitmaps(context, table)
    parameters = {x.elements for x in maps}
    accumulated = trace.named(lambda name: name == ACCUMULATE)[ops.name] & (context.groups.step_of_op >= 0)
    per_search = int(accumulated.sum()) / len(searches)
    if len(parameters) != 1 or per_search < next(iter(parameters)):
        return  # some parameter had no gradient: the flag is needed
    searched_s = table.bare * float((ops.end_ns - ops.start_ns)[searches].sum()) / 1e9 / table.steps
    told_s = table.unwaited_s(maps)
    yield from found(
        context, maps, extra=searches.tolist(), saving_s=searched_s + told_s,
        summary=(
            f"DDP looks for unused parameters in every step and finds none: {format_time(searched_s)} to walk the "
            f"graph, {format_time(told_s)} to exchange which of {per_search:.0f} parameters were used"
        ),
        evidence=(
            f"torch's mark {SEARCH}, {len(searches) / table.steps:.0f} per step",
            f"an all-reduce of {per_search:.0f} elements, and as many gradients accumulated",
        ),
        where="DistributedDataParallel(…)", replacement="find_unused_parameters=False",
        how="DistributedDataParallel(model, find_unused_parameters=False)  # or static_graph=True",
    )  # fmt: skip


def _bitmaps(context: Context, table: Exchanges) -> list[Exchange]:
    """The all-reduces in which ranks tell which parameters they used: after all buckets, an element a parameter."""
    ops = context.trace.host_ops
    searches = np.sort(ops.start_ns[context.trace.named(lambda name: SEARCH in name)[ops.name]])
    own = [x for x in table.rows if x.gradient and x.kind == "all_reduce"]
    if not len(searches) or not own:
        return []
    search = np.searchsorted(searches, [x.start_ns for x in own])
    last = dict(zip(search.tolist(), own, strict=True))  # of each search: the others are before it
    return [x for x in last.values() if x.elements >= 0 and (x.element is None or not x.element.is_floating)]


def buckets(context: Context) -> list[Exchange]:
    """The all-reduces of gradients, without those that only tell what was used."""
    table = exchanges(context)
    own = set(_bitmaps(context, table))
    return [x for x in table.rows if x.gradient and x.kind == "all_reduce" and x not in own]


def accumulation(context: Context) -> Iterator[Match]:
    """D04: the same gradients are exchanged several times before the optimizer uses them."""
    table = exchanges(context)
    own = [x for x in table.rows if x.row >= 0 and of_gradients(context, x)]
    periods = list(_accumulated(context, own))
    sets = max((len(period) for period in periods), default=0)
    if sets < 2 or len({len(period) for period in periods}) > 1:
        return
    spared = [x for period in periods for one in period[:-1] for x in one]
    saving_s = table.exposed_s(spared)
    if saving_s < WORTH * context.step_s:
        return
    sharded = own[0].kind == "reduce_scatter"
    yield from found(
        context, own, saving_s=saving_s,
        summary=(
            f"gradients are exchanged {sets} times before each step of the optimizer where once would do: "
            f"{format_time(saving_s)} per step that nothing hides"
        ),
        evidence=(
            f"{len(periods[0][0])} {_words(own[0].kind)} of the same sizes after each of {sets} backward passes",
            "no step of the optimizer between them",
        ),
        where="the loop over micro-batches",
        replacement="set_requires_gradient_sync(False)" if sharded else "no_sync() on all micro-batches but the last",
        how="model.set_requires_gradient_sync(last)" if sharded
        else "with contextlib.nullcontext() if last else model.no_sync(): loss.backward()",
    )  # fmt: skip


def of_gradients(context: Context, x: Exchange) -> bool:
    """Whether it reduces gradients: as they come, or after the backward pass in a loop of the user's own."""
    if x.kind == "all_reduce" and not x.gradient:
        outermost = x.row >= 0 and int(context.trace.host_ops.parent[x.row]) < 0
        return outermost and x.elements > 1 and _after_backward(context, x)
    return x.gradient and x.kind in ("all_reduce", "reduce_scatter")


def _after_backward(context: Context, x: Exchange) -> bool:
    """Whether autograd was at work after the last product before the exchange."""
    if context not in _passes:
        _passes[context] = _forwards(context), _backwards(context)
    forward, backward = (int(np.searchsorted(at, x.start_ns)) for at in _passes[context])
    if not backward:
        return False
    return not forward or _passes[context][1][backward - 1] > _passes[context][0][forward - 1]


_passes: WeakKeyDictionary[Context, tuple[Int64s, Int64s]] = WeakKeyDictionary()  # when each pass was at work


def _accumulated(context: Context, own: Sequence[Exchange]) -> Iterator[list[list[Exchange]]]:
    """For each step of the optimizer the sets of equal exchanges before it, parted by forward passes."""
    starts = context.trace.host_ops.start_ns
    events: list[tuple[int, str, Exchange | None]] = [(int(starts[x.row]), "exchange", x) for x in own]
    events += [(at, "forward", None) for at in _between(_forwards(context), [at for at, _, _ in events])]
    events += [(at, "update", None) for at in _updates(context)]
    period: list[list[Exchange]] = []
    current: list[Exchange] = []
    for _, what, x in sorted(events, key=lambda event: event[0]):
        if x is not None:
            current.append(x)
            continue
        if current:
            period, current = [*period, current], []
        if what == "update" and period:
            if len({tuple((y.kind, y.elements) for y in one) for one in period}) == 1:
                yield period
            period = []


def _between(times_ns: Int64s, events_ns: Sequence[int]) -> list[int]:
    """The first of the times between any two events, and before and behind them all; times in order."""
    _, first = np.unique(np.searchsorted(np.sort(np.asarray(events_ns, np.int64)), times_ns), return_index=True)
    found: list[int] = times_ns[first].tolist()
    return found


def _forwards(context: Context) -> Int64s:
    """When forward passes were at work: products, and what autograd notes, outside its engine; in order of time."""
    trace, ops = context.trace, context.trace.host_ops
    forward = trace.named(PRODUCTS.__contains__)[ops.name] | context.differentiated
    return np.sort(ops.start_ns[forward & (context.groups.step_of_op >= 0) & ~context.under_engine])


def _backwards(context: Context) -> Int64s:
    """When autograd's engine was at work, in order of time."""
    ops = context.trace.host_ops
    return np.sort(ops.start_ns[context.trace.named(lambda name: name.startswith(ENGINE))[ops.name]])


def _updates(context: Context) -> list[int]:
    """When the optimizer stepped; without torch.optim's marks, the ends of the steps."""
    marks = context.trace.annotations
    named = context.trace.named(lambda name: name.startswith("Optimizer.step#"))
    rows = np.flatnonzero(named[marks.name] & ~marks.on_device) if len(marks) else np.zeros(0, np.int64)
    rows = rows[step_of(context.steps, marks.start_ns[rows]) >= 0] if len(rows) else rows
    return [int(at) for at in (marks.start_ns[rows] if len(rows) else context.steps.end_ns)]


def _words(kind: str) -> str:
    return kind.replace("_", "-") + ("s" if not kind.endswith("s") else "")


def bucket_sizes(context: Context) -> Iterator[Match]:
    """D02: many small buckets, or one large that is ready only at the end; and gradients copied back from buckets."""
    table = exchanges(context)
    own = buckets(context)
    per_step = table.per_step(own)
    if own and all(x.elements > 0 for x in own):
        total = sum(x.likely_bytes for x in own) / table.steps
        if per_step >= MANY and total / per_step < SMALL_BYTES:
            yield from _many_small(context, table, own, total)
        elif total >= LARGE_BYTES:
            yield from _late_giant(context, table, own, total)
    yield from _copied_back(context, table)


def _many_small(context: Context, table: Exchanges, own: list[Exchange], total: float) -> Iterator[Match]:
    exposed_s = table.unwaited_s(own)
    fewest = 1 + int(total // DEFAULT_BYTES)
    per_step = table.per_step(own)
    saving_s = min(exposed_s, (per_step - fewest) * table.latency_s)
    if saving_s < max(WORTH * context.step_s, MOST * exposed_s):
        return
    yield from found(
        context, own, saving_s=saving_s, key="small",
        summary=(
            f"gradients are exchanged in {per_step:.0f} buckets of {format_bytes(total / per_step)} on average: each "
            f"costs {format_time(table.latency_s)} however small it is, and nothing hides {format_time(exposed_s)}"
        ),
        evidence=(f"{format_bytes(total)} per step; DDP's default is buckets of 25 MiB",),
        where="DistributedDataParallel(…)", replacement="larger buckets",
        how="DistributedDataParallel(model, bucket_cap_mb=25, gradient_as_bucket_view=True)",
    )  # fmt: skip


def _late_giant(context: Context, table: Exchanges, own: list[Exchange], total: float) -> Iterator[Match]:
    largest = max(own, key=lambda x: x.elements)
    giants = [x for x in own if x.elements == largest.elements]
    exposed_s = table.exposed_s(giants)
    one_a_step = len(giants) == table.steps and largest.likely_bytes >= total / 2
    if not one_a_step or exposed_s < max(0.05 * context.step_s, 0.5 * table.busy_s(giants)):
        return
    pieces = min(PIECES, max(2, int(total // (1 << 20))))
    saving_s = min(table.unwaited_s(giants) * (1 - 1 / pieces), table.spare_s)
    if saving_s < MOST * table.unwaited_s(own):
        return
    cap = max(1, round(total / pieces / (1 << 20)))
    yield from found(
        context, own, saving_s=saving_s, key="large",
        summary=(
            f"one bucket has {format_fraction(largest.likely_bytes / total)} of the gradients, "
            f"{format_bytes(largest.likely_bytes)}, and is ready only when the backward pass ends: nothing hides "
            f"{format_time(exposed_s)} of it"
        ),
        evidence=(
            f"{table.per_step(own):.0f} buckets per step, {format_bytes(total)} in all",
            f"{format_time(table.spare_s)} of the step computes while nothing is exchanged",
        ),
        where="DistributedDataParallel(…)", replacement="smaller buckets, exchanged during the backward pass",
        how=f"DistributedDataParallel(model, bucket_cap_mb={cap}, gradient_as_bucket_view=True)",
    )  # fmt: skip


def _copied_back(context: Context, table: Exchanges) -> Iterator[Match]:
    trace, ops = context.trace, context.trace.host_ops
    copying = trace.named(lambda name: COPY_BACK in name)[ops.name] & (context.groups.step_of_op >= 0)
    rows = np.flatnonzero(copying & ~under(ops.parent, copying)).tolist()
    copied_s = context.seconds(rows)
    if table.bare * copied_s < WORTH * context.step_s:
        return
    own = buckets(context)
    size = sum(x.likely_bytes for x in own) / table.steps if own and all(x.elements > 0 for x in own) else None
    yield from found(
        context, [], extra=rows, saving_s=copied_s, key="views",
        saving_bytes=int(size) if size else None,
        summary=(
            f"every gradient is copied back from its bucket, {len(rows) / table.steps:.0f} copies and "
            f"{format_time(table.bare * copied_s)} per step; a gradient that is a view of its bucket needs none"
        ),
        evidence=("torch's mark copy_bucket_to_grad",),
        where="DistributedDataParallel(…)", replacement="gradient_as_bucket_view=True",
        how="DistributedDataParallel(model, gradient_as_bucket_view=True)",
    )  # fmt: skip


RULES = (
    Rule(
        "D03", "find-unused-parameters", "DDP looks for unused parameters, there are none", unused,
        trigger="torch's mark search_unused_parameters, and as many gradients accumulated as there are parameters",
        advice="find_unused_parameters=False (its default)",
        saving="the walk through the graph, and the shortest exchange of which parameters were used",
        cannot_show="whether other steps than the recorded ones leave parameters unused",
        proof="flag", effort="flag", about="communication", needs=("shapes",),
        example=Example("DistributedDataParallel(model, find_unused_parameters=True)",
                        "DistributedDataParallel(model)"),
    ),
    Rule(
        "D04", "accumulation-without-no-sync", "gradients are exchanged after each micro-batch", accumulation,
        trigger="the same exchanges of gradients after two or more backward passes, and one step of the optimizer",
        advice="no_sync() on all micro-batches but the last: gradients add up locally",
        saving="the exposed time of all but the last set of exchanges",
        cannot_show="memory: sharded gradients (FSDP) must be kept whole without their reduction",
        proof="flag", effort="line", about="communication",
        example=Example(
            "for x in micro_batches:\n    loss(model(x)).backward()\noptimizer.step()",
            "for i, x in enumerate(micro_batches):\n"
            "    last = i == len(micro_batches) - 1\n"
            "    with contextlib.nullcontext() if last else model.no_sync():\n"
            "        loss(model(x)).backward()\noptimizer.step()",
        ),
    ),
    Rule(
        "D02", "ddp-buckets", "buckets of gradients too small, too large, or copied", bucket_sizes,
        trigger=(
            "eight or more buckets of less than 4 MiB; one with half of the gradients whose exchange nothing hides; "
            "or gradients copied back from their buckets"
        ),
        advice="set bucket_cap_mb so that several buckets are exchanged during the backward pass; views, not copies",
        saving="latency of the spared exchanges; what smaller buckets hide; the time of the copies",
        cannot_show="the best size: it depends on the links, try two or three",
        proof="flag", effort="flag", about="communication", needs=("shapes",),
        example=Example("DistributedDataParallel(model, bucket_cap_mb=1000)",
                        "DistributedDataParallel(model, bucket_cap_mb=25, gradient_as_bucket_view=True)"),
    ),
)  # fmt: skip
