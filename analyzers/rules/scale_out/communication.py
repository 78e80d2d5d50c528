"""D01–D13: what a rank exchanges with others, and whether the step waits for it. Special causes before D01."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from probe.analyzers.operators.call_tree import under
from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.rules.scale_out import data_parallel, gradient_types, sharded, stragglers
from probe.analyzers.rules.scale_out.exchanges import Exchange, Exchanges, exchanges, found
from probe.bus_bandwidth import bus_factor
from probe.units import format_bytes_per_s, format_fraction, format_time

EXPOSED = 0.1  # of the step
SMALL_BYTES = 256 << 10
MANY = 16  # per step
LARGE_BYTES = 16 << 20  # from here on latency no longer shows in a bandwidth
SLOW = 0.6  # of the links' rate


def exposed(context: Context) -> Iterator[Match]:
    """D01: a tenth of the step or more is communication that nothing hides, and no finding before explains."""
    table = exchanges(context)
    free = [x for x in table.rows if x.row not in context.claimed]
    exposed_s = table.exposed_s(free)
    if exposed_s < EXPOSED * context.step_s:
        return
    yield from found(
        context, free, saving_s=min(exposed_s, table.spare_s),
        summary=(
            f"{format_time(exposed_s)} of the step, {format_fraction(exposed_s / context.step_s)}, is communication "
            f"that no computation hides; {format_time(table.spare_s)} of computation runs without any"
        ),
        evidence=(*_by_kind(table, free), *_and_waiting(table.waited_s)),
        where="the exchanges between ranks", replacement="communication while something computes",
        how=_overlap(context, free),
    )  # fmt: skip


def _by_kind(table: Exchanges, some: Sequence[Exchange]) -> Iterator[str]:
    """Each kind with its count and times, most exposed first."""
    kinds = {kind: [x for x in some if x.kind == kind] for kind in {x.kind for x in some}}
    exposed_s = {kind: table.exposed_s(own) for kind, own in kinds.items()}
    for kind in sorted(kinds, key=lambda k: -exposed_s[k])[:4]:
        busy_s = table.busy_s(kinds[kind])
        yield (
            f"{table.per_step(kinds[kind]):.0f} × {kind.replace('_', '-')} per step: {format_time(busy_s)}, "
            f"{format_time(exposed_s[kind])} of it exposed"
        )


def _and_waiting(waited_s: float) -> tuple[str, ...]:
    return (f"without {format_time(waited_s)} of waiting for a late rank, which D06 counts",) if waited_s else ()


def _overlap(context: Context, some: Sequence[Exchange]) -> str:
    """One line for the kind that is exposed most."""
    table = exchanges(context)
    kind = max({x.kind for x in some}, key=lambda k: table.exposed_s([x for x in some if x.kind == k]))
    if sharded.sharded_marks(context):
        return "fully_shard(layer, reshard_after_forward=False)  # where memory allows; or prefetch the next layer"
    if any(x.gradient for x in some if x.kind == kind):
        return "DistributedDataParallel(model, bucket_cap_mb=…)  # or accumulate micro-batches under model.no_sync()"
    if kind == "all_to_all":
        return "work = dist.all_to_all_single(out, x, async_op=True)  # then what does not need it, then work.wait()"
    return "work = dist.all_reduce(x, async_op=True)  # then what does not need it, then work.wait()"


def small(context: Context) -> Iterator[Match]:
    """D09: many collectives of a few kilobytes, each of which costs its latency."""
    table = exchanges(context)
    for kind in ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all"):
        own = [x for x in table.rows if x.kind == kind and x.row not in context.claimed and _is_small(x)]
        per_step, exposed_s = table.per_step(own), table.exposed_s(own)
        if per_step < MANY or exposed_s * (1 - 1 / per_step) < data_parallel.WORTH * context.step_s:
            continue
        several = kind.replace("_", "-") + "s"
        yield from found(
            context, own, saving_s=exposed_s * (1 - 1 / per_step), key=kind,
            summary=(
                f"{per_step:.0f} {several} per step of less than 256 KiB each: {format_time(exposed_s)} that nothing "
                "hides, nearly all of it latency; one exchange of them together costs it once"
            ),
            evidence=(f"the shortest takes {format_time(table.latency_s)}, whatever it carries",),
            where=f"the loop that calls dist.{kind}", replacement=_together(context)[0], how=_together(context)[1],
        )  # fmt: skip


def _is_small(x: Exchange) -> bool:
    """Whether it carries less than 256 KiB for sure, or, where the type is not recorded, would as float32."""
    size = x.size_bytes if x.size_bytes is not None else 4 * x.elements
    return 0 < size < SMALL_BYTES


def _together(context: Context) -> tuple[str, str]:
    if sharded.sharded_marks(context):
        return "larger units to shard", "fully_shard(block)  # whole blocks, not each of their layers"
    return "one flat buffer", (
        "flat = torch._utils._flatten_dense_tensors(tensors); dist.all_reduce(flat)  # or DistributedDataParallel"
    )


def gloo_on_device(context: Context) -> Iterator[Match]:
    """D08: tensors of the device go through host memory and Gloo's threads."""
    trace, ops = context.trace, context.trace.host_ops
    marks = trace.annotations
    gloo = trace.named(lambda name: name.startswith("gloo:"))
    ran = np.flatnonzero(gloo[marks.name] & ~marks.on_device) if len(marks) else np.zeros(0, np.int64)
    if not trace.on_device or not len(ran):
        return
    issuing = trace.named(lambda name: name.startswith(("c10d::", "_c10d_functional::")))[ops.name]
    issued = issuing | under(ops.parent, issuing)
    copies = trace.copies
    crossing = np.flatnonzero(copies.crosses_bus & (copies.op >= 0) & issued[np.maximum(copies.op, 0)])
    if not len(crossing):
        return
    spent_s = float((marks.end_ns - marks.start_ns)[ran].sum()) / 1e9 / len(context.steps)
    copied_s = float(copies.duration_ns[crossing].sum()) / 1e9 / len(context.steps)
    rows = np.flatnonzero(issuing & ~under(ops.parent, issuing) & (context.groups.step_of_op >= 0)).tolist()
    yield from found(
        context, [], extra=rows, saving_s=min(spent_s + copied_s, context.step_s),
        summary=(
            f"tensors of the device are exchanged by Gloo, through host memory: {len(ran) / len(context.steps):.0f} "
            f"collectives and {format_time(spent_s)} per step on host threads, {format_time(copied_s)} of copies"
        ),
        evidence=(f"{len(crossing) / len(context.steps):.0f} copies over the bus per step under collectives",),
        where="dist.init_process_group(…)", replacement='backend="nccl"',
        how='dist.init_process_group("cpu:gloo,cuda:nccl")',
    )  # fmt: skip


