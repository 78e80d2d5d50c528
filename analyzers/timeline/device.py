"""What runs on the device at each instant, and what of the communication and copies nothing hides."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from probe.analyzers.operators.op_table import OpGroups
from probe.analyzers.ranks.kinds import is_collective_kernel
from probe.intervals import Intervals, difference, length_before, union
from probe.results.analysis import Bound
from probe.trace import DeviceWork, Mask, Steps, Trace

COMPUTING = ("compute", "memory", "latency", "overhead", "unknown")  # classes of kernels that do the step's own work


def device_claims(trace: Trace, groups: OpGroups, bounds: tuple[Bound, ...]) -> Iterator[tuple[str, Intervals]]:
    """Device work by its class: what computes, then communication that nothing of it hides, then copies over the bus.

    Where kernels of several streams run at once the first class counts: an instant belongs to one part.
    """
    kernels, copies = trace.kernels, trace.copies
    kinds = kernel_bounds(trace, groups, bounds)
    for part in COMPUTING:
        yield part, _intervals(kernels, kinds == part)
    yield "memory", _intervals(copies, ~copies.crosses_bus)
    yield "communication", _intervals(kernels, kinds == "communication")
    yield "host", _intervals(copies, copies.crosses_bus)


def kernel_bounds(trace: Trace, groups: OpGroups, bounds: tuple[Bound, ...]) -> npt.NDArray[np.str_]:
    """The class of each kernel: its operator's; a kernel of a collective is communication whoever launched it.

    A kernel whose launch was not recorded does the work of an earlier step: it takes the class that most kernels of
    its name have here.
    """
    work = trace.kernels
    kinds = np.array([*bounds, ""], dtype="<U16")[groups.of_kernel]
    for name in np.unique(work.name[kinds == ""]):
        same = kinds[(work.name == name) & (kinds != "")]
        values, counts = np.unique(same, return_counts=True)
        kinds[(work.name == name) & (kinds == "")] = values[np.argmax(counts)] if len(values) else "unknown"
    kinds[collective_kernels(trace)] = "communication"
    return kinds


def collective_kernels(trace: Trace) -> Mask:
    """Which kernels are a communication library's, [kernels]."""
    rows: Mask = trace.named(is_collective_kernel)[trace.kernels.name]
    return rows


def device_busy(trace: Trace) -> Intervals:
    """When anything runs on the device."""
    starts = np.concatenate([trace.kernels.start_ns, trace.copies.start_ns])
    return union(starts, np.concatenate([trace.kernels.end_ns, trace.copies.end_ns]))


def exposed_s(trace: Trace, groups: OpGroups, steps: Steps) -> npt.NDArray[np.float64]:
    """Per group the seconds per step of its communication and copies over the bus that no computation hides.

    NaN for groups without such work.
    """
    collective = collective_kernels(trace)
    own = ~trace.copies.crosses_bus
    hiding = union(
        np.append(trace.kernels.start_ns[~collective], trace.copies.start_ns[own]),
        np.append(trace.kernels.end_ns[~collective], trace.copies.end_ns[own]),
    )
    alone = difference(device_busy(trace), hiding)
    found = np.zeros(len(groups.name))
    any_there = np.zeros(len(groups.name), bool)
    for work, rows, of_row in (
        (trace.kernels, collective, groups.of_kernel),
        (trace.copies, trace.copies.crosses_bus, _of_copies(trace, groups)),
    ):
        rows = rows & (of_row >= 0)
        ns = length_before(alone, work.end_ns[rows]) - length_before(alone, work.start_ns[rows])
        np.add.at(found, of_row[rows], ns / 1e9 / max(len(steps), 1))
        any_there[of_row[rows]] = True
    return np.where(any_there, found, np.nan)


def _of_copies(trace: Trace, groups: OpGroups) -> npt.NDArray[np.int64]:
    """The group of each copy that an operator launched; -1 for others."""
    owners = np.append(groups.of_op, -1)  # row -1 finds the -1
    return np.asarray(owners[trace.copies.op], np.int64)


def _intervals(work: DeviceWork, rows: Mask) -> Intervals:
    return union(work.start_ns[rows], work.end_ns[rows])
