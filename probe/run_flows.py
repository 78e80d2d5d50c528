"""What does a run know of who made its operators' arguments? From the step that it recorded for its tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from probe.analyzers.rules.flow import Recorded, recorded
from probe.analyzers.rules.units import unit_runs
from probe.errors import TraceError
from probe.readers import execution_trace
from probe.readers.narrow import Selection, narrow
from probe.trace import TENSORS_MARK, Trace


def split(trace: Trace, tensors: Path | None) -> tuple[Trace, Recorded, tuple[str, ...]]:
    """The trace without the step that was recorded for its tensors, the makers it showed, and warnings."""
    marks = trace.annotations
    rows = np.flatnonzero(trace.named(lambda name: name == TENSORS_MARK)[marks.name] & ~marks.on_device)
    if not len(rows) or not len(trace.steps):
        return trace, {}, ()
    timed = narrow(trace, Selection(steps=(int(trace.steps.number[0]), int(trace.steps.number[-1]))))
    timed = replace(timed, warnings=trace.warnings)  # that it is a part is our own doing
    if tensors is None:
        return timed, {}, ()
    start, end = int(marks.start_ns[rows[0]]), int(marks.end_ns[rows[0]])
    try:
        joined = execution_trace.join(trace, execution_trace.read(tensors))
    except TraceError as error:
        return timed, {}, (f"patterns were matched by sizes only: {error}",)
    inside = (trace.host_ops.start_ns >= start) & (trace.host_ops.start_ns < end)
    found = recorded(unit_runs(trace, np.where(inside, 0, -1).astype(np.int32)), joined)
    return timed, found, tuple(f"{tensors.name}: {warning}" for warning in joined.warnings)
