"""What do a side's recorded steps say: seconds of each operator, and everything that can be counted?"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.analyzers.compare.operators import per_step
from probe.analyzers.gates.evidence import Counted, Key, OperatorTimes
from probe.analyzers.operators.steps import recorded_steps, step_of, work_steps
from probe.analyzers.timeline.calls import calls_named, is_sync
from probe.errors import ProbeError
from probe.examine.examine import Request, examine
from probe.readers import formats
from probe.trace import STEP_PREFIX, Int64s, Steps, Trace

Ints = npt.NDArray[np.integer[Any]]
MARKS = (STEP_PREFIX, "probe: ")


@dataclass(frozen=True)
class Recorded:
    """One trace of a side."""

    operators: OperatorTimes
    counts: dict[str, Counted]


def read(path: Path, *, costs: bool) -> Recorded:
    """A worker's trace; with `costs` FLOPs and memory too, which take an analysis."""
    trace = formats.read(path)
    table = per_step(trace)
    seconds: dict[Key, float] = defaultdict(float)
    calls: dict[Key, float] = defaultdict(float)
    for (name, shapes, _), times in table.seconds.items():
        if not name.startswith(MARKS):
            seconds[name, shapes] += float(np.median(times) if (times > 0).all() else times.mean())
    for (name, shapes, _), count in table.calls.items():
        if not name.startswith(MARKS):
            calls[name, shapes] += count
    operators = OperatorTimes(dict(seconds), dict(calls), _kernels(trace))
    return Recorded(operators, counts_of(trace, recorded_steps(trace)) | (_costs(path) if costs else {}))


def _kernels(trace: Trace) -> dict[str, tuple[str, ...]]:
    """Names of the kernels that operators launched themselves, by the operator's name."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, op in zip(trace.kernels.name.tolist(), trace.kernels.op.tolist(), strict=True):
        if op >= 0:
            found[trace.names[trace.host_ops.name[op]]].add(trace.names[name])
    return {op: tuple(sorted(names)) for op, names in found.items()}


def counts_of(trace: Trace, steps: Steps) -> dict[str, Counted]:
    """Operators, kernels, launches, synchronisations, copies and their bytes in each step; work by who launched it."""
    ops, calls, copies = trace.host_ops, trace.runtime_calls, trace.copies
    marks = [i for i, name in enumerate(trace.names) if name.startswith(MARKS)]
    found = {"operators": _per_step(step_of(steps, ops.start_ns[~np.isin(ops.name, marks)]), steps)}
    if trace.on_device:
        launching = np.isin(np.arange(len(calls)), trace.kernels.launch)
        called = step_of(steps, calls.start_ns)
        copied = work_steps(trace, copies, steps)
        found |= {
            "kernels": _per_step(work_steps(trace, trace.kernels, steps), steps),
            "launches": _per_step(called[launching], steps),
            "synchronisations": _per_step(called[calls_named(trace, is_sync)], steps),
            "host_device_copies": _per_step(copied[copies.crosses_bus], steps),
            "copied_bytes": _per_step(copied, steps, np.maximum(copies.bytes, 0)),
        }
    return {name: Counted(float(each.min()), float(each.max()), len(each)) for name, each in found.items() if len(each)}


def _per_step(step: Ints, steps: Steps, weights: Int64s | None = None) -> npt.NDArray[np.float64]:
    """How many rows, or the sum of their weights, belong to each step, [steps]; those of none are left out."""
    inside = step >= 0
    chosen = None if weights is None else weights[inside].astype(np.float64)
    return np.bincount(step[inside], chosen, minlength=len(steps)).astype(np.float64)


def _costs(path: Path) -> dict[str, Counted]:
    """FLOPs a step by the cost models, and the memory held at once where allocations were recorded."""
    try:
        analysis = examine(path, Request()).analysis
    except ProbeError:  # what cannot be analysed has its times all the same
        return {}
    flops = sum(op.flops for op in analysis.ops if op.flops is not None)  # per step already
    found = {"flops": Counted(float(flops), float(flops), 1)} if flops else {}
    peak = analysis.memory.peak_bytes if analysis.memory is not None else None
    return found | ({"peak_memory_bytes": Counted(float(peak), float(peak), 1)} if peak else {})
