"""What a rule may look at, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain, compress, pairwise
from typing import Any

import numpy as np

from probe.analyzers.classify import Machine
from probe.analyzers.cost_models import Cost
from probe.analyzers.gpu.kernel_evidence import KernelRuns
from probe.analyzers.memory.use import MemoryUse
from probe.analyzers.operators.call_tree import under, with_callees
from probe.analyzers.operators.op_table import OpGroups
from probe.analyzers.rules.aside import aside
from probe.analyzers.rules.matching.flow import Flow, Recorded, Tier, by_sizes, spelling
from probe.analyzers.rules.matching.graph import Covered, Part, Written, covered, pieces, written
from probe.analyzers.rules.matching.graph import flows as graph_flows
from probe.analyzers.rules.matching.marks import Marked
from probe.analyzers.rules.matching.patterns import Pattern
from probe.analyzers.rules.matching.search import Match as Place
from probe.analyzers.rules.matching.search import matches
from probe.analyzers.rules.matching.units import Unit, normalised, unit_runs
from probe.analyzers.what_if import WhatIf
from probe.readers.module_graph import ModuleGraph
from probe.results.analysis import Bound
from probe.results.multirank import RanksAnalysis
from probe.sites import Site
from probe.trace import Int64s, Mask, Steps, Trace


@dataclass(frozen=True, eq=False)
class Context:
    """A trace with everything that was computed of it before the rules."""

    trace: Trace
    steps: Steps
    groups: OpGroups
    costs: tuple[Cost, ...]  # per group, of one call
    bounds: tuple[Bound, ...]  # per group
    machine: Machine
    step_s: float  # mean step, bare where that is known
    parts: dict[str, float]  # its mean seconds per part
    data_wait_s: float | None = None  # mean wait for data per step, where the session measured it
    recorded: Recorded = field(default_factory=dict)  # makers of arguments, of the runs for which they were recorded
    graph: ModuleGraph | None = None  # of the model's forward pass, where it was captured
    memory: MemoryUse | None = None  # blocks and levels, where allocations were recorded
    what_if: WhatIf | None = None  # how much shorter the step gets
    # The kernels of each group that launched any, by name and launch shape.
    kernel_runs: Mapping[int, tuple[KernelRuns, ...]] = field(default_factory=dict)
    compared: RanksAnalysis | None = None  # this rank with the others, where several were read
    claimed: set[int] = field(default_factory=set)  # operators that belong to findings already made; grows
    held: dict[str, Any] = field(default_factory=dict, init=False)  # what several rules ask for, kept by its makers

    @cached_property
    def runs(self) -> list[list[Unit]]:
        """The units of each step and thread, in order of time, without what loads data or compiles."""
        return unit_runs(self.trace, np.where(aside(self.trace), -1, self.groups.step_of_op).astype(np.int32))

    @cached_property
    def units(self) -> list[Unit]:
        """Those of all runs."""
        return list(chain.from_iterable(self.runs))

    @cached_property
    def unit_rows(self) -> Int64s:
        """The row of each unit of all runs, of Trace.host_ops."""
        return np.fromiter((unit.row for unit in self.units), np.int64, len(self.units))

    @cached_property
    def _kinds(self) -> tuple[Int64s, Int64s]:
        """A number for each unit, the same for those of one name and signature, and the first unit of each number."""
        ops, rows = self.trace.host_ops, self.unit_rows
        number_of: dict[str | None, int] = {}
        plain = np.array([number_of.setdefault(normalised(n), len(number_of)) for n in self.trace.names], np.int64)
        keys = plain[ops.name[rows]] * (len(self.trace.signatures) + 1) + ops.signature[rows]
        _, first, kinds = np.unique(keys, return_index=True, return_inverse=True)
        return kinds, first

    def free_units(self, test: Callable[[Unit], object]) -> list[Unit]:
        """The units that no finding claims and that pass, in order; of those alike (name, signature) one is tested."""
        kinds, first = self._kinds
        passes = np.array([bool(test(self.units[i])) for i in first.tolist()], bool)
        passed = compress(self.units, passes[kinds].tolist()) if passes.any() else ()
        return [unit for unit in passed if unit.row not in self.claimed]

    def runs_inside(self, marked: Marked) -> list[list[Unit]]:
        """The runs with nothing but the units inside the marks."""
        return self._runs_of(self._inside(marked))

    def runs_outside(self, marked: Marked) -> list[list[Unit]]:
        """The runs without the units inside the marks."""
        return self._runs_of(~self._inside(marked))

    def _inside(self, marked: Marked) -> Mask:
        return marked.holds(self.trace.host_ops.start_ns[self.unit_rows])

    def _runs_of(self, which: Mask) -> list[list[Unit]]:
        return [list(compress(run, which[a:b].tolist())) for run, (a, b) in zip(self.runs, self._edges, strict=True)]

    @cached_property
    def _edges(self) -> list[tuple[int, int]]:
        """Where each run begins and ends among the units of all runs."""
        return list(pairwise(accumulate(map(len, self.runs), initial=0)))

    @cached_property
    def flows(self) -> list[Flow]:
        """The runs with the makers of their arguments, in parts where a graph knows a part of what is else guessed.

        Runs of the same calls share them where no tensors were recorded of each.
        """
        known: dict[bytes, list[Part]] = {}
        kinds, found = self._kinds[0], []
        for run, (first, last), stretches in zip(self.runs, self._edges, self._stretches, strict=True):
            key = kinds[first:last].tobytes()
            if key not in known:
                known[key] = graph_flows(run, self._flow(run), stretches)
            found += [part.of(run) for part in known[key]]
        return found

    def _flow(self, run: list[Unit]) -> Flow:
        exact = self.recorded.get(spelling(run)) if self.recorded else None
        return by_sizes(run) if exact is None else Flow(run, exact, "dataflow")

    @cached_property
    def _stretches(self) -> list[list[Covered]]:
        """Of each run what is a forward pass of the captured model; none in backward passes, which look alike."""
        if self.graph is None:
            return [[] for _ in self.runs]
        ops, known, backward = self.trace.host_ops, pieces(self.graph), self.in_backward
        opaque = {name for call in self.graph.calls for name in call.opaque}
        inside = under(ops.parent, self.trace.named(lambda name: name in opaque)[ops.name])
        return [
            covered(run, known, lambda unit: not backward[unit.row], lambda unit: bool(inside[unit.row]))
            for run in self.runs
        ]

    @cached_property
    def written(self) -> dict[int, Written]:
        """Where in the program each operator is written, by row, as far as a graph knows."""
        if self.graph is None:
            return {}
        both = zip(self._stretches, self.runs, strict=True)
        return {row: place for stretches, run in both for row, place in written(stretches, run, self.graph)}

    @cached_property
    def under_engine(self) -> Mask:
        """Operators that autograd's engine called, [host operators]."""
        ops = self.trace.host_ops
        engine = self.trace.named(lambda name: name.startswith("autograd::engine"))
        return under(ops.parent, engine[ops.name]) if len(ops) else np.zeros(0, bool)

    @cached_property
    def in_backward(self) -> Mask:
        """Operators that belong to backward passes, [host operators]: their products look like forward patterns."""
        marked = np.zeros(len(self.trace.host_ops), bool)
        marked[list(chain.from_iterable(self.backward_of.values()))] = True
        return marked | under(self.trace.host_ops.parent, marked)

    def marked(self, rows: Collection[int]) -> Mask:
        """The given operators, [host operators]."""
        found = np.zeros(len(self.trace.host_ops), bool)
        found[list(rows)] = True
        return found

    def places(self, pattern: Pattern) -> Iterator[Place]:
        """Where `pattern` holds in any run, in order of time, without units that are claimed."""
        for flow in self.flows:
            yield from matches(flow, pattern, self.marked(self.claimed))

    @cached_property
    def spent_ns(self) -> Int64s:
        """Time of each host operator with all it calls: on the device where there is one, else on the host, [ops]."""
        ops = self.trace.host_ops
        if not self.trace.on_device:
            return ops.end_ns - ops.start_ns
        spent = np.zeros(len(ops), np.int64)
        for work in (self.trace.kernels, self.trace.copies):
            owned = work.op >= 0
            np.add.at(spent, work.op[owned], work.duration_ns[owned])
        return with_callees(ops.parent, spent)

    @cached_property
    def backward_of(self) -> dict[int, list[int]]:
        """Rows of the outermost backward operators by the sequence number of their forward operator.

        Sequence numbers count per forward thread. Threads cannot be told apart here: `forward_thread` is the
        profiler's own number, which no forward operator records and which is not the `thread` that ran it. Where
        several threads run forward passes, operators of equal numbers share their backward operators.
        """
        ops = self.trace.host_ops
        found: dict[int, list[int]] = {}
        is_backward = (ops.forward_thread > 0) & (ops.sequence >= 0)
        rows = np.flatnonzero(is_backward)
        parent, number = ops.parent[rows], ops.sequence[rows]
        rows = rows[(parent < 0) | ~is_backward[parent] | (ops.sequence[parent] != number)]
        for row, sequence in zip(rows.tolist(), ops.sequence[rows].tolist(), strict=True):
            found.setdefault(sequence, []).append(row)
        return found

    @cached_property
    def differentiated(self) -> Mask:
        """Forward operators whose sequence number is that of a node of theirs, [host operators].

        Autograd's next number is noted with every operator that it sees. The last operator of a thread that bears a
        number makes the node, and those that call it bear the same; operators before it work on tensors that need no
        gradient.
        """
        ops = self.trace.host_ops
        forward = np.flatnonzero((ops.sequence >= 0) & (ops.forward_thread <= 0))
        forward = forward[np.lexsort((ops.start_ns[forward], ops.sequence[forward], ops.thread[forward]))]
        number, thread = ops.sequence[forward], ops.thread[forward]
        found = np.zeros(len(ops), bool)
        last = np.append((np.diff(number) != 0) | (np.diff(thread) != 0), True)
        rows = forward[last[: len(forward)]]
        while len(rows):
            found[rows] = True
            above = ops.parent[rows]
            rows = above[(above >= 0) & (ops.sequence[above] == ops.sequence[rows])]
        return found

    def backward_rows(self, rows: list[int]) -> list[int]:
        """The backward operators of the given forward operators."""
        sequences = {int(self.trace.host_ops.sequence[row]) for row in rows if self.differentiated[row]}
        return [row for sequence in sorted(sequences) for row in self.backward_of.get(sequence, [])]

    def seconds(self, rows: list[int]) -> float:
        """Time of the given operators with all they call, per step."""
        return float(self.spent_ns[rows].sum()) / 1e9 / len(self.steps) if rows else 0.0

    def may_be_worth(self, saving_s: float | None, least_fraction: float) -> bool:
        """Whether a saving is at least that part of the step, before it is known what of it the step waits for."""
        return saving_s is None or saving_s * max(self.bare_fraction, 1.0) >= least_fraction * self.step_s

    def shortens_s(self, saving_s: float | None, rows: tuple[int, ...]) -> float | None:
        """What of a saving in these operators shortens the step: on a device others may run meanwhile."""
        if saving_s is None:
            return None
        if self.what_if is not None and self.trace.on_device and rows:
            saving_s = self.what_if.cap(saving_s, rows, self.seconds(list(rows))) or 0.0
        if rows:  # their time was recorded under the profiler, the step's is that of one without
            saving_s *= self.bare_fraction
        return min(saving_s, self.step_s)

    @cached_property
    def recorded_s(self) -> float:
        """Mean seconds of a step as it was recorded."""
        return float(self.steps.duration_ns.mean()) / 1e9 if len(self.steps) else 0.0

    @property
    def bare_fraction(self) -> float:
        """How long a step is without the profiler, by a recorded one; of a device's work at most 1.

        On a CPU a busy machine may have slowed the other steps: what runs in them grows alike, as the parts do.
        """
        fraction = self.step_s / self.recorded_s if self.recorded_s > 0 else 1.0
        return min(fraction, 1.0) if self.trace.on_device else fraction

    def roof_s(self, size_bytes: float) -> float | None:
        """Least time to move that many bytes from and to memory; None where the bandwidth is not known."""
        rate = self.machine.ceilings.dram_bytes_per_s
        return size_bytes / rate if rate else None


@dataclass(frozen=True)
class Match:
    """One place where a rule applies, over all steps. Times are seconds per step."""

    rows: tuple[int, ...]  # operators it claims: no other rule may
    ops: tuple[int, ...]  # their groups
    summary: str
    evidence: tuple[str, ...]
    saving_s: float | None
    where: str | None = None
    replacement: str | None = None
    how: str | None = None
    saving_bytes: int | None = None
    site: Site | None = None
    key: str = ""  # what makes the site different from others of the same rule
    tier: Tier = "order"  # how the pattern is known to hold
    module: str | None = None  # path of the module it lies in


def times(calls: float) -> str:
    """How often per step, in words."""
    if 0 < calls < 0.75:
        return f"once in {1 / calls:.0f} steps"
    return "once per step" if round(calls) == 1 else f"{calls:.0f} times per step"
