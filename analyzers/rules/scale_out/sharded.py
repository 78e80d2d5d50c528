"""D05, D10, D12: parameters, activations and pipelines spread over ranks, exchanged while nothing else runs."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.matching.units import MATRIX, Unit
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.rules.scale_out.data_parallel import of_gradients
from probe.analyzers.rules.scale_out.exchanges import Exchange, exchanges, found
from probe.units import format_fraction, format_time

LEAST = 0.05  # of the step: what an exchange that nothing hides must take
SERIAL = 0.6  # of its time: an exchange less hidden than that is not overlapped
HIDDEN = 0.2  # of the exposed time: products that hide less of it are not the remedy
GATHERS = 3  # per step: fewer have no earlier computation to hide behind
BUBBLE = 0.1  # of the step
NEAR = 4  # units between a product and the exchange of its operand or result


def sharded_marks(context: Context) -> bool:
    """Whether FSDP's marks are in the trace: "FSDP::all_gather", "FullyShardedDataParallel.forward"."""
    return any(name.startswith(("FSDP::", "FullyShardedDataParallel")) for name in context.trace.names)


def no_prefetch(context: Context) -> Iterator[Match]:
    """D05: FSDP gathers each layer's parameters when they are needed, not before."""
    table = exchanges(context)
    own = [x for x in table.rows if x.kind == "all_gather"]
    per_step = table.per_step(own)
    if not context.trace.on_device or per_step < GATHERS or not sharded_marks(context):
        return
    exposed_s = table.exposed_s(own)
    if exposed_s < max(LEAST * context.step_s, SERIAL * table.busy_s(own)):
        return
    yield from found(
        context, own, saving_s=min(exposed_s * (1 - 1 / per_step), table.spare_s),
        summary=(
            f"FSDP gathers parameters {per_step:.0f} times per step and computes nothing meanwhile: "
            f"{format_time(exposed_s)} exposed, {format_fraction(exposed_s / table.busy_s(own))} of the gathering"
        ),
        evidence=(f"{format_time(table.spare_s)} of the step computes while nothing is exchanged",),
        where="FullyShardedDataParallel(…) or fully_shard(…)", replacement="prefetching the next layer's parameters",
        how="FullyShardedDataParallel(model, forward_prefetch=True, backward_prefetch=BackwardPrefetch.BACKWARD_PRE)"
        "  # fully_shard: set_modules_to_forward_prefetch",
    )  # fmt: skip


def serial_products(context: Context) -> Iterator[Match]:
    """D10: tensor parallelism exchanges each activation before the next product may begin."""
    table = exchanges(context)
    kinds = ("all_gather", "reduce_scatter", "all_reduce")
    some = [x for x in table.rows if x.row >= 0 and x.kind in kinds and not of_gradients(context, x) and not x.gradient]
    near = [(x, product) for x in some if (product := _product_beside(context, x)) is not None]
    own = [x for x, _ in near]
    if sharded_marks(context) or table.per_step(own) < 2:
        return
    exposed_s = table.exposed_s(own)
    if exposed_s < max(LEAST * context.step_s, SERIAL * table.busy_s(own)):
        return
    parts = max((x.ranks or 2 for x in own), default=2)
    beside_s = table.bare * context.seconds(sorted({product for _, product in near}))
    saving_s = (1 - 1 / parts) * min(exposed_s, beside_s)
    if saving_s < HIDDEN * exposed_s:
        return
    yield from found(
        context, own, saving_s=saving_s,
        summary=(
            f"{table.per_step(own):.0f} {_kinds(own)} per step stand between matrix products and run alone: "
            f"{format_time(exposed_s)} exposed beside {format_time(beside_s)} of products that could hide them"
        ),
        evidence=(f"{format_fraction(exposed_s / table.busy_s(own))} of their time nothing else runs",),
        where="the tensor-parallel layers",
        replacement="products in pieces, each exchanged while the next is computed",
        how="torch._inductor.config._micro_pipeline_tp = True  # async tensor parallelism, with torch.compile; or two"
        " halves of the batch, dist.all_reduce(…, async_op=True)",
    )  # fmt: skip


def _kinds(own: Sequence[Exchange]) -> str:
    return " and ".join(sorted({x.kind.replace("_", "-") + "s" for x in own}))


def _product_beside(context: Context, x: Exchange) -> int | None:
    """The row of a matrix product a few units before or after the exchange."""
    before, after = _around(context, x)
    return next((u.row for u in (*reversed(before), *after) if u.name in MATRIX), None)


def _around(context: Context, x: Exchange) -> tuple[list[Unit], list[Unit]]:
    """The few units of the same thread and step before and after the exchange was issued."""
    ops = context.trace.host_ops
    for run in context.runs:
        unit = run[0]
        if ops.thread[unit.row] == ops.thread[x.row] and int(context.groups.step_of_op[unit.row]) == x.step:
            at = bisect_left(run, int(ops.start_ns[x.row]), key=lambda u: u.start_ns)
            return run[max(at - NEAR, 0) : at], run[at : at + NEAR]
    return [], []


