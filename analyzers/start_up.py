"""How much of the recorded steps is what a process pays once: the driver's start, memory, and code that is loaded?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from probe.analyzers.operators.steps import step_of
from probe.analyzers.timeline.calls import is_allocation, is_copy, is_sync
from probe.analyzers.timeline.device import device_busy
from probe.intervals import length_before
from probe.trace import Int64s, Mask, Steps, Trace
from probe.units import format_fraction, format_time

SHARE = 0.1  # of the recorded steps, from which on their figures are not those of a step
TOLD = 3  # kinds of calls that are named


def start_up(trace: Trace, steps: Steps) -> Iterator[str]:
    """One sentence where start-up takes a tenth of the recorded steps or more: their figures say little of a warm step.

    It is looked for in the first step only: what comes again in every step is for the rules to say.
    """
    total_s = float(steps.duration_ns.sum()) / 1e9
    spent = _spent_ns(trace, steps)
    spent_s = float(spent.sum()) / 1e9
    if total_s <= 0 or spent_s < SHARE * total_s:
        return
    names = trace.runtime_calls.name
    by_name = np.bincount(names, weights=spent, minlength=len(trace.names))
    most = [n for n in np.argsort(-by_name)[:TOLD].tolist() if by_name[n] >= SHARE * spent.sum() / 2]
    parts = ", ".join(f"{format_time(by_name[n] / 1e9)} {trace.names[n]}" for n in most)
    yield (
        f"{format_time(spent_s)}, {format_fraction(spent_s / total_s)} of the recorded time, is start-up, which a "
        f"process pays once ({parts}): record steps after a few others (schedule(wait=…, warmup=…), probe.profile)"
    )


def _spent_ns(trace: Trace, steps: Steps) -> npt.NDArray[np.float64]:
    """What each runtime call of the first step takes longer than its kind does later, while the device idles, [calls].

    First calls of their kind, first launches of a kernel, and all that take memory from the driver or give it back.
    """
    calls = trace.runtime_calls
    busy = device_busy(trace)
    covered = length_before(busy, calls.end_ns) - length_before(busy, calls.start_ns)
    idle = (calls.end_ns - calls.start_ns - covered).astype(np.float64)
    allocates, waits = (trace.named(kind)[calls.name] for kind in (is_allocation, lambda n: is_sync(n) or is_copy(n)))
    once = allocates | (_first(calls.name, calls.start_ns) & ~waits) | _first_launches(trace)
    once &= step_of(steps, calls.start_ns) == 0
    return np.where(once, np.maximum(idle - np.where(allocates, 0.0, _later_ns(calls.name, idle, once)), 0.0), 0.0)


def _first(keys: npt.NDArray[np.int32], start_ns: Int64s) -> Mask:
    """Which rows are the earliest of their key."""
    order = np.argsort(start_ns, kind="stable")
    found = np.zeros(len(keys), bool)
    found[order[np.unique(keys[order], return_index=True)[1]]] = True
    return found


def _first_launches(trace: Trace) -> Mask:
    """Which calls launch the first kernel of its name, whose code is loaded then, [calls]."""
    found = np.zeros(len(trace.runtime_calls), bool)
    launched = trace.kernels.where(trace.kernels.launch >= 0)
    first = _first(launched.name, trace.runtime_calls.start_ns[launched.launch])
    found[launched.launch[first]] = True
    return found


def _later_ns(names: npt.NDArray[np.int32], spent: npt.NDArray[np.float64], once: Mask) -> npt.NDArray[np.float64]:
    """The median of the calls of the same name that are no start-up; 0 where there are none, [calls]."""
    typical = np.zeros(int(names.max(initial=-1)) + 1)
    for name in np.unique(names[~once]).tolist():
        typical[name] = np.median(spent[~once & (names == name)])
    return np.asarray(typical[names], np.float64)
