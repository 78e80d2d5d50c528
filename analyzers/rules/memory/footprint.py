"""M03, M04, M05, M07: memory that is nearly full, in pieces, taken by one large transient, or left unused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from probe.analyzers.memory.levels import block_level
from probe.analyzers.memory.summary import forecast, fragmentation, lifetimes_ns
from probe.analyzers.memory.use import MemoryUse
from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.matching.units import MATRIX
from probe.analyzers.rules.rule import Example, Rule
from probe.trace import Int64s, Mask
from probe.units import format_bytes, format_fraction

NEAR_FULL = 0.9  # of the device's memory
IN_PIECES = 1.3  # reserved over allocated, both at their highest
WORTH_BYTES = 256 << 20  # less than this in pieces is what whole segments cost
LARGE_FRACTION = 0.1  # of the peak: a transient, and what the peak falls by without it
LARGE_BYTES = 16 << 20
OUTSTANDS = 2.0  # times the next smaller kind of block
FEW_ALIVE = 4  # of the same size: more are the layers' own activations
SHORT_FRACTION = 0.25  # of a step
DOMINATES = 0.5  # of the peak: then it need not be short-lived
HEADROOM = 0.5  # of the device's memory
AMORTISED = 0.3  # of the step: fixed costs, and weights that are read for few rows
LISTED = 3  # forecasts in a finding


def near_full(context: Context) -> Iterator[Match]:
    """M03: the allocator holds nearly all of the device's memory."""
    use, capacity = context.memory, context.trace.device.memory_bytes
    if use is None or use.levels.reserved is None or not capacity:
        return
    held = int(use.levels.reserved[use.levels.inside].max())
    if held < NEAR_FULL * capacity:
        return
    changes = forecast(context.trace, use)
    yield Match(
        rows=(),
        ops=(),
        summary=(
            f"{format_bytes(held)} of {format_bytes(capacity)} are reserved, {format_fraction(held / capacity)}; "
            f"{format_bytes(use.peak_bytes)} are in use at the peak: a slightly larger batch fails"
        ),
        evidence=tuple(
            f"{one.change}: {format_bytes(one.saving_bytes)} less at the peak, if {one.assumes}"
            for one in changes[:LISTED]
        ),
        saving_s=None,
        saving_bytes=changes[0].saving_bytes if changes else None,
        replacement=changes[0].change if changes else "a smaller batch",
        how="x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)",
    )


def in_pieces(context: Context) -> Iterator[Match]:
    """M04: much more is reserved than was ever in use at once."""
    use = context.memory
    found = fragmentation(use) if use is not None and use.complete else None
    if use is None or found is None or found.ratio < IN_PIECES:
        return
    unused = found.reserved_bytes - found.allocated_bytes
    if unused < WORTH_BYTES:
        return
    yield Match(
        rows=(),
        ops=(),
        summary=(
            f"{format_bytes(found.reserved_bytes)} are reserved for at most {format_bytes(found.allocated_bytes)} in "
            f"use, {found.ratio:.2f} times as much: {format_bytes(unused)} lie in pieces that nothing fits"
        ),
        evidence=("both are the highest within the recorded steps",),
        saving_s=None,
        saving_bytes=unused,
        replacement="expandable segments",
        how="PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True python train.py",
    )


def large_transient(context: Context) -> Iterator[Match]:
    """M05: one short-lived kind of block, much larger than all others, makes the peak."""
    use = context.memory
    if use is None:
        return
    family = _outstanding(context, use)
    if family is None or _told_already(context, family):
        return
    without = int((use.levels.total - family.level)[use.levels.inside].max())
    saved = use.peak_bytes - without
    if saved < LARGE_FRACTION * use.peak_bytes:
        return
    names = Counter(context.trace.names[context.trace.host_ops.name[row]] for row in family.owners_at_peak)
    makers = ", ".join(name for name, _ in names.most_common(LISTED)) or "Python"
    yield Match(
        rows=(),
        ops=tuple(dict.fromkeys(context.groups.of_op[list(family.owners_at_peak)].tolist())),
        summary=(
            f"{_described(family, makers)} {format_fraction(family.alive * family.size / use.peak_bytes)} of the peak, "
            f"{format_bytes(use.peak_bytes)}; made piece by piece, the peak would be {format_bytes(without)}"
        ),
        evidence=(
            f"the next smaller blocks at the peak are of {format_bytes(family.next_size)}",
            *(() if use.complete else ("what was there before the recording is not counted in the peak",)),
        ),
        saving_s=None,
        saving_bytes=saved,
        replacement=_instead(makers),
        how=_piecewise(makers),
        key=makers.partition(",")[0],
    )


