"""Which host threads does a step wait for, and when do they wait for data?"""

from __future__ import annotations

from functools import reduce

import numpy as np

from probe.intervals import EMPTY, Intervals, intersection, union
from probe.trace import Int32s, Mask, Trace

LOADER = "enumerate(DataLoader)"  # the start of the name that torch gives to the wait for a batch
BACKENDS = ("gloo:", "mpi:", "ucc:")  # with which the names begin of what their own threads run
# A thread that runs operators while the main thread does for no more than this share of its own time takes turns with
# it: the main thread waits for its results, as it does for autograd's threads.
TURNS_FRACTION = 0.05


def main_thread(trace: Trace) -> int:
    """The thread that runs the steps: the one that marks them, else the one whose operators take longest."""
    if trace.step_thread >= 0:
        return trace.step_thread
    if not len(trace.host_ops):
        return int(np.argmax(np.bincount(trace.runtime_calls.thread))) if len(trace.runtime_calls) else 0
    return int(np.argmax(np.bincount(trace.host_ops.thread, weights=trace.host_ops.self_ns.astype(float))))


def feeding_threads(trace: Trace) -> Int32s:
    """The thread that steps, and those that launch device work (the backward pass has its own)."""
    launches = np.concatenate([work.launch[work.launch >= 0] for work in (trace.kernels, trace.copies)])
    return np.unique(np.append(trace.runtime_calls.thread[launches], main_thread(trace)).astype(np.int32))


def workers(trace: Trace) -> Int32s:
    """Threads that take turns with the main one: their operators run in its pauses, and it waits for them."""
    main = computing(trace, main_thread(trace))
    found = [t for t in np.unique(trace.host_ops.thread).tolist() if t != main_thread(trace)]
    return np.array([t for t in found if _takes_turns(busy(trace, t), main)], np.int32)


def _takes_turns(own: Intervals, main: Intervals) -> bool:
    return own.length_ns > 0 and intersection(own, main).length_ns <= TURNS_FRACTION * own.length_ns


def busy(trace: Trace, thread: int) -> Intervals:
    """When a thread is inside operators, ranges or runtime calls."""
    return _inside(trace, thread, trace.host_ops.parent < 0)


def computing(trace: Trace, thread: int) -> Intervals:
    """When a thread is inside operators of a library or runtime calls: not when it only is inside a named range."""
    return _inside(trace, thread, trace.named(is_operator)[trace.host_ops.name])


def is_operator(name: str) -> bool:
    """Whether a name is that of an operator of a library, not of a range, a module or a node of autograd's graph."""
    return "::" in name and not name.startswith("autograd::")


def _inside(trace: Trace, thread: int, ops: Mask) -> Intervals:
    rows = ops & (trace.host_ops.thread == thread)
    calls = trace.runtime_calls.thread == thread
    return union(
        np.append(trace.host_ops.start_ns[rows], trace.runtime_calls.start_ns[calls]),
        np.append(trace.host_ops.end_ns[rows], trace.runtime_calls.end_ns[calls]),
    )


def any_busy(trace: Trace, threads: Int32s) -> Intervals:
    """When at least one of the threads is inside operators or runtime calls."""
    each = [busy(trace, thread) for thread in threads.tolist()]
    return reduce(_either, each, EMPTY)


def _either(a: Intervals, b: Intervals) -> Intervals:
    return union(np.append(a.starts, b.starts), np.append(a.ends, b.ends))


def loader_intervals(trace: Trace) -> Intervals:
    """When the loop waits for its data loader, as far as torch marks it."""
    named = trace.named(lambda name: name.startswith(LOADER))
    marks, ops = trace.annotations, trace.host_ops
    marked: Mask = named[marks.name] & ~marks.on_device if len(marks) else np.zeros(0, bool)
    called: Mask = named[ops.name] if len(ops) else np.zeros(0, bool)
    return union(
        np.concatenate([marks.start_ns[marked], ops.start_ns[called]]),
        np.concatenate([marks.end_ns[marked], ops.end_ns[called]]),
    )


def exchange_intervals(trace: Trace) -> Intervals:
    """When a backend's own threads exchange with other ranks, as they mark it."""
    marks = trace.annotations
    rows = trace.named(lambda name: name.startswith(BACKENDS))[marks.name] & ~marks.on_device
    return union(marks.start_ns[rows], marks.end_ns[rows])
