"""H04, H05, H06: tensors that are made of Python's or the host's values in every step, and copies over the bus."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from probe.analyzers.operators.steps import step_of
from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.host.waits import waits
from probe.analyzers.rules.matching.claims import claimed, free
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.timeline.threads import loader_intervals, main_thread
from probe.intervals import Intervals, difference, length_before, union
from probe.trace import Int64s, Mask
from probe.units import format_bytes, format_fraction, format_time

LEAST_BYTES = 65_536  # below it a copy costs its latency, pinned or not
EACH_STEP = 0.5  # copies per step, at the least
PYTHON_FRACTION = 0.05  # of the step

# What makes a tensor without reading one. `lift_fresh` ends torch.tensor(…) and its like.
MAKERS = frozenset(
    "aten::zeros aten::ones aten::full aten::empty aten::arange aten::rand aten::randn aten::randint aten::eye "
    "aten::linspace aten::scalar_tensor aten::lift_fresh aten::detach_ aten::randperm aten::tril aten::triu "
    "aten::one_hot aten::fill_ aten::zero_".split()
)
AFTER_MAKING = 3  # operators from the making of a tensor to its copy


def pageable(context: Context) -> Iterator[Match]:
    """H04: copies to the device from memory that is not pinned: the host waits for them, and so does the device."""
    copies = context.trace.copies
    rows = _copies(context, "HtoD", "Host -> Device") & _named(context, "Pageable") & (copies.bytes >= LEAST_BYTES)
    rows &= ~_claimed(context)
    if float(rows.sum()) / len(context.steps) < EACH_STEP:
        return
    exposed_s, size = _exposed_s(context, rows), float(copies.bytes[rows].sum()) / len(context.steps)
    yield Match(
        rows=_ops(context, rows),
        ops=_groups(context, rows),
        summary=(
            f"{format_bytes(size)} per step are copied to the device from pageable memory while it computes nothing: "
            f"{format_time(exposed_s)}, {format_fraction(exposed_s / context.step_s)} of the step"
        ),
        evidence=(f"Memcpy HtoD (Pageable -> Device), {times(float(rows.sum()) / len(context.steps))}",),
        saving_s=exposed_s,
        where="copies to the device",
        replacement="pinned memory and copies that do not block",
        how="DataLoader(…, pin_memory=True)  # and batch.to(device, non_blocking=True)",
    )


def to_host(context: Context) -> Iterator[Match]:
    """H05: tensors that are copied to the host in every step."""
    copies = context.trace.copies
    rows = _copies(context, "DtoH", "Device -> Host") & (copies.bytes >= LEAST_BYTES) & ~_claimed(context)
    if float(rows.sum()) / len(context.steps) < EACH_STEP:
        return
    found = waits(context)
    made = np.isin(found.calls, copies.launch[rows])
    spent_s = _exposed_s(context, rows) + found.stalled_s(made)
    size = float(copies.bytes[rows].sum()) / len(context.steps)
    yield Match(
        rows=_ops(context, rows),
        ops=_groups(context, rows),
        summary=(
            f"{format_bytes(size)} per step are copied from the device to the host, "
            f"{times(float(rows.sum()) / len(context.steps))}: "
            f"the device loses {format_time(spent_s)}, {format_fraction(spent_s / context.step_s)} of the step"
        ),
        evidence=(f"{format_time(found.stalled_s(made))} per step without work after them",),
        saving_s=spent_s,
        where="copies to the host",
        replacement="copies every N steps, into pinned memory, that do not block",
        how="buffer.copy_(x, non_blocking=True)  # buffer = torch.empty_like(x, device='cpu', pin_memory=True)",
    )


def made_on_host(context: Context) -> Iterator[Match]:
    """H06: tensors that are made on the host and brought to the device, or filled from Python objects."""
    yield from _made_and_copied(context) if context.trace.on_device else _made_of_python(context)


def _made_and_copied(context: Context) -> Iterator[Match]:
    """Copies to the device whose source was made by an operator just before."""
    trace, copies = context.trace, context.trace.copies
    candidates = _copies(context, "HtoD", "Host -> Device") & ~_named(context, "Pinned")
    candidates &= (copies.op >= 0) & ~_claimed(context)
    rows = np.zeros(len(copies), bool)
    rows[[row for row in np.flatnonzero(candidates).tolist() if _is_fresh(context, int(copies.op[row]))]] = True
    if float(rows.sum()) / len(context.steps) < EACH_STEP:
        return
    found = waits(context)
    made = np.isin(found.calls, copies.launch[rows])
    spent_s = _exposed_s(context, rows) + found.stalled_s(made)
    count = float(rows.sum()) / len(context.steps)
    yield Match(
        rows=_ops(context, rows),
        ops=_groups(context, rows),
        summary=(
            f"tensors are made on the host and copied to the device {times(count)}: "
            f"{format_time(spent_s)}, {format_fraction(spent_s / context.step_s)} of the step"
        ),
        evidence=(f"{trace.names[copies.name[np.flatnonzero(rows)[0]]]} right after the tensor was made",),
        saving_s=spent_s,
        where=f"copies of new tensors, {times(count)}",
        replacement="tensors made on the device, once",
        how="torch.zeros(size, device=x.device)  # in place of torch.zeros(size).to(x.device)",
    )


def _is_fresh(context: Context, row: int) -> bool:
    """Whether what an operator copies was made by one of the operators before it."""
    ops, names = context.trace.host_ops, context.trace.names
    while ops.parent[row] >= 0:
        row = int(ops.parent[row])
    before = np.arange(max(row - 4 * AFTER_MAKING, 0), row)
    before = before[(ops.parent[before] < 0) & (ops.thread[before] == ops.thread[row])][-AFTER_MAKING:]
    return any(names[name] in MAKERS for name in ops.name[before].tolist())


def _made_of_python(context: Context) -> Iterator[Match]:
    """torch.tensor(list) and its like: the time from the allocation to the end of the copying, outside the loader."""
    begins, ends, rows = _fillings(context)
    loading = loader_intervals(context.trace)
    own = length_before(loading, begins) == length_before(loading, ends)
    spent_s = float((ends - begins)[own].sum()) / 1e9 / len(context.steps)
    recorded_s = context.recorded_s
    if spent_s < PYTHON_FRACTION * recorded_s:
        return
    count = float(own.sum()) / len(context.steps)
    filled = np.concatenate([rows[call] for call in np.flatnonzero(own).tolist()])
    saving_s = spent_s / recorded_s * context.step_s
    yield Match(
        rows=free(context, filled.tolist()),
        ops=tuple(np.unique(context.groups.of_op[filled]).tolist()),
        summary=(
            f"tensors are filled from Python objects {times(count)}: element by element that takes "
            f"{format_time(saving_s)}, {format_fraction(saving_s / context.step_s)} of the step"
        ),
        evidence=("aten::empty, then a pause, then aten::lift_fresh: torch.tensor(…) of a list",),
        saving_s=saving_s,
        where=f"torch.tensor(…), {times(count)}",
        replacement="tensors or numpy arrays kept from the start",
        how="torch.from_numpy(array)  # array = np.asarray(rows), once; it copies nothing",
    )


def _fillings(context: Context) -> tuple[Int64s, Int64s, list[Int64s]]:
    """When tensors are filled from Python, (begins, ends), and the operators that belong to each.

    torch.tensor() goes through the list for its type and sizes and allocates (`empty`); it goes through it again to
    fill the tensor, may cast it (`to`), and ends with `lift_fresh`. Going through it leaves nothing in the trace.
    """
    ops, names = context.trace.host_ops, context.trace.names
    inside = context.groups.step_of_op >= 0
    tops = np.flatnonzero((ops.parent < 0) & (ops.thread == main_thread(context.trace)) & inside)
    known = {"aten::empty": 1, "aten::to": 2, "aten::lift_fresh": 3, "aten::detach_": 4}
    kinds = np.array([known.get(name, 0) for name in names], np.int8)[ops.name[tops]]
    lifts = np.flatnonzero(kinds == 3)
    allocated = np.where(_at(kinds, lifts - 1) == 2, lifts - 2, lifts - 1)
    filled = _at(kinds, allocated) == 1
    lifts, allocated = lifts[filled], allocated[filled]
    last = np.where(_at(kinds, lifts + 1) == 4, lifts + 1, lifts)
    rows = [tops[a : b + 1] for a, b in zip(allocated.tolist(), last.tolist(), strict=True)]
    begins = _began(ops.start_ns[tops], ops.end_ns[tops], allocated)
    return begins, ops.end_ns[tops[last]], rows


def filling(context: Context) -> Intervals:
    """When tensors are filled from Python, and what Python does after the operator before: it makes the list."""
    ops = context.trace.host_ops
    _, ends, rows = _fillings(context)
    tops = np.flatnonzero((ops.parent < 0) & (ops.thread == main_thread(context.trace)))
    at = np.searchsorted(tops, [called[0] for called in rows])
    return union(ops.end_ns[tops[np.maximum(at - 1, 0)]], ends)


def _began(start_ns: Int64s, end_ns: Int64s, allocated: Int64s) -> Int64s:
    """When torch.tensor() began: as long before it allocated as the filling takes after, but after what came before.

    start_ns, end_ns: of the outermost operators; allocated: which of them allocate.
    """
    filling = start_ns[allocated + 1] - end_ns[allocated]
    before = np.where(allocated > 0, end_ns[np.maximum(allocated - 1, 0)], 0)
    return np.asarray(np.maximum(start_ns[allocated] - np.maximum(filling, 0), before), np.int64)


def _at(kinds: npt.NDArray[np.int8], places: Int64s) -> npt.NDArray[np.int8]:
    """The kinds at the given places, 0 outside."""
    valid = (places >= 0) & (places < len(kinds))
    return np.append(kinds, np.int8(0))[np.where(valid, places, -1)]


def _copies(context: Context, *words: str) -> Mask:
    """Copies of the steps whose names hold one of the words, [copies]."""
    copies = context.trace.copies
    named = context.trace.named(lambda name: any(word in name for word in words))[copies.name]
    inside: Mask = named & (step_of(context.steps, copies.start_ns) >= 0)
    return inside


def _named(context: Context, word: str) -> Mask:
    named: Mask = context.trace.named(lambda name: word in name)[context.trace.copies.name]
    return named


def _claimed(context: Context) -> Mask:
    """Copies whose operator, or one around it, belongs to a finding already made."""
    ops, row = context.trace.host_ops, context.trace.copies.op.astype(np.int64)
    taken = np.append(claimed(context), False)
    found = np.zeros(len(row), bool)
    while (row >= 0).any():
        found |= (row >= 0) & taken[row]
        row = np.append(ops.parent, -1)[row]
    return found


def _exposed_s(context: Context, rows: Mask) -> float:
    """Seconds per step in which these copies run and no kernel does."""
    copies, kernels = context.trace.copies, context.trace.kernels
    alone = difference(union(copies.start_ns[rows], copies.end_ns[rows]), union(kernels.start_ns, kernels.end_ns))
    return alone.length_ns / 1e9 / len(context.steps)


def _ops(context: Context, rows: Mask) -> tuple[int, ...]:
    """The operators that made the copies."""
    owners = context.trace.copies.op[rows]
    return tuple(np.unique(owners[owners >= 0]).tolist())


def _groups(context: Context, rows: Mask) -> tuple[int, ...]:
    return tuple(sorted({int(context.groups.of_op[row]) for row in _ops(context, rows)}))


RULES = (
    Rule(
        "H06", "made-on-the-host", "tensors are made on the host", made_on_host,
        trigger="a copy to the device of a tensor made just before, once every other step; on a CPU torch.tensor(list) "
        "for 5 % of the step",
        advice="make it on the device, once; keep data as tensors or numpy arrays",
        saving="the copies that no kernel hides, and the device's wait after them; on a CPU the time of the filling",
        cannot_show="whether the values change from step to step",
        proof="replay", effort="line", about="host",
        example=Example("torch.zeros(n, d).to(x.device)", "torch.zeros(n, d, device=x.device)"),
    ),
    Rule(
        "H04", "pageable-copies", "copies to the device from pageable memory", pageable,
        trigger="copies of 64 KiB and more from pageable memory, once every other step",
        advice="pin_memory=True and non_blocking=True",
        saving="the copies' time that no kernel hides",
        cannot_show="how fast the same copies are from pinned memory",
        proof="flag", effort="line", about="host", needs=("device work",),
        example=Example("batch.to(device)", "batch.to(device, non_blocking=True)  # DataLoader(…, pin_memory=True)"),
    ),
    Rule(
        "H05", "copies-to-the-host", "tensors are copied to the host in every step", to_host,
        trigger="copies of 64 KiB and more from the device to the host, once every other step",
        advice="copy every N steps, or without blocking",
        saving="the copies' time that no kernel hides, and the device's wait after them",
        cannot_show="whether the host needs the values at once",
        proof="flag", effort="line", about="host", needs=("device work",),
        example=Example("history.append(out.cpu())", "history.append(out.detach())  # .cpu() once, at the end"),
    ),
)  # fmt: skip
