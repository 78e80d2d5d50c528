"""The memory of an analysis: peak, holders, timeline, fragmentation and forecast, put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod

import numpy as np

from probe.analyzers.cost_models.dtypes import ELEMENT_TYPES
from probe.analyzers.memory.blocks import AFTER, BEFORE
from probe.analyzers.memory.categories import BACKWARD, FORWARD, ROUNDED
from probe.analyzers.memory.forecast import forecasts
from probe.analyzers.memory.levels import block_level, thinned
from probe.analyzers.memory.use import MemoryUse
from probe.results.memory_use import CATEGORIES, PHASES, Forecast, Fragmentation, Holder, Memory
from probe.trace import Dims, Int64s, Mask, Steps, Trace

HOLDERS = 12
LARGE_VOCABULARY = 8192  # classes from which logits weigh more than what made them
NO_ADDRESSES = "allocations were recorded without addresses (torch before 1.11): whose they are is not known"

Where = Callable[[Sequence[int]], str | None]  # the module of operators


def summary(trace: Trace, steps: Steps, use: MemoryUse | None, where: Where) -> Memory | None:
    """What the analysis says of memory; None where no allocation was recorded."""
    if use is None:
        nothing: dict[str, int | None] = dict.fromkeys(CATEGORIES)
        return Memory(None, nothing, None, notes=(NO_ADDRESSES,)) if len(trace.allocations) else None
    peak = use.levels.by_category[:, use.levels.peak()]
    reserved = use.levels.reserved
    return Memory(
        peak_bytes=use.peak_bytes,
        by_category={name: int(size) for name, size in zip(CATEGORIES, peak.tolist(), strict=True)},
        peak_at=_peak_at(trace, steps, use, where),
        device=_device_name(trace, use.device),
        capacity_bytes=trace.device.memory_bytes if use.device >= 0 else None,
        reserved_peak_bytes=None if reserved is None else int(reserved[use.levels.inside].max()),
        growth_bytes_per_step=_growth(steps, use),
        holders=tuple(_holders(trace, use, where)),
        timeline=thinned(use.levels),
        fragmentation=fragmentation(use),
        forecast=forecast(trace, use),
        notes=use.notes,
    )


def _device_name(trace: Trace, device: int) -> str:
    return f"{trace.device.name} (device {device})" if device >= 0 else "host"


def _peak_at(trace: Trace, steps: Steps, use: MemoryUse, where: Where) -> str:
    """Step, phase and operator of the peak, in words."""
    piece = int(use.pieces.at(np.array([use.peak_ns]))[0])
    step = int(use.pieces.step[piece])
    event = int(np.flatnonzero(trace.allocations.device == use.device)[use.levels.peak()])
    told = [f"step {int(steps.number[step])}, {use.pieces.named(piece)}" if step >= 0 else "before the first step"]
    for owner in use.owner[(use.blocks.taken == event) & (use.owner >= 0)].tolist():
        told.append(trace.names[trace.host_ops.name[owner]])
        module = where([owner])
        told += [f"in {module}"] if module else []
    return ", ".join(told)


def _growth(steps: Steps, use: MemoryUse) -> int | None:
    """What stays behind after each step, at least; None with one step."""
    if len(steps) < 2:
        return None
    at = np.searchsorted(use.levels.at_ns, steps.end_ns, side="right") - 1
    total = np.append(use.levels.total, use.levels.total[0])[at]
    return max(int(np.diff(total).min()), 0)


def fragmentation(use: MemoryUse) -> Fragmentation | None:
    """What was reserved against what was in use, both at their highest within the steps."""
    if use.levels.reserved is None or not use.peak_bytes:
        return None
    reserved = int(use.levels.reserved[use.levels.inside].max())
    return Fragmentation(reserved, use.peak_bytes, reserved / use.peak_bytes)


def _holders(trace: Trace, use: MemoryUse, where: Where) -> Iterator[Holder]:
    """Who held the most at the peak."""
    found = [Holder(name, None, None, "outside", 0, size) for name, size in use.held.bytes.items() if size]
    groups: dict[tuple[int, int, int], list[int]] = {}
    pieces = use.pieces.kind[use.pieces.at(use.blocks.begin_ns)]
    names = np.append(trace.host_ops.name, -1)[use.owner]
    for row in np.flatnonzero(use.blocks.alive(use.peak_ns)).tolist():
        groups.setdefault((int(use.kind[row]), int(names[row]), int(pieces[row])), []).append(row)
    for (kind, name, phase), rows in groups.items():
        owned = [int(op) for op in use.owner[rows] if op >= 0]
        found.append(Holder(
            category=CATEGORIES[kind],
            operator=trace.names[name] if name >= 0 else None,
            where=where(owned) if owned else None,
            phase=PHASES[phase],
            blocks=len(rows),
            bytes=int(use.blocks.bytes[rows].sum()),
        ))  # fmt: skip
    yield from sorted(found, key=lambda holder: -holder.bytes)[:HOLDERS]


def forecast(trace: Trace, use: MemoryUse) -> tuple[Forecast, ...]:
    """The changes that would lower the peak."""
    there = use.blocks.alive(use.peak_ns) & use.of("activations")
    logits = logit_blocks(trace, use)
    return forecasts(
        use.levels,
        activations=int(there.sum()),
        in_float32=_share_in_float32(trace, use, there),
        logits=block_level(trace.allocations, use.device, use.blocks, logits) if logits.any() else None,
        forward_s=None if trace.on_device else _forward_s(use),
        trains=use.trains,
        world_size=trace.world_size,
    )


def _share_in_float32(trace: Trace, use: MemoryUse, chosen: Mask) -> float:
    """Share of the bytes of blocks whose operators compute in float32."""
    rows = np.flatnonzero(chosen & (use.owner >= 0))
    signature = trace.host_ops.signature[use.owner[rows]]
    single = np.array([_computes_in_float32(trace, int(number)) for number in signature.tolist()], bool)
    total = int(use.blocks.bytes[chosen].sum())
    return float(use.blocks.bytes[rows[single]].sum()) / total if total else 0.0


def _computes_in_float32(trace: Trace, signature: int) -> bool:
    """Whether the first tensor among the arguments is of float32."""
    dtypes = trace.signatures[signature].dtypes if signature >= 0 else ()
    first = next((ELEMENT_TYPES[dtype] for dtype in dtypes if dtype in ELEMENT_TYPES), None)
    return first is not None and first.name == "float32"


def logit_blocks(trace: Trace, use: MemoryUse) -> Mask:
    """Which blocks are as large as the logits of a large vocabulary, their logarithms or their gradient."""
    sizes = list(_logit_sizes(trace))
    wanted = np.array([n for elements in sizes for n in _rounded(elements)], np.int64)
    return np.isin(use.blocks.bytes, wanted) & use.of("activations", "temporary", "workspace")


def _logit_sizes(trace: Trace) -> Iterator[int]:
    """Elements of what goes into log_softmax over many classes."""
    names = trace.named(lambda name: name == "aten::_log_softmax")
    ops = trace.host_ops
    for number in np.unique(ops.signature[names[ops.name]]).tolist():
        size: Dims = trace.signatures[number].dims[0] if number >= 0 and trace.signatures[number].dims else ()
        if len(size) > 1 and int(size[-1]) >= LARGE_VOCABULARY:
            yield prod(size)


def _rounded(elements: int) -> Iterator[int]:
    """Bytes of so many elements in 2 or 4 bytes each, as they are and as the CUDA allocator rounds them."""
    for width in (2, 4):
        yield elements * width
        yield -(-elements * width // ROUNDED) * ROUNDED


def _forward_s(use: MemoryUse) -> float | None:
    """Mean time of the forward passes before a backward pass; None without one."""
    kind, start = use.pieces.kind, use.pieces.start_ns
    before = np.flatnonzero((kind[:-1] == FORWARD) & (kind[1:] == BACKWARD))
    return float((start[before + 1] - start[before]).mean()) / 1e9 if len(before) else None


def lifetimes_ns(use: MemoryUse) -> Int64s:
    """How long each block lived; AFTER where it is not known, [blocks]."""
    known = (use.blocks.begin_ns != BEFORE) & (use.blocks.end_ns != AFTER)
    return np.where(known, use.blocks.end_ns - use.blocks.begin_ns, AFTER)
