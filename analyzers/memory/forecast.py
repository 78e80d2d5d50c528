"""What would lower the peak, and by how much? Arithmetic on the levels by category, each with what it assumes."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

import numpy as np
import numpy.typing as npt

from probe.analyzers.memory.levels import Levels
from probe.results.memory_use import CATEGORIES, Category, Forecast
from probe.trace import Int64s
from probe.units import format_time

LEAST_FRACTION = 0.01  # of the peak: less is not worth a line
FEWEST_ACTIVATIONS = 8  # below it there is nothing to divide into segments
RANKS = 8  # for sharding, where the trace is of one process
Scale = npt.NDArray[np.float64]


def forecasts(
    found: Levels, *, activations: int, in_float32: float, logits: Int64s | None, forward_s: float | None,
    trains: bool, world_size: int | None,
) -> tuple[Forecast, ...]:  # fmt: skip
    """The changes that would lower the peak, the most first.

    activations: how many are alive at the peak. in_float32: the share of their bytes in float32. logits: bytes of the
    logits and their copies after each event. forward_s: time of a forward pass. trains: whether there is a
    backward one.
    """
    told = (
        *(_checkpointing(activations, forward_s) if trains else ()),
        *_bfloat16(in_float32),
        *(_sharding(world_size) if trains else ()),
        ("8-bit optimizer states", _scale(optimizer=0.25), "other numerics",
         "states in float32 become bytes, with little for the scales of their blocks"),
    )  # fmt: skip
    now = int(found.total[found.peak()])
    listed = [_forecast(now, change, found.peak_with(scale), cost, assumes) for change, scale, cost, assumes in told]
    if logits is not None:
        listed.append(_forecast(
            now, "fused or chunked cross-entropy", found.peak_with(_scale(), logits), None,
            "the logits, their logarithms and their gradient are never whole; a chunk of them is small",
        ))  # fmt: skip
    worth = [forecast for forecast in listed if forecast.saving_bytes >= LEAST_FRACTION * now]
    return tuple(sorted(worth, key=lambda forecast: -forecast.saving_bytes))


def _forecast(now: int, change: str, then: int, cost: str | None, assumes: str) -> Forecast:
    return Forecast(change, then, max(now - then, 0), cost, assumes)


_Told = tuple[str, Scale, str | None, str]


def _scale(**changed: float) -> Scale:
    """What each category is multiplied with, in the order of CATEGORIES."""
    scale: dict[Category, float] = dict.fromkeys(CATEGORIES, 1.0)
    return np.array(list((scale | changed).values()))


def _checkpointing(activations: int, forward_s: float | None) -> Iterator[_Told]:
    """Segments of equal size: what goes into each is kept, and one is whole at a time."""
    if activations < FEWEST_ACTIVATIONS:
        return
    segments = round(sqrt(activations))
    per_segment = activations / segments
    cost = f"another forward pass, {format_time(forward_s)}" if forward_s else "another forward pass"
    yield (
        "activation checkpointing",
        _scale(activations=min(1.0, (segments + per_segment) / activations)),
        cost,
        f"the {activations} activations at the peak are of equal size and are divided into {segments} segments",
    )


def _bfloat16(in_float32: float) -> Iterator[_Told]:
    """Autocast: activations in half the bytes, while a copy of the parameters in bfloat16 is kept for the step."""
    if in_float32 <= 0:
        return
    yield (
        "bfloat16 autocast",
        _scale(activations=1 - in_float32 / 2, parameters=1.5),
        None,
        f"{in_float32:.0%} of the activations are float32 and halve; bfloat16 copies of the parameters are cached",
    )


def _sharding(world_size: int | None) -> Iterator[_Told]:
    """ZeRO: optimizer states, then gradients, then parameters divided over the ranks."""
    ranks = world_size if world_size and world_size > 1 else RANKS
    share = 1 / ranks
    over = f"over {ranks} ranks{'' if ranks == world_size else ' (this is one process)'}"
    for stage, divided, scale in (
        (1, "optimizer states", _scale(optimizer=share)),
        (2, "optimizer states and gradients", _scale(optimizer=share, gradients=share)),
        (3, "optimizer states, gradients and parameters",
         _scale(optimizer=share, gradients=share, parameters=share)),
    ):  # fmt: skip
        cost = "each layer's parameters are gathered before its use" if stage == 3 else None
        yield f"ZeRO stage {stage}", scale, cost, f"{divided} divided evenly {over}"