@dataclass(frozen=True, eq=False)
class _Family:
    """Blocks of one size that are activations or live shortly."""

    size: int
    next_size: int
    alive: int  # at the peak
    owners: frozenset[int]  # operators that allocated any of them
    owners_at_peak: tuple[int, ...]
    level: Int64s  # bytes of them after each event


def _outstanding(context: Context, use: MemoryUse) -> _Family | None:
    """The largest kind of block at the peak, where it stands out, is rare and lives shortly."""
    passing = use.of("activations", "temporary", "workspace")
    peak = passing & use.blocks.alive(use.peak_ns)
    sizes, counts = np.unique(use.blocks.bytes[peak], return_counts=True)
    if not len(sizes):
        return None
    size, following = int(sizes[-1]), int(sizes[-2]) if len(sizes) > 1 else 0
    like = passing & (use.blocks.bytes == size)
    short = _short(context, use) & like & peak
    brief = short.any() or size >= DOMINATES * use.peak_bytes
    large = size >= max(LARGE_BYTES, LARGE_FRACTION * use.peak_bytes) and size >= OUTSTANDS * following
    if not large or counts[-1] > FEW_ALIVE or not brief:
        return None
    return _Family(
        size=size,
        next_size=following,
        alive=int(counts[-1]),
        owners=frozenset(use.owner[like & (use.owner >= 0)].tolist()),
        owners_at_peak=tuple(use.owner[like & peak & (use.owner >= 0)].tolist()),
        level=block_level(context.trace.allocations, use.device, use.blocks, like),
    )


def _short(context: Context, use: MemoryUse) -> Mask:
    """Which blocks live shortly: within a phase, or for less than a quarter of a step; without training all do."""
    limit_ns = SHORT_FRACTION * float(context.steps.duration_ns.mean())
    short: Mask = use.of("temporary", "workspace") | (lifetimes_ns(use) <= limit_ns)
    return short if use.trains else short | use.of("activations")


def _told_already(context: Context, family: _Family) -> bool:
    """Whether a rule of its own (attention, cross-entropy) has claimed the softmax that makes or reads them."""
    trace = context.trace
    claimed = context.claimed.intersection(family.owners)
    return any("softmax" in trace.names[trace.host_ops.name[row]] for row in claimed)


def _described(family: _Family, makers: str) -> str:
    """The beginning of a sentence about them."""
    if family.alive == 1:
        return f"one tensor of {format_bytes(family.size)} ({makers}) makes up"
    return f"{family.alive} tensors of {format_bytes(family.size)} ({makers}) make up"


def _instead(makers: str) -> str:
    if "log_softmax" in makers:
        return "a cross-entropy that never holds all logits"
    return "scaled_dot_product_attention" if "softmax" in makers else "the same in chunks"


def _piecewise(makers: str) -> str:
    """The line to paste for what such operators make."""
    if "log_softmax" in makers:
        return "loss = sum(F.cross_entropy(head(a), b, reduction='sum') for a, b in parts) / len(y)  # 256 rows each"
    if "softmax" in makers:
        return "y = F.scaled_dot_product_attention(q, k, v)"
    return "y = torch.cat([f(part) for part in x.split(1024)])  # or add up the parts"


