"""In which phase of a step is an instant: forward, backward, or the optimizer's update?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probe.analyzers.operators.call_tree import under
from probe.intervals import Intervals, covers, union
from probe.results.memory_use import PHASES, Phase
from probe.trace import Int64s, Mask, Steps, Trace

BACKWARD = "autograd::engine::evaluate_function"
OPTIMIZER = "Optimizer.step#"
ZERO_GRAD = "Optimizer.zero_grad#"
_UPDATES = ("aten::_fused_adam", "aten::_fused_sgd", "aten::_fused_adagrad")  # where no range names the update


@dataclass(frozen=True, eq=False)
class Phases:
    """Consecutive pieces of time [start, next start), each of one phase; the step of each, -1 for outside."""

    start_ns: Int64s
    kind: Int64s  # into PHASES
    step: Int64s

    def at(self, instants_ns: Int64s) -> Int64s:
        """The piece that each instant lies in; 0 is what comes before everything."""
        pieces: Int64s = np.searchsorted(self.start_ns, instants_ns, side="right") - 1
        return pieces

    def named(self, piece: int) -> Phase:
        """The phase of a piece."""
        return PHASES[int(self.kind[piece])]


def phases(trace: Trace, steps: Steps) -> Phases:
    """The steps in pieces: a backward pass lasts from its first function until the next operator that is none."""
    backward, update = _backward(trace), named_ranges(trace, OPTIMIZER)
    if not len(update):
        update = _operators(trace, trace.named(lambda name: name.startswith(_UPDATES)))
    # A range of any kind ends a backward pass: what runs between the two is neither.
    edges = [steps.start_ns, steps.end_ns, backward.starts, backward.ends, update.starts, update.ends]
    start = np.unique(np.concatenate([np.array([-(2**62)]), *edges]))
    in_step = np.searchsorted(steps.start_ns, start, side="right") - 1
    in_step = np.where((in_step >= 0) & (start < np.append(steps.end_ns, 0)[in_step]), in_step, -1)
    kind = np.where(in_step >= 0, PHASES.index("forward"), PHASES.index("outside"))
    kind = np.where((in_step >= 0) & covers(backward, start), PHASES.index("backward"), kind)
    kind = np.where((in_step >= 0) & covers(update, start), PHASES.index("optimizer"), kind)
    return Phases(start, kind, in_step)


def named_ranges(trace: Trace, prefix: str) -> Intervals:
    """When the host was in a range of such a name; in older traces such ranges are operators."""
    wanted = trace.named(lambda name: name.startswith(prefix))
    marks, ops = trace.annotations, trace.host_ops
    marked, called = wanted[marks.name] & ~marks.on_device, wanted[ops.name]
    starts = np.concatenate([marks.start_ns[marked], ops.start_ns[called]])
    return union(starts, np.concatenate([marks.end_ns[marked], ops.end_ns[called]]))


def is_backward(trace: Trace) -> Mask:
    """Which operators are of a backward pass themselves; what they call has no mark of its own."""
    marks: Mask = trace.named(lambda name: name.startswith(BACKWARD))[trace.host_ops.name]
    return marks | (trace.host_ops.forward_thread > 0)


def _backward(trace: Trace) -> Intervals:
    """When backward passes ran: runs of the outermost operators that are, or call, functions of one."""
    ops = trace.host_ops
    own = is_backward(trace)
    rows = np.flatnonzero((ops.parent < 0) | (own & ~under(ops.parent, own)))
    rows = rows[np.argsort(ops.start_ns[rows], kind="stable")]
    rows = rows[~_calls(trace, rows, own)]  # an operator around a backward pass says nothing
    flag = own[rows]
    if not flag.any():
        return union([], [])
    first = np.flatnonzero(flag & ~np.append(False, flag[:-1]))
    ends = np.flatnonzero(~flag)
    at = np.searchsorted(ends, first)
    last = np.maximum.accumulate(ops.end_ns[rows])
    stop = np.where(at < len(ends), ops.start_ns[rows[np.append(ends, 0)[at]]], last[-1])
    return _cut(union(ops.start_ns[rows[first]], stop), trace)


def _calls(trace: Trace, rows: Int64s, own: Mask) -> Mask:
    """Which of the rows call a backward operator and are none themselves."""
    above = np.zeros(len(own), bool)
    level = trace.host_ops.parent[own]
    while len(level := np.unique(level[level >= 0])):
        above[level] = True
        level = trace.host_ops.parent[level]
    return above[rows] & ~own[rows]


def _cut(backward: Intervals, trace: Trace) -> Intervals:
    """Backward passes, each until the next range that the host opens: an update, the next step."""
    marks = trace.annotations
    opened = np.sort(marks.start_ns[~marks.on_device])
    at = np.searchsorted(opened, backward.starts, side="right")
    following = np.append(opened, np.iinfo(np.int64).max)[at]
    # Ranges inside a pass (a hook's, a module's) end it only where no function of it runs afterwards.
    own = is_backward(trace)
    starts = np.sort(trace.host_ops.start_ns[own])
    later = np.searchsorted(starts, backward.ends) > np.searchsorted(starts, following)
    return union(backward.starts, np.where(later, backward.ends, np.minimum(backward.ends, following)))


def _operators(trace: Trace, wanted: Mask) -> Intervals:
    rows = wanted[trace.host_ops.name]
    return union(trace.host_ops.start_ns[rows], trace.host_ops.end_ns[rows])