def slow_links(context: Context) -> Iterator[Match]:
    """D11: large collectives get less than 60 % of what as many ranks got when their links were measured."""
    table, rates = exchanges(context), context.machine.ceilings.link_bytes_per_s
    large = [x for x in table.rows if (x.size_bytes or 0) >= LARGE_BYTES and bus_factor(x.kind, x.ranks)]
    for ranks in sorted({x.ranks for x in large}, key=str):
        if str(ranks) in rates:
            yield from _slow(context, [x for x in large if x.ranks == ranks], rates[str(ranks)])


def _slow(context: Context, own: Sequence[Exchange], rate: float) -> Iterator[Match]:
    table = exchanges(context)
    best = max(_bus_rate(x) for x in own)
    exposed_s = table.exposed_s(own)
    if best >= SLOW * rate or exposed_s * (1 - best / rate) < data_parallel.WORTH * context.step_s:
        return
    yield from found(
        context, own, saving_s=exposed_s * (1 - best / rate), key=f"{own[0].ranks}-ranks",
        summary=(
            f"the fastest large collective gets {format_bytes_per_s(best)} of bus bandwidth, "
            f"{format_fraction(best / rate)} of the {format_bytes_per_s(rate)} measured on {own[0].ranks} ranks"
        ),
        evidence=(f"{table.per_step(own):.0f} collectives of 16 MiB or more per step",),
        where="the links between the ranks", replacement="the fast links: topology and NCCL's settings",
        how="NCCL_DEBUG=INFO python …  # which transport each pair of ranks uses; nvidia-smi topo -m",
    )  # fmt: skip


def _bus_rate(x: Exchange) -> float:
    """Bus bandwidth as nccl-tests counts it, bytes per second."""
    return (x.size_bytes or 0) * (bus_factor(x.kind, x.ranks) or 0.0) / max(x.ran_ns, 1) * 1e9