def bubbles(context: Context) -> Iterator[Match]:
    """D12: a stage of a pipeline waits for its neighbours longer than its few micro-batches allow it to work."""
    table = exchanges(context)
    own = [x for x in table.rows if x.kind == "send_recv" and _peer(context, x) is not None]
    if not own:
        return
    exposed_s = table.exposed_s(own)
    if exposed_s < BUBBLE * context.step_s:
        return
    turns = Counter((context.trace.names[context.trace.host_ops.name[x.row]], _peer(context, x)) for x in own)
    batches = max(turns.values()) / table.steps
    stages = max(max((x.ranks or 0 for x in own), default=0), context.trace.world_size or 0, 2)
    now, then = _bubble(stages, batches), _bubble(stages, 2 * batches)
    saving_s = _saved(exposed_s, context.step_s, now, then)
    yield from found(
        context, own, saving_s=saving_s,
        summary=(
            f"this stage waits {format_time(exposed_s)} of each step for its neighbours, "
            f"{format_fraction(exposed_s / context.step_s)} of it: with {batches:.0f} micro-batches over {stages} "
            f"stages a bubble of {format_fraction(now)} cannot be avoided"
        ),
        evidence=(
            f"{table.per_step(own):.0f} sends and receives per step",
            f"{2 * batches:.0f} micro-batches: {format_fraction(then)}",
        ),
        where="the pipeline's schedule", replacement="more micro-batches, or an interleaved schedule",
        how=f"ScheduleInterleaved1F1B(stages, n_microbatches={2 * batches:.0f})  # torch.distributed.pipelining",
    )  # fmt: skip


def _bubble(stages: int, batches: float) -> float:
    """Share of the step in which a stage has nothing to do, all stages and micro-batches alike."""
    return (stages - 1) / (batches + stages - 1)


def _saved(exposed_s: float, step_s: float, now: float, then: float) -> float:
    """What twice the micro-batches save: the work stays, its share of the step grows from 1 − now to 1 − then."""
    return min(exposed_s, step_s * (1 - (1 - now) / (1 - then)))


def _peer(context: Context, x: Exchange) -> str | None:
    """Which rank is at the other end, by the operator's arguments or the record of the exchange; None if neither."""
    if x.row < 0:
        return None
    trace, ops = context.trace, context.trace.host_ops
    told = np.flatnonzero((trace.collectives.op >= x.row) & (trace.collectives.op <= x.row + 2))
    for at in told.tolist():
        call = trace.collective_calls[trace.collectives.call[at]]
        if call.peer is not None and call.peer >= 0:
            return str(call.peer)
    name, signature = trace.names[ops.name[x.row]], int(ops.signature[x.row])
    if not name.startswith("c10d::") or signature < 0 or "alltoall" in name:
        return None
    scalars = trace.signatures[signature].scalars
    return scalars[2] if len(scalars) > 2 and scalars[2].isdecimal() else None


RULES = (
    Rule(
        "D05", "fsdp-no-prefetch", "FSDP gathers parameters only when they are needed", no_prefetch,
        trigger="three or more all-gathers per step under FSDP's marks, 60 % of their time or more not hidden",
        advice="prefetch: gather the next layer's parameters while this one computes",
        saving="the exposed time of all gathers but the first, as far as there is computation to hide it",
        cannot_show="whether memory allows two layers' parameters at once",
        proof="flag", effort="flag", about="communication", needs=("device work",),
        example=Example("FullyShardedDataParallel(model, backward_prefetch=None)",
                        "FullyShardedDataParallel(model, forward_prefetch=True,\n"
                        "                         backward_prefetch=BackwardPrefetch.BACKWARD_PRE)"),
    ),
    Rule(
        "D10", "serial-tensor-parallel", "activations exchanged between products, nothing overlapped", serial_products,
        trigger="collectives that are no gradients, each next to matrix products, 60 % of their time not hidden",
        advice="async tensor parallelism, or two halves of the batch in turns",
        saving="(ranks − 1)/ranks of the shorter of the exchanges and the products beside them",
        cannot_show="whether pieces of the products still fill the device",
        proof="flag", effort="design", about="communication",
        example=Example("y = x @ w\ndist.all_reduce(y)",
                        "work = dist.all_reduce(y0 := x0 @ w, async_op=True)\ny1 = x1 @ w  # meanwhile\nwork.wait()"),
    ),
    Rule(
        "D12", "pipeline-bubbles", "a stage of a pipeline waits for its neighbours", bubbles,
        trigger="sends and receives of known peers that take 10 % of the step while nothing else runs",
        advice="more micro-batches, an interleaved schedule, or stages of more equal work",
        saving="the bubble (p − 1)/(m + p − 1) less that of twice the micro-batches m, for p stages",
        cannot_show="which stage is the slow one: its own trace has the shortest waits",
        proof="arithmetic", effort="line", about="communication",
        example=Example("Schedule1F1B(stage, n_microbatches=4)", "Schedule1F1B(stage, n_microbatches=16)"),
    ),
)  # fmt: skip
