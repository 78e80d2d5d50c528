"""Which operators ran, with which arguments, how often, and how long on the host and on the device, per step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from probe.analyzers.operators.steps import step_of
from probe.results.analysis import Bound, KernelUse, Operator
from probe.trace import DeviceWork, Dims, Int32s, Int64s, Signature, Steps, Trace

Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OpGroups:
    """Calls grouped by operator and arguments. Matrices are [groups, steps]; only what happened in a step counts."""

    name: tuple[str, ...]
    signature: tuple[Signature | None, ...]
    calls: Int64s
    self_s: Seconds
    device_s: Seconds
    typical_s: Seconds  # median self time of one call, [groups]: one descheduled call does not move it
    kernels: tuple[tuple[KernelUse, ...], ...]
    of_op: Int32s  # group of each row of Trace.host_ops
    step_of_op: Int32s  # step of each row of Trace.host_ops, -1 for outside
    of_kernel: Int32s  # group of each row of Trace.kernels, -1 for work of an earlier step
    excluded_work: int  # kernels and copies that ran outside every step, or whose launch was not recorded

    def rows_of(self, group: int) -> Int64s:
        """The host operators of a group, in order."""
        order, edges = self._ordered
        return order[edges[group] : edges[group + 1]]

    @cached_property
    def _ordered(self) -> tuple[Int64s, Int64s]:
        """The host operators by group, and where each group begins and ends among them."""
        small = np.min_scalar_type(len(self.name))  # small numbers sort faster
        order = np.argsort(self.of_op.astype(small), kind="stable")
        return order, np.searchsorted(self.of_op[order], np.arange(len(self.name) + 1))

    def of_calls(self, bounds: Sequence[Bound]) -> npt.NDArray[np.str_]:
        """The class of each row of Trace.host_ops, [ops], given that of each group."""
        return np.array(bounds, dtype="<U16")[self.of_op]


def group_operators(trace: Trace, steps: Steps) -> OpGroups:
    """Group the trace's operators; device work that no operator launched forms groups named after its kernels."""
    ops = trace.host_ops
    width = len(trace.signatures) + 1
    pair_of_op = ops.name.astype(np.int64) * width + ops.signature + 1
    pairs = np.unique(pair_of_op)  # few: to look each call's up is quicker than to sort the calls
    of_op: Int32s = np.searchsorted(pairs, pair_of_op).astype(np.int32)
    every = (None, *trace.signatures)
    names = [trace.names[pair // width] for pair in pairs.tolist()]
    signatures = [every[pair % width] for pair in pairs.tolist()]
    step = step_of(steps, ops.start_ns)
    work = [_attribute(trace, w, steps, of_op, step, names, signatures) for w in (trace.kernels, trace.copies)]
    shape = (len(names), len(steps))
    inside = step >= 0
    return OpGroups(
        name=tuple(names),
        signature=tuple(signatures),
        calls=_calls(shape, of_op[inside], step[inside], work, len(pairs)),
        self_s=_add(shape, of_op[inside], step[inside], ops.self_ns[inside] / 1e9),
        typical_s=_medians(len(names), of_op[inside], ops.self_ns[inside]) / 1e9,
        device_s=sum((_add(shape, w.group, w.step, w.seconds) for w in work), np.zeros(shape)),
        kernels=_kernel_uses(trace, work, len(names), len(steps)),
        of_op=of_op,
        step_of_op=step,
        of_kernel=work[0].of_row,
        excluded_work=sum(w.excluded for w in work),
    )


@dataclass(frozen=True, eq=False)
class _Attributed:
    """Device work with the group and the step it belongs to, [n]."""

    name: Int32s
    group: Int32s
    step: Int32s
    seconds: Seconds
    of_row: Int32s  # group of every row of the table, also of those left out here
    excluded: int


def _attribute(
    trace: Trace, work: DeviceWork, steps: Steps, of_op: Int32s, step_of_op: Int32s,
    names: list[str], signatures: list[Signature | None],
) -> _Attributed:  # fmt: skip
    """Work belongs to the operator that launched it and to the step in which that operator ran.

    Work that was launched without an operator gets a group of its own, appended to `names`, in the step in which it
    ran. Work whose launch is not in the trace is that of an earlier step and is left out.
    """
    owned = work.op >= 0
    group = np.full(len(work), -1, np.int32)
    step = np.full(len(work), -1, np.int32)
    group[owned], step[owned] = of_op[work.op[owned]], step_of_op[work.op[owned]]
    free = ~owned & ((work.launch >= 0) | (len(trace.runtime_calls) == 0))
    step[free] = step_of(steps, work.start_ns[free])
    for name in np.unique(work.name[free]):
        group[free & (work.name == name)] = len(names)
        names.append(trace.names[name])
        signatures.append(None)
    keep = (group >= 0) & (step >= 0)
    return _Attributed(
        name=work.name[keep],
        group=group[keep],
        step=step[keep],
        seconds=work.duration_ns[keep] / 1e9,
        of_row=group,
        excluded=int((~keep).sum()),
    )


def _add(shape: tuple[int, int], row: Int32s, column: Int32s, value: Seconds) -> Seconds:
    """A matrix of `shape` with each value added at its (row, column)."""
    flat = np.bincount(row.astype(np.int64) * shape[1] + column, weights=value, minlength=shape[0] * shape[1])
    return np.asarray(flat, np.float64).reshape(shape)


def _calls(shape: tuple[int, int], group: Int32s, step: Int32s, work: list[_Attributed], operators: int) -> Int64s:
    """Calls per group and step; a group made of kernels that no operator launched has one call a kernel."""
    calls = _add(shape, group, step, np.ones(len(group)))
    for attributed in work:
        own = attributed.group >= operators
        calls += _add(shape, attributed.group[own], attributed.step[own], np.ones(int(own.sum())))
    return calls.astype(np.int64)


def _medians(groups: int, group: Int32s, value: Int64s) -> Int64s:
    """The median of the values of each group; 0 for groups without values."""
    ordered = _by_group(group, value)
    counts = np.bincount(group, minlength=groups)
    starts = np.cumsum(counts) - counts
    result = np.zeros(groups, np.int64)
    filled = counts > 0
    middle = (starts + counts // 2)[filled]
    result[filled] = ordered[middle]
    return result


def _by_group(group: Int32s, value: Int64s) -> Int64s:
    """The values sorted by group, then size; in one number with their group, if both fit, they sort much faster."""
    least = int(value.min(initial=0))
    bits = (int(value.max(initial=0)) - least).bit_length()
    if int(group.max(initial=0)).bit_length() + bits >= 63:
        return value[np.lexsort((value, group))]
    both = np.sort(group.astype(np.int64) << bits | value - least)
    return np.asarray((both & (1 << bits) - 1) + least, np.int64)


def _kernel_uses(trace: Trace, work: list[_Attributed], groups: int, steps: int) -> tuple[tuple[KernelUse, ...], ...]:
    """Per group the kernels it launched, the longest first; calls and seconds per step."""
    group, name = (np.concatenate([getattr(w, field) for w in work]) for field in ("group", "name"))
    seconds = np.concatenate([w.seconds for w in work])
    keys, inverse = np.unique(group.astype(np.int64) * len(trace.names) + name, return_inverse=True)
    calls, sums = np.bincount(inverse), np.bincount(inverse, weights=seconds)
    uses: list[list[KernelUse]] = [[] for _ in range(groups)]
    for key, count, total in zip(keys.tolist(), calls.tolist(), sums.tolist(), strict=True):
        owner, kernel = divmod(key, len(trace.names))
        uses[owner].append(KernelUse(trace.names[kernel], count / steps, total / steps))
    return tuple(tuple(sorted(u, key=lambda k: -k.device_s)) for u in uses)


def operators(groups: OpGroups, steps: Steps, on_device: bool) -> list[tuple[int, Operator]]:
    """The groups that did something, each with its row of the report, not yet ranked, costed or classified."""
    step_s = float(steps.duration_ns.mean()) / 1e9
    counted = groups.device_s if on_device else groups.self_s
    used = np.flatnonzero(groups.calls.any(axis=1) | groups.device_s.any(axis=1))
    return [(int(g), _operator(groups, int(g), counted, step_s)) for g in used]


def _operator(groups: OpGroups, group: int, counted: Seconds, step_s: float) -> Operator:
    signature = groups.signature[group]
    per_step = counted[group]
    return Operator(
        index=0,
        name=groups.name[group],
        shapes=shapes_text(signature) if signature else None,
        dtypes=dtypes_text(signature) if signature else None,
        calls=float(groups.calls[group].mean()),
        self_s=float(groups.self_s[group].mean()),
        device_s=float(groups.device_s[group].mean()),
        spread_s=float(per_step.max() - per_step.min()) if len(per_step) > 1 else None,
        share_fraction=min(float(per_step.mean()) / step_s, 1.0) if step_s else 0.0,  # several streams can exceed it
        flops=None,
        bytes=None,
        intensity=None,
        achieved_flops_per_s=None,
        achieved_bytes_per_s=None,
        roof_fraction=None,
        bound="unknown",
        limiter=None,
        evidence=(),
        recoverable_s=None,
        module=None,
        kernels=groups.kernels[group],
    )


def shapes_text(signature: Signature) -> str:
    """The sizes of the tensor arguments: "[64, 512] × [512, 512]"; a list of tensors is shortened to its count."""
    parts = []
    dtypes = signature.dtypes or ("",) * len(signature.dims)
    for dims, dtype in zip(signature.dims, dtypes, strict=False):
        if dims and isinstance(dims[0], tuple):
            same = len(set(dims)) == 1
            parts.append(f"{len(dims)} × {_size(dims[0])}" if same else f"{len(dims)} tensors")
        elif dims or is_tensor(dtype):
            parts.append(_size(dims))
    return " × ".join(parts)


def _size(dims: Dims) -> str:
    return f"[{', '.join(map(str, dims))}]"


def is_tensor(dtype: str) -> bool:
    """Whether the profiler's type name is that of a tensor's elements: scalars and lists are capitalised."""
    return bool(dtype) and not dtype[0].isupper()


def dtypes_text(signature: Signature) -> str:
    """The distinct element types of the tensor arguments, in the profiler's words."""
    return ", ".join(dict.fromkeys(d for d in signature.dtypes if is_tensor(d)))