def single_process(context: Context) -> Iterator[Match]:
    """D07: nn.DataParallel copies the model to every device, and the batch and the results between them."""
    trace, ops = context.trace, context.trace.host_ops
    marks = trace.named(lambda name: name == "DataParallel.forward")
    if not (marks[trace.annotations.name].any() or marks[ops.name].any()):
        return
    names = {n + end for n in ("Broadcast", "Scatter", "Gather", "ReduceAddCoalesced") for end in ("", "Backward")}
    moving = trace.named(names.__contains__)[ops.name] & (context.groups.step_of_op >= 0)
    rows = np.flatnonzero(moving & ~under(ops.parent, moving)).tolist()
    counts = Counter(trace.names[ops.name[row]] for row in rows)
    saving_s = context.seconds(rows)
    yield from found(
        context, [], extra=rows, saving_s=saving_s or None,
        summary=(
            "nn.DataParallel copies the model to every device and gathers the outputs on one, from one Python process: "
            f"{format_time(saving_s)} of copies per step"
        ),
        evidence=tuple(f"{count / len(context.steps):.0f} × {name} per step" for name, count in counts.most_common()),
        where="nn.DataParallel(…)", replacement="DistributedDataParallel, one process per device",
        how="torchrun --nproc-per-node=gpu train.py  # model = DistributedDataParallel(model, device_ids=[local_rank])",
    )  # fmt: skip


_BEFORE = (
    Rule(
        "D08", "gloo-on-device", "tensors of the device exchanged through host memory", gloo_on_device,
        trigger="Gloo's marks, and copies between host and device under collectives",
        advice='backend "nccl" for tensors of the device',
        saving="the time of Gloo's threads and of the copies; NCCL's own is small beside it",
        cannot_show="whether NCCL works on this machine: probe doctor says",
        proof="flag", effort="flag", about="communication", needs=("device work",),
        example=Example('dist.init_process_group("gloo")', 'dist.init_process_group("cpu:gloo,cuda:nccl")'),
    ),
    Rule(
        "D07", "data-parallel", "nn.DataParallel in one process", single_process,
        trigger="torch's mark DataParallel.forward in a step",
        advice="DistributedDataParallel with one process per device",
        saving="the time of broadcasting the model, scattering the batch and gathering the outputs",
        cannot_show="what the one Python process costs all devices together; it is often more than the copies",
        proof="flag", effort="function", about="communication", needs=("device work",),
        example=Example("model = nn.DataParallel(model)",
                        "model = DistributedDataParallel(model, device_ids=[local_rank])  # under torchrun"),
    ),
)  # fmt: skip

_AFTER = (
    Rule(
        "D09", "small-collectives", "many small collectives, one after the other", small,
        trigger="16 or more collectives of a kind per step, each of less than 256 KiB, not hidden",
        advice="exchange them together: one flat buffer, DDP's buckets, larger units of FSDP",
        saving="the exposed time of all but one of them",
        cannot_show="whether one needs the result of another before it can start",
        proof="arithmetic", effort="function", about="communication",
        example=Example("for p in model.parameters():\n    dist.all_reduce(p.grad)",
                        "model = DistributedDataParallel(model)  # buckets of 25 MiB"),
    ),
    Rule(
        "D11", "slow-links", "large collectives far below what the links carry", slow_links,
        trigger="the fastest collective of 16 MiB or more below 60 % of what the suite collectives got on as many",
        advice="look at the topology and at which transport NCCL chose",
        saving="the exposed time at the links' rate",
        cannot_show="which links the ranks are joined by, and who else uses them",
        proof="flag", effort="design", about="communication", needs=("device work",),
        example=Example("NCCL_P2P_DISABLE=1 torchrun …", "torchrun …  # peers over NVLink"),
    ),
    *stragglers.RULES,
    Rule(
        "D01", "exposed-communication", "communication that no computation hides", exposed,
        trigger="for a tenth of the step or more ranks exchange and nothing else runs, which no other finding explains",
        advice="start exchanges as early as their data is there and wait as late as possible; send less, less often",
        saving="the exposed time, as far as there is computation to hide it behind",
        cannot_show="how much of it is waiting for a slower rank: record all ranks (probe.profile(ranks='all'))",
        proof="flag", effort="design", about="communication",
        example=Example("dist.all_reduce(x)\ny = f(z)",
                        "work = dist.all_reduce(x, async_op=True)\ny = f(z)\nwork.wait()"),
    ),
)  # fmt: skip

RULES: tuple[Rule, ...] = (*_BEFORE, *data_parallel.RULES, *gradient_types.RULES, *sharded.RULES, *_AFTER)