def headroom(context: Context) -> Iterator[Match]:
    """M07: most of the memory is free while the step is made of costs that a larger batch would share."""
    use, capacity = context.memory, context.trace.device.memory_bytes
    if use is None or use.device < 0 or not capacity or not context.trace.on_device or not use.complete:
        return
    fixed_s = context.parts["overhead"] + context.parts["latency"]
    weights_s = _weights_s(context)
    share = (fixed_s + weights_s) / context.step_s
    if use.peak_bytes > HEADROOM * capacity or share < AMORTISED or context.parts["host"] > share * context.step_s:
        return
    passing = int(use.levels.by_category[:, use.levels.peak()].sum() - sum(use.held.bytes.values()))
    fits = (NEAR_FULL * capacity - (use.peak_bytes - passing)) / passing if passing > 0 else 0.0
    if fits < 2:
        return
    yield Match(
        rows=(),
        ops=(),
        summary=(
            f"{format_bytes(use.peak_bytes)} at the peak are {format_fraction(use.peak_bytes / capacity)} of the "
            f"memory, and {format_fraction(share)} of the step does not grow with the batch"
        ),
        evidence=(
            f"overhead and latency: {format_fraction(fixed_s / context.step_s)} of the step",
            f"matrix products bound by reading their weights: {format_fraction(weights_s / context.step_s)}",
            f"a batch {min(fits, 64):.0f} times as large would fit, if what is not there throughout grows with it",
        ),
        saving_s=None,
        where="the whole step",
        replacement="a larger batch",
        how="loader = DataLoader(dataset, batch_size=2 * batch_size)  # with the learning rate to match",
    )


def _weights_s(context: Context) -> float:
    """Device time per step of matrix products that are bound by memory: few rows for what they read."""
    groups = context.groups
    names = {f"aten::{name}" for name in MATRIX}
    rows = [g for g, name in enumerate(groups.name) if name in names and context.bounds[g] == "memory"]
    return float(groups.device_s[rows].sum()) / len(context.steps)


RULES = (
    Rule(
        code="M05",
        name="large-transient",
        title="one tensor makes the peak",
        find=large_transient,
        trigger="a block of a tenth of the peak, twice any other, that lives within a phase or is half of it",
        advice="make it piece by piece, or fuse what makes it with what reads it",
        saving="bytes by which the peak falls without it, from the recorded levels",
        cannot_show="whether the pieces can be computed on their own",
        proof="module",
        effort="function",
        needs=("memory",),
        example=Example("F.cross_entropy(head(x), y)", "sum of F.cross_entropy(head(part), …) over x.split(1024)"),
        shares=True,
        about="memory",
    ),
    Rule(
        code="M03",
        name="near-out-of-memory",
        title="memory is nearly full",
        find=near_full,
        trigger="nine tenths of the device's memory are reserved within the steps",
        advice="checkpoint activations, a fused cross-entropy, bfloat16, 8-bit optimizer states, sharding",
        saving="bytes, computed from the categories at the peak",
        cannot_show="what other processes hold of the same device",
        proof="flag",
        effort="function",
        needs=("memory",),
        example=Example("x = block(x)", "x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)"),
        shares=True,
        about="memory",
    ),
    Rule(
        code="M04",
        name="fragmentation",
        title="reserved memory lies in pieces",
        find=in_pieces,
        trigger="1.3 times as much is reserved as is in use at the peak, and 256 MiB more",
        advice="expandable segments; shapes that repeat",
        saving="bytes reserved and not in use at the peak",
        cannot_show="a higher peak before the recording, in an evaluation for example, which leaves memory reserved",
        proof="flag",
        effort="flag",
        needs=("memory",),
        example=Example("python train.py", "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True python train.py"),
        shares=True,
        about="memory",
    ),
    Rule(
        code="M07",
        name="unused-headroom",
        title="memory is free for a larger batch",
        find=headroom,
        trigger="half of the memory is free, and a third of the step is overhead, latency or the reading of weights",
        advice="a larger batch, which shares those costs among more samples",
        saving="not stated: the step gets longer, and each sample cheaper",
        cannot_show="whether a larger batch trains as well, and what a served request may wait",
        proof="flag",
        effort="line",
        needs=("memory",),
        example=Example("DataLoader(data, batch_size=8)", "DataLoader(data, batch_size=64)"),
        shares=True,
        about="memory",
    ),
)
