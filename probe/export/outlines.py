"""What must be known of every trace before the first of them is written: who it is of, its device, its clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from probe.export.clocks import Axis, common_axis
from probe.export.offsets import Recording, first_ns, from_collectives, given, recording
from probe.export.traces import Traces
from probe.machine.device import Device
from probe.trace import Quality, Trace


@dataclass(frozen=True)
class Outline:
    """One trace without its rows."""

    path: str
    rank: int | None
    world_size: int | None
    device: Device
    device_number: int  # the lowest on which work ran; 0 where none is known
    with_shapes: bool
    start_unix_ns: int
    first_ns: int  # first start in the trace, on its own clock
    quality: Quality
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Lineup:
    """The traces of an export on one axis; each is asked for once more when it is written."""

    traces: Sequence[Trace]
    outlines: tuple[Outline, ...]
    axis: Axis


def line_up(traces: Sequence[Trace], offsets_ns: Mapping[int, int] | None = None) -> Lineup:
    """Look at each trace once. `offsets_ns` is added to the times of a rank, by rank.

    Where it is None, ranks are set to one clock by the collectives they share, and a warning names those that share
    none. Collectives are those of the whole recording, whatever part of it is exported: more of them, and of a window
    nobody knows which ranks begin with the same one.
    """
    compared = offsets_ns is None and len(traces) > 1
    looks = [_look(traces, number, compared) for number in range(len(traces))]
    outlines = tuple(outline for outline, _ in looks)
    offsets = from_collectives([r for _, r in looks if r is not None]) if compared else given(offsets_ns or {})
    nameless = [f"{o.path}: nothing says its rank, so its clock could not be set" for o in outlines if o.rank is None]
    axis = common_axis(outlines, replace(offsets, warnings=(*offsets.warnings, *(nameless if compared else ()))))
    return Lineup(traces, outlines, axis)


def _look(traces: Sequence[Trace], number: int, compared: bool) -> tuple[Outline, Recording | None]:
    """What must be known of one trace; it is let go before the next is read."""
    if compared and isinstance(traces, Traces):
        whole, part = traces.whole_and_part(number)
    else:
        whole = part = traces[number]
    return _outline(part), recording(whole, part.rank) if compared and part.rank is not None else None


def _outline(trace: Trace) -> Outline:
    return Outline(
        path=trace.path,
        rank=trace.rank,
        world_size=trace.world_size,
        device=trace.device,
        device_number=_device_number(trace),
        with_shapes=trace.with_shapes,
        start_unix_ns=trace.start_unix_ns,
        first_ns=first_ns(trace),
        quality=trace.quality,
        warnings=trace.warnings,
    )


def _device_number(trace: Trace) -> int:
    used = np.concatenate([trace.kernels.device, trace.copies.device])
    return int(used[used >= 0].min()) if (used >= 0).any() else 0
