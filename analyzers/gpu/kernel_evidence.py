"""What do the launches of an operator's kernels say of why it is slow: too few blocks, a tail, what kind of kernel?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.analyzers.gpu.kernel_names import WORDS, Sort, is_unvectorised, sort_of
from probe.analyzers.gpu.sm_limits import Residence, SmLimits, limits, residence
from probe.machine.device import Device
from probe.trace import Int32s, Int64s, LaunchShape, Mask, Trace

# Occupancy up to which too few warps are resident to hide a memory access (Little's law on every generation).
LOW_OCCUPANCY = 0.25
# Share of its SM time that a kernel uses up to which its last wave is to blame.
TAIL = 0.75
MOST = 0.5  # of an operator's device time: evidence for less does not decide
# HIP's calls that take the grid in threads; all others, and CUDA's, take it in blocks. Profilers write what was given.
_IN_THREADS = "hipExtModuleLaunchKernel"
_SORTS: dict[Sort, str] = {  # the limiter that a kind of kernel far below every roof has
    "indexed": "dependency", "sort": "dependency", "scan": "dependency", "atomic": "dependency",
    "strided": "strided-access",
}  # fmt: skip


@dataclass(frozen=True)
class KernelRuns:
    """All launches of one kernel with one shape by one group of operators."""

    name: str
    shape: LaunchShape | None  # grid in blocks; None where not recorded
    launches: int
    seconds: float  # of all of them

    @property
    def mean_s(self) -> float:
        """Time of one launch."""
        return self.seconds / self.launches if self.launches else 0.0


@dataclass(frozen=True)
class Filling:
    """How a launch fills the device's SMs."""

    blocks: int
    waves: float | None  # of blocks, each as many as fit at a time; None where registers or shared memory are not known
    tail_fraction: float | None  # share of the SM time that is used: a last wave that is not full wastes the rest
    warps_fraction: float | None  # warps that are resident at a time at the most, of those that the device can hold
    residence: Residence | None


@dataclass(frozen=True)
class Cause:
    """Why kernels are far below every roof, and for which share of the operator's device time that holds."""

    limiter: str
    text: str
    share: float


def runs_of_groups(trace: Trace, of_kernel: Int32s) -> dict[int, tuple[KernelRuns, ...]]:
    """The kernels of each operator group by name and launch shape, the longest first."""
    kernels = trace.kernels
    owned = np.flatnonzero(of_kernel >= 0)
    shapes = _shapes_in_blocks(trace)
    shape = shapes.of_kernel[owned]
    names = of_kernel[owned].astype(np.int64) * len(trace.names) + kernels.name[owned]
    distinct, which = np.unique(names * len(shapes.known) + shape, return_inverse=True)
    counts = np.bincount(which, minlength=len(distinct))
    spent = np.bincount(which, weights=kernels.duration_ns[owned], minlength=len(distinct)) / 1e9
    found: dict[int, list[KernelRuns]] = defaultdict(list)
    for key, count, seconds in zip(distinct.tolist(), counts.tolist(), spent.tolist(), strict=True):
        rest, number = divmod(key, len(shapes.known))
        group, name = divmod(rest, len(trace.names))
        found[group].append(KernelRuns(trace.names[name], shapes.known[number], count, seconds))
    return {group: tuple(sorted(runs, key=lambda r: -r.seconds)) for group, runs in found.items()}


@dataclass(frozen=True, eq=False)
class _Shapes:
    known: tuple[LaunchShape | None, ...]
    of_kernel: Int32s  # into known


def _shapes_in_blocks(trace: Trace) -> _Shapes:
    """The launch shape of each kernel with its grid in blocks, whatever the call took it in."""
    known: list[LaunchShape | None] = [*trace.launch_shapes, None]
    number = np.where(trace.kernels.launch_shape >= 0, trace.kernels.launch_shape, len(trace.launch_shapes))
    threads = _launched_in_threads(trace)
    for shape in np.unique(number[threads]).tolist():
        recorded = known[shape]
        if recorded is not None:
            number[threads & (number == shape)] = len(known)
            known.append(in_blocks(recorded))
    return _Shapes(tuple(known), number.astype(np.int32))


def _launched_in_threads(trace: Trace) -> Mask:
    launch = trace.kernels.launch
    calls = trace.named(lambda name: name.startswith(_IN_THREADS))
    found = np.zeros(len(launch), bool)
    if calls.any():
        found[launch >= 0] = calls[trace.runtime_calls.name[launch[launch >= 0]]]
    return found


