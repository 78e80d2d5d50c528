"""Which batch and which context fit into a device? The memory plan, turned round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from probe.planning.memory import Training, training_memory
from probe.planning.result import Plan, fraction, positive
from probe.planning.transformer import Shape

MOST = 1 << 24


def fit(shape: Shape, training: Training, capacity_bytes: float, *, usable: float = 0.9) -> Plan:
    """The largest batch at the given context, and the longest context at the given batch. usable: of the memory."""
    positive(memory=capacity_bytes)
    fraction(usable=usable)
    room = capacity_bytes * usable

    def fits(changed: Training) -> bool:
        return bool(training_memory(shape, changed).result["peak_bytes"] <= room)

    batch = largest(lambda n: fits(replace(training, batch=n)))
    context = largest(lambda n: fits(replace(training, sequence=n)))
    here = training_memory(shape, training, room)
    result: dict[str, Any] = {
        "peak_bytes": here.result["peak_bytes"], "usable_bytes": room, "fits": here.result["fits"],
        "largest_batch": batch, "longest_context": context,
    }  # fmt: skip
    warnings = () if batch else ("not one sequence of that context fits: shard, checkpoint, or take a smaller model",)
    said = (*here.assumptions, f"{usable:.0%} of the memory can be used: the rest is the driver's and fragmentation")
    return Plan("fit", {**asdict(shape), **asdict(training)}, result, here.parts, said, warnings)


def largest(fits: Callable[[int], bool]) -> int:
    """The largest number that fits, where fewer always fit too; 0 where 1 does not."""
    if not fits(1):
        return 0
    low, high = 1, 2
    while high < MOST and fits(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
