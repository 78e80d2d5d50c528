"""What does a run know of who made its operators' arguments?

From the step that it recorded for its tensors, and from the graph of its model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from probe.analyzers.memory.resident import Resident, recorded_residents
from probe.analyzers.rules.aside import aside
from probe.analyzers.rules.matching.flow import Recorded, recorded
from probe.analyzers.rules.matching.units import unit_runs
from probe.errors import TraceError
from probe.readers import execution_trace, module_graph
from probe.readers.module_graph import ModuleGraph
from probe.readers.narrow import Selection, narrow
from probe.runs.run import Run
from probe.trace import TENSORS_MARK, Trace


@dataclass(frozen=True)
class Split:
    """A trace without the step that was recorded for its tensors, and what that step showed.

    makers: who made the operators' arguments. graph: of the model's forward pass, where it was captured. resident: what
    memory was there before it, by device, -1 for the host; empty where allocations were not recorded.
    """

    trace: Trace
    makers: Recorded = field(default_factory=dict)
    resident: Mapping[int, Resident] = field(default_factory=dict)
    graph: ModuleGraph | None = None
    warnings: tuple[str, ...] = ()


def graph_of(run: Run) -> Path | None:
    """The file of the graph of the model, of the lowest rank with a trace; None where there is none."""
    ranks = [rank for rank, _, _ in run.traces[:1]]
    name = next((part.graph for part in run.parts if part.rank in ranks), None)
    return run.path / name if name and (run.path / name).is_file() else None


def split(trace: Trace, tensors: Path | None, graph: Path | None = None) -> Split:
    """The trace in two, with what is known of the model: the steps that were timed, and what the other step says."""
    parted = _split(trace, tensors)
    if graph is None:
        return parted
    try:
        return replace(parted, graph=module_graph.read(graph))
    except TraceError as error:
        return replace(parted, warnings=(*parted.warnings, f"the model's graph is not used: {error}"))


def _split(trace: Trace, tensors: Path | None) -> Split:
    """The steps that were timed, and what the step says that was recorded for its tensors."""
    marks = trace.annotations
    rows = np.flatnonzero(trace.named(lambda name: name == TENSORS_MARK)[marks.name] & ~marks.on_device)
    if not len(rows) or not len(trace.steps):
        return Split(trace)
    timed = narrow(trace, Selection(steps=(int(trace.steps.number[0]), int(trace.steps.number[-1]))))
    timed = replace(timed, warnings=trace.warnings)  # that it is a part is our own doing
    if tensors is None:
        return Split(timed)
    start, end = int(marks.start_ns[rows[0]]), int(marks.end_ns[rows[0]])
    try:
        joined = execution_trace.join(trace, execution_trace.read(tensors))
    except TraceError as error:
        return Split(timed, warnings=(f"patterns were matched by sizes only: {error}",))
    inside = (trace.host_ops.start_ns >= start) & (trace.host_ops.start_ns < end)
    found = recorded(unit_runs(trace, np.where(inside & ~aside(trace), 0, -1).astype(np.int32)), joined)
    held = recorded_residents(trace, joined, (start, end)) if len(trace.allocations) else {}
    return Split(timed, found, held, warnings=tuple(f"{tensors.name}: {warning}" for warning in joined.warnings))