def in_blocks(shape: LaunchShape) -> LaunchShape:
    """A launch shape whose grid was given in threads, with the grid in blocks."""
    if len(shape.grid) != len(shape.block):
        return shape
    return replace(shape, grid=tuple(-(-g // max(b, 1)) for g, b in zip(shape.grid, shape.block, strict=True)))


def filling(shape: LaunchShape, device: Device) -> Filling | None:
    """How a launch fills a device; None where its grid or the number of SMs is not known."""
    blocks = prod(max(extent, 1) for extent in shape.grid)
    if not shape.grid or not device.sm_count:
        return None
    limit = limits(device)
    fits = residence(shape, limit) if limit else None
    told = shape.theoretical_occupancy_fraction  # the profiler's own estimate; None where rounding made it 0
    if limit is None or fits is None or (told is not None and not fits.exact):
        return Filling(blocks, None, None, told, None)
    return _filled(blocks, device.sm_count, limit, fits)


def _filled(blocks: int, sm_count: int, limit: SmLimits, fits: Residence) -> Filling:
    at_once = sm_count * fits.blocks
    waves = blocks / at_once if fits.exact else None
    per_block = fits.warps / fits.blocks
    return Filling(
        blocks=blocks,
        waves=waves,
        tail_fraction=waves / ceil(waves) if waves is not None and waves > 1 else None,
        warps_fraction=min(blocks, at_once) * per_block / (sm_count * limit.warps),
        residence=fits,
    )


def causes(runs: Sequence[KernelRuns], device: Device, small_s: float) -> list[Cause]:
    """What keeps these kernels from every roof, the most time first; shares of different causes do not overlap.

    small_s: kernels that take no longer are about as long as their launch.
    """
    total = sum(run.seconds for run in runs)
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for run in runs:
        cause = _cause(run, device, small_s)
        if cause is not None:
            found[cause[0]].append((run.seconds, cause[1]))
    said = [Cause(limiter, max(told)[1], sum(s for s, _ in told) / total) for limiter, told in found.items() if total]
    return sorted(said, key=lambda cause: -cause.share)


def _cause(run: KernelRuns, device: Device, small_s: float) -> tuple[str, str] | None:
    """The limiter of one kernel and the figures for it."""
    if run.mean_s <= small_s:
        return "small-kernel", f"{run.launches} kernels of {run.mean_s * 1e6:.1f} µs, about as long as their launch"
    filled = filling(run.shape, device) if run.shape is not None else None
    return next((found for found in _figures(run, filled, device) if found), None)


def _figures(run: KernelRuns, filled: Filling | None, device: Device) -> Iterator[tuple[str, str] | None]:
    """Each cause that the launch or the name can show, the most certain first."""
    sort = sort_of(run.name)
    yield ("copy", WORDS["layout"]) if sort == "layout" else None
    if filled is not None:
        yield _few_blocks(filled, device)
        yield _few_warps(filled)
        yield _last_wave(filled)
    yield (_SORTS[sort], WORDS[sort]) if sort in _SORTS else None
    yield ("strided-access", WORDS["strided"]) if is_unvectorised(run.name) else None


def _few_blocks(filled: Filling, device: Device) -> tuple[str, str] | None:
    if device.sm_count and filled.blocks < device.sm_count:
        return "low-occupancy", f"{blocks_text(filled.blocks)} for {device.sm_count} SMs"
    return None


def _few_warps(filled: Filling) -> tuple[str, str] | None:
    share = filled.warps_fraction
    if share is None or share > LOW_OCCUPANCY:
        return None
    if filled.residence is None:
        return "low-occupancy", f"theoretical occupancy {share:.0%}"
    fits = filled.residence
    why = f"{fits.limited_by} let {fits.blocks} blocks onto an SM" if _full(filled) else blocks_text(filled.blocks)
    return "low-occupancy", f"{share:.0%} of the warps that the device can hold: {why}"


def blocks_text(count: int) -> str:
    """So many blocks, in words."""
    return "1 block" if count == 1 else f"{count} blocks"


def _full(filled: Filling) -> bool:
    """Whether each SM has as many blocks as fit."""
    return filled.waves is not None and filled.waves >= 1


def _last_wave(filled: Filling) -> tuple[str, str] | None:
    if filled.tail_fraction is None or filled.waves is None or filled.tail_fraction > TAIL:
        return None
    waves = f"{filled.waves:.2f} waves of blocks take the time of {ceil(filled.waves)}"
    return "tail", f"{waves}: {filled.tail_fraction:.0%} of the SMs' time is used"


def bus_fractions(trace: Trace, of_op: Int32s, of_kernel: Int32s, names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Per operator group, [groups], the share of its device time that copies between host and device take."""
    copies = trace.copies
    group = np.where(copies.op >= 0, of_op[copies.op], -1) if len(of_op) else np.full(len(copies), -1)
    crossing = {trace.names[name] for name in np.unique(copies.name[copies.crosses_bus]).tolist()}
    spent = _seconds(group, copies.duration_ns, len(names))
    over = _seconds(np.where(copies.crosses_bus, group, -1), copies.duration_ns, len(names))
    whole = spent + _seconds(of_kernel, trace.kernels.duration_ns, len(names))
    fractions = np.divide(over, whole, out=np.zeros(len(names)), where=whole > 0)
    fractions[[name in crossing for name in names]] = 1.0  # copies that no operator launched
    return fractions


def _seconds(group: npt.NDArray[np.signedinteger[Any]], duration_ns: Int64s, groups: int) -> npt.NDArray[np.float64]:
    owned = group >= 0
    return np.asarray(np.bincount(group[owned], weights=duration_ns[owned] / 1e9, minlength=groups), np.float64)
