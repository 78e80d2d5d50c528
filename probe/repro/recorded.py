"""Which call does an operator of the report stand for, and which kernels does it launch?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from probe.analyzers.cost_models.call import Hints
from probe.analyzers.cost_models.completion import Calls, group_hints
from probe.analyzers.operators.call_tree import under, with_callees
from probe.analyzers.operators.op_table import OpGroups, group_operators, operators
from probe.analyzers.operators.steps import recorded_steps
from probe.errors import UsageError
from probe.machine.device import DeviceKind
from probe.results.analysis import Analysis, Operator
from probe.trace import Int64s, Signature, Trace

AUTOGRAD = ("autograd::", "torch::autograd::")
MARKS = ("ProfilerStep#", "Optimizer.", "enumerate(DataLoader)", "record_param_comms", "## ")
GROUPS = ("c10d::", "_c10d_functional::", "c10d_functional::", "nccl:", "gloo:")
COMPILED = ("Torch-Compiled Region", "CompiledFunction", "CompiledFxGraph", "triton_")
LISTED = 6  # callees that a refusal names


@dataclass(frozen=True)
class KernelCount:
    """One kernel, and how often one call of the operator launches it."""

    name: str
    calls: float


@dataclass(frozen=True)
class RecordedCall:
    """A call with its arguments as the profiler recorded them, and what it took there."""

    index: int
    name: str  # "aten::addmm"
    signature: Signature
    list_dtype: str | None  # the profiler's name of the element type of lists, where other calls tell it
    time_s: float  # of one call with all it calls, on the device where there is one
    device: str
    device_kind: DeviceKind
    on_device: bool
    kernels: tuple[KernelCount, ...]  # of the call and of all it calls, the longest first
    source: str


@dataclass(frozen=True, eq=False)
class Recording:
    """A report with the trace that it is of."""

    analysis: Analysis
    trace: Trace

    def call(self, index: int) -> RecordedCall:
        """The call behind `analysis.ops[index]`; UsageError where that is no operator that can be called alone."""
        if not 0 <= index < len(self.analysis.ops):
            raise UsageError(f"--op {index}: there is no such operator; they go from 0 to {len(self.analysis.ops) - 1}")
        operator, trace, groups = self.analysis.ops[index], self.trace, self._groups
        group = self._group(operator)
        rows = np.flatnonzero((groups.of_op == group) & (groups.step_of_op >= 0))
        signature = groups.signature[group]
        if signature is None and trace.signatures:
            signature = Signature((), ())  # of an operator without arguments nothing is recorded
        why = _refusal(operator.name, signature, launched_alone=not len(rows))
        if why is not None or signature is None:
            raise UsageError(f"--op {index} ({operator.name}): {why}{self._instead(rows)}")
        kernels, time_s = _kernels(trace, rows) if trace.on_device else ((), _host_s(trace, rows))
        return RecordedCall(
            index, operator.name, signature, self._hints[group].element, time_s,
            self.analysis.source.device or trace.device.name, trace.device.kind, trace.on_device, kernels,
            self.analysis.source.path,
        )  # fmt: skip

    @cached_property
    def _groups(self) -> OpGroups:
        return group_operators(self.trace, recorded_steps(self.trace))

    @cached_property
    def _rows(self) -> dict[tuple[str, str | None, str | None], list[tuple[int, Operator]]]:
        """The groups by the text that the report shows of them."""
        found: dict[tuple[str, str | None, str | None], list[tuple[int, Operator]]] = {}
        for group, row in operators(self._groups, recorded_steps(self.trace), self.trace.on_device):
            found.setdefault((row.name, row.shapes, row.dtypes), []).append((group, row))
        return found

    @cached_property
    def _hints(self) -> list[Hints]:
        groups = self._groups
        return group_hints(Calls(self.trace, groups.of_op, groups.name, groups.signature))

    def _group(self, wanted: Operator) -> int:
        """The group whose row of the report `wanted` is: the same text, and of several the same times."""
        same = self._rows.get((wanted.name, wanted.shapes, wanted.dtypes), [])
        if not same:
            raise UsageError(f"{wanted.name} is in the report and not in {self.trace.path}: name the report's source")
        return min(same, key=lambda one: _distance(one[1], wanted))[0]

    def _instead(self, rows: Int64s) -> str:
        """The operators under the given calls that can be named instead, by their place in the report."""
        parent = self.trace.host_ops.parent
        chosen = np.zeros(len(parent), bool)
        chosen[rows] = True
        names = {self._groups.name[g] for g in np.unique(self._groups.of_op[under(parent, chosen)]).tolist()}
        there = [op for op in self.analysis.ops if op.name in names and op.name.startswith("aten::") and op.shapes]
        listed = ", ".join(f"--op {op.index} ({op.name} {op.shapes})" for op in there[:LISTED])
        return f"; try {listed}" if listed else ""


def _distance(row: Operator, wanted: Operator) -> float:
    pairs = ((row.calls, wanted.calls), (row.self_s, wanted.self_s), (row.device_s, wanted.device_s))
    return math.fsum(abs(a - b) / max(abs(b), 1e-12) for a, b in pairs)


def _refusal(name: str, signature: Signature | None, launched_alone: bool) -> str | None:
    """Why it cannot be called alone; None where it can."""
    if launched_alone:
        return "a kernel that no operator of the trace launched: there is nothing to call"
    if name.startswith(GROUPS) or name == "record_param_comms":
        return "it takes several ranks; probe run microbench collectives times them"
    if (signature is not None and signature.kernel is not None) or name.startswith(COMPILED):
        file = f" ({signature.kernel.file})" if signature and signature.kernel and signature.kernel.file else ""
        return f"code that torch.compile made{file}: TORCH_LOGS=output_code prints it, ready to run"
    if name.startswith(AUTOGRAD) or "::" not in name or name.startswith(MARKS):
        return "a mark or a node of autograd, not an operator: the operators that it calls do the work"
    if signature is None:
        return "its arguments were not recorded; record with record_shapes=True"
    return None


def _host_s(trace: Trace, rows: Int64s) -> float:
    """Median host seconds of a call with all it calls."""
    ops = trace.host_ops
    return float(np.median(ops.end_ns[rows] - ops.start_ns[rows])) / 1e9 if len(rows) else 0.0


def _kernels(trace: Trace, rows: Int64s) -> tuple[tuple[KernelCount, ...], float]:
    """What one call launches, itself or through others, and the device seconds of that."""
    ops, kernels = trace.host_ops, trace.kernels
    mine = np.zeros(len(ops), bool)
    mine[rows] = True
    mine |= under(ops.parent, mine)
    launched = np.flatnonzero((kernels.op >= 0) & mine[np.maximum(kernels.op, 0)])
    names, inverse = np.unique(kernels.name[launched], return_inverse=True)
    counts = np.bincount(inverse, minlength=len(names)) / max(len(rows), 1)
    spent = np.bincount(inverse, weights=kernels.duration_ns[launched], minlength=len(names))
    order = np.argsort(-spent, kind="stable")
    found = tuple(KernelCount(trace.names[names[i]], float(counts[i])) for i in order.tolist())
    own = np.zeros(len(ops), np.int64)
    np.add.at(own, kernels.op[launched], kernels.duration_ns[launched])
    return found, float(with_callees(ops.parent, own)[rows].sum()) / 1e9 / max(len(rows), 1)
