"""Which operators run in a step and are none of the program's own: those that load its data or compile it?"""

from __future__ import annotations

import numpy as np

from probe.analyzers.operators.call_tree import under
from probe.analyzers.timeline.threads import loader_intervals, main_thread
from probe.intervals import covers
from probe.trace import Mask, Trace

COMPILING = ("dynamo", "entire_frame_compile", "_compile.compile_inner", "compile_inner", "backend_compile")
TIMED = "(dynamo_timed)"  # with which torch marks what a compilation consists of


def is_compiling(name: str) -> bool:
    """Whether a range is a compilation by torch.compile, or a part of one."""
    return name in COMPILING or name.endswith(TIMED)


def aside(trace: Trace) -> Mask:
    """Operators inside the wait for the data loader, or under a compilation, [host operators].

    A loader without workers collates in the training thread, and a compiler runs the model on tensors without data:
    both look like the step's own work.
    """
    ops = trace.host_ops
    if not len(ops):
        return np.zeros(0, bool)
    compiles = trace.named(is_compiling)[ops.name]
    loading = covers(loader_intervals(trace), ops.start_ns) & (ops.thread == main_thread(trace))
    found: Mask = compiles | under(ops.parent, compiles) | loading
    return found
