"""The recorded step as a projection needs it: every group of calls with its work, its roof, and what replays it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from probe.analyzers.cost_models import Cost
from probe.analyzers.cost_models.attribution import attribute
from probe.analyzers.critical_path.replay import Changes, Replay
from probe.analyzers.gpu.tensor_cores import float32_runs_in
from probe.analyzers.operators.op_table import OpGroups, dtypes_text, group_operators, shapes_text
from probe.analyzers.operators.steps import recorded_steps
from probe.analyzers.placed import own_costs
from probe.analyzers.projection.graph_launch import Launching, as_graphs
from probe.analyzers.roofline import Placement, place
from probe.analyzers.what_if import WhatIf
from probe.intervals import length_before, union
from probe.machine.device import Ceilings
from probe.results.analysis import Analysis, Bound
from probe.trace import Signature, Steps, Trace

Seconds = npt.NDArray[np.float64]
FIXED_S = 2e-6  # of a call, where launching or dispatching was not measured


@dataclass(frozen=True, eq=False)
class Base:
    """A trace, its groups [groups], and the step that the analysis found. time_s: mean seconds of one call."""

    trace: Trace
    marks: Steps
    analysis: Analysis
    ceilings: Ceilings
    groups: OpGroups
    costs: tuple[Cost, ...]
    placements: tuple[Placement, ...]
    time_s: Seconds
    per_step_s: Seconds  # of all calls of a step
    index: tuple[int | None, ...]  # of each group's operator in the analysis

    @property
    def step_s(self) -> float:
        """Mean seconds of a step without the profiler."""
        return self.analysis.time_s["step"] or 0.0

    @property
    def on_device(self) -> bool:
        return self.trace.on_device

    @cached_property
    def what_if(self) -> WhatIf:
        """What replays the step."""
        return WhatIf(self.trace, self.marks)

    @cached_property
    def _launched(self) -> dict[Launching, Replay]:
        return {}

    def replayed_s(self, changes: Changes, launching: Launching | None = None) -> float:
        """Seconds of the recorded step with the changes; launching: as CUDA graphs that cost so much."""
        if launching is None:
            return self.what_if.step_s(changes)
        if launching not in self._launched:
            graph = as_graphs(self.trace, self.what_if.graph, launching)
            self._launched[launching] = Replay(self.trace, graph)
        return self._launched[launching].step_s(changes)

    @cached_property
    def device_busy_fraction(self) -> float:
        """The share of the steps' time in which the device did something, that of earlier steps too."""
        works = (self.trace.kernels, self.trace.copies)
        busy = union(*(np.concatenate([getattr(w, end) for w in works]) for end in ("start_ns", "end_ns")))
        inside = length_before(busy, self.marks.end_ns) - length_before(busy, self.marks.start_ns)
        return float(inside.sum()) / max(float(self.marks.duration_ns.sum()), 1.0)

    def bound(self, group: int) -> Bound:
        """The class that the analysis gave a group."""
        index = self.index[group]
        return "unknown" if index is None else self.analysis.ops[index].bound

    def tf32(self, group: int) -> bool:
        """Whether a group's float32 products ran on tensor cores."""
        return any(float32_runs_in(use.name, self.trace.device) == "tf32" for use in self.groups.kernels[group])

    def costs_with(self, signatures: Sequence[Signature | None]) -> tuple[Cost, ...]:
        """What the groups would do with other arguments."""
        return own_costs(attribute(self.trace, self.groups.of_op, self.groups.name, signatures), self.groups.name)


def base(trace: Trace, analysis: Analysis, ceilings: Ceilings) -> Base:
    """`trace` made ready; `ceilings` are those of its own device, rates that are reached in place of peaks."""
    marks = recorded_steps(trace)
    groups = group_operators(trace, marks)
    costs = own_costs(attribute(trace, groups.of_op, groups.name, groups.signature), groups.name)
    spent = groups.device_s if trace.on_device else groups.self_s
    calls = np.maximum(groups.calls.sum(axis=1), 1)
    made = Base(
        trace, marks, analysis, ceilings, groups, costs, (), spent.sum(axis=1) / calls, spent.mean(axis=1),
        _indices(groups, analysis),
    )  # fmt: skip
    placements = tuple(place(cost, ceilings, tf32=made.tf32(g)) for g, cost in enumerate(costs))
    return Base(**{**{f: getattr(made, f) for f in made.__dataclass_fields__}, "placements": placements})


def _indices(groups: OpGroups, analysis: Analysis) -> tuple[int | None, ...]:
    """The analysis knows operators by name, sizes and types, as its report shows them."""
    known = {(op.name, op.shapes, op.dtypes): op.index for op in reversed(analysis.ops)}
    keys = (
        (name, shapes_text(s) if s else None, dtypes_text(s) if s else None)
        for name, s in zip(groups.name, groups.signature, strict=True)
    )
    return tuple(known.get(key) for key in keys)
