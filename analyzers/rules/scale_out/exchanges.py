"""What did one rank exchange with the others, when, how much of it, and what of that did nothing hide?

On a device an exchange is a kernel of the communication library. Without one it is what the backend's own threads ran
(Gloo marks it), together with the operator that issued it, in which the main thread may wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from probe.analyzers.cost_models.collectives import is_collective
from probe.analyzers.cost_models.dtypes import COLLECTIVE_TYPES, ELEMENT_TYPES, FLOAT32, ElementType
from probe.analyzers.operators.call_tree import under
from probe.analyzers.operators.steps import cut_by_device, step_of, within
from probe.analyzers.ranks.kinds import KINDS, kind_of_operator
from probe.analyzers.ranks.summary import summarise
from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.scale_out.lateness import waits_for_late
from probe.analyzers.timeline.device import collective_kernels
from probe.analyzers.timeline.pieces import exclusive
from probe.intervals import EMPTY, Intervals, difference, intersection, union
from probe.results.multirank import CollectiveTimes
from probe.trace import Int64s, Mask, Signature, Steps, Trace

ACCUMULATE = "torch::autograd::AccumulateGrad"  # in the name of the node that has a parameter's gradient
MUCH_LARGER = 4  # times the bytes of the shortest exchange
LINK_BYTES_PER_S = {True: 10e9, False: 1.25e9}  # of devices, by PCIe; of hosts, by Ethernet of 10 Gbit/s
RECORD = "record_param_comms"  # torch's own mark around a collective


class Exchange(NamedTuple):
    """One collective or transfer. Times in nanoseconds from the start of the trace."""

    kind: str  # of analyzers.ranks.kinds.KINDS
    step: int
    row: int  # the operator that issued it, -1 where that is not known
    start_ns: int
    end_ns: int
    ran_ns: int  # how long its kernel, or the backend's thread, ran: with the wait for other ranks, not for a turn
    elements: int  # of the payload; -1 where not known
    element: ElementType | None
    ranks: int | None
    gradient: bool  # issued as soon as a parameter's gradient was there: a bucket of data parallelism

    @property
    def size_bytes(self) -> int | None:
        """The payload; None where its elements or their type are not known."""
        return self.elements * self.element.itemsize if self.elements >= 0 and self.element else None

    @property
    def likely_bytes(self) -> int:
        """The payload; of lists, whose type torch does not record, as float32; 0 where their sizes are not known."""
        return self.size_bytes if self.size_bytes is not None else FLOAT32.itemsize * max(self.elements, 0)


@dataclass(frozen=True, eq=False)
class Exchanges:
    """All exchanges of the steps in order of time. Seconds are those of the bare step, where that is shorter."""

    rows: tuple[Exchange, ...]
    steps: int
    bare: float  # the bare step's time by the recorded one's, at most 1
    computing: Intervals  # when anything else runs, inside the steps
    alone: Intervals  # when the step does nothing but exchange, without waiting for a rank that is known to be late
    waiting: Intervals = EMPTY  # when it does nothing but wait for such a rank
    link_bytes_per_s: float = LINK_BYTES_PER_S[False]

    def exposed_s(self, some: Sequence[Exchange]) -> float:
        """Seconds per step in which nothing hides the given ones; where several run at once they count once."""
        return self._seconds(intersection(_spans(some), self.alone))

    def unwaited_s(self, some: Sequence[Exchange]) -> float:
        """Of that, what waits for no other rank: none takes longer than the shortest of its kind and size."""
        least: dict[tuple[str, int], int] = {}
        for x in some:
            least[x.kind, x.elements] = min(x.ran_ns, least.get((x.kind, x.elements), x.ran_ns))
        ran_s = sum(least[x.kind, x.elements] for x in some) / 1e9 / self.steps
        return min(self.exposed_s(some), self.bare * ran_s)

    def busy_s(self, some: Sequence[Exchange]) -> float:
        """Seconds per step in which at least one of them runs."""
        return self._seconds(_spans(some))

    @property
    def waited_s(self) -> float:
        """Seconds per step of waiting for a late rank, which D06 counts and no other rule."""
        return self._seconds(self.waiting)

    @cached_property
    def spare_s(self) -> float:
        """Seconds per step of computation that hides no exchange yet."""
        return self._seconds(difference(self.computing, _spans(self.rows)))

    @cached_property
    def latency_s(self) -> float:
        """What an exchange costs however little it carries: the shortest one, without what its bytes take.

        How fast bytes go, much larger exchanges tell, whose latency matters little; without one, a usual link's rate.
        """
        shortest = min(self.rows, key=lambda x: x.ran_ns, default=None)
        if shortest is None:
            return 0.0
        size = shortest.likely_bytes
        larger = [x.likely_bytes / x.ran_ns for x in self.rows if x.likely_bytes >= MUCH_LARGER * size and x.ran_ns]
        ran_s = shortest.ran_ns / 1e9
        least_s = max(ran_s - size / max(1e9 * max(larger, default=0.0), self.link_bytes_per_s), 0.0)
        return self.bare * (least_s if least_s or larger else ran_s)  # the link may be faster than a usual one

    def _seconds(self, when: Intervals) -> float:
        return self.bare * when.length_ns / 1e9 / self.steps

    def per_step(self, some: Sequence[Exchange]) -> float:
        """How many of them there are in a step."""
        return len(some) / self.steps


def _spans(some: Sequence[Exchange]) -> Intervals:
    return union([x.start_ns for x in some], [x.end_ns for x in some])


def found(context: Context, some: Sequence[Exchange], *, extra: Sequence[int] = (), **said: Any) -> Iterator[Match]:
    """A finding about the given exchanges and the `extra` operators; none where another has claimed one of them.

    Exchanges are claimed here and are not among the match's rows: their saving is what nothing else hides, while that
    of rows is what their operators take. Streams wait for each other by events that a trace does not join, so replaying
    a step without them would find that nothing waits.
    """
    rows = sorted({x.row for x in some if x.row >= 0} | set(extra))
    if context.claimed.intersection(rows):
        return
    context.claimed.update({x.row for x in some if x.row >= 0})
    groups = {int(context.groups.of_op[row]) for row in rows}
    yield Match(rows=() if some else tuple(rows), ops=tuple(sorted(groups)), **said)


def exchanges(context: Context) -> Exchanges:
    """The exchanges of a trace; computed once for each context, as several rules ask."""
    if context not in _known:
        _known[context] = _exchanges(context)
    return _known[context]


_known: WeakKeyDictionary[Context, Exchanges] = WeakKeyDictionary()  # nothing in an Exchanges holds its context


def _exchanges(context: Context) -> Exchanges:
    trace, steps = context.trace, cut_by_device(context.trace, context.steps)
    own = trace.named(is_collective)
    has_kernels = trace.on_device and collective_kernels(trace).any()
    if not has_kernels and not own[trace.host_ops.name].any() and not _marked(trace):
        return Exchanges((), max(len(steps), 1), 1.0, EMPTY, EMPTY)
    issues = _issues(trace, own)
    found = list(_of_kernels(context, steps, issues) if has_kernels else _of_host(context, issues))
    found = sorted((x for x in found if x.step >= 0), key=lambda x: x.start_ns)
    computing = within(_computing(trace, own), steps)
    exposed, late = difference(within(_spans(found), steps), computing), waits_for_late(context)
    bare, alone, waiting = _bare(context, steps), difference(exposed, late), intersection(exposed, late)
    link = LINK_BYTES_PER_S[bool(has_kernels)]
    return Exchanges(tuple(found), max(len(steps), 1), bare, computing, alone, waiting, link)


def _bare(context: Context, steps: Steps) -> float:
    recorded_s = float(steps.duration_ns.mean()) / 1e9 if len(steps) else 0.0
    return min(context.step_s / recorded_s, 1.0) if recorded_s > 0 else 1.0


def _marked(trace: Trace) -> bool:
    return any(name.startswith("gloo:") for name in trace.names)


def _computing(trace: Trace, own: Mask) -> Intervals:
    """When something runs that does not exchange: kernels and copies on the device, without one operators."""
    if trace.on_device:
        other, copies = ~collective_kernels(trace), trace.copies
        inside = ~copies.crosses_bus
        return union(
            np.append(trace.kernels.start_ns[other], copies.start_ns[inside]),
            np.append(trace.kernels.end_ns[other], copies.end_ns[inside]),
        )
    ops = trace.host_ops
    starts, ends, rows = exclusive(ops.start_ns, ops.end_ns, ops.parent, np.ones(len(ops), bool))
    working = ~own[ops.name[rows]] if len(rows) else np.zeros(0, bool)
    return union(starts[working], ends[working])


@dataclass(frozen=True, eq=False)
class _Issues:
    """The operators that issue exchanges, outermost only, in order of time."""

    row: Int64s
    kind: list[str]
    gradient: Mask
    of_op: Int64s  # place among these of each operator they call, and of themselves; -1 for others

    def payload(self, trace: Trace, place: int) -> tuple[int, ElementType | None]:
        """Elements and their type, as far as the backend's own record or the arguments say."""
        signature = int(trace.host_ops.signature[self.row[place]])
        elements, element = _largest(trace.signatures[signature]) if signature >= 0 else (-1, None)
        return elements, self._told.get(place) or element

    @cached_property
    def _told(self) -> dict[int, ElementType]:
        return {}


def _issues(trace: Trace, own: Mask) -> _Issues:
    ops = trace.host_ops
    kinds = [kind_of_operator(name) or (KINDS[-1] if name == RECORD else None) for name in trace.names]
    issuing = np.array([kind is not None for kind in kinds], bool)[ops.name] if len(ops) else np.zeros(0, bool)
    outermost = issuing & ~under(ops.parent, issuing)
    rows = np.flatnonzero(outermost)
    rows = rows[np.argsort(ops.start_ns[rows], kind="stable")]
    accumulating = trace.named(lambda name: ACCUMULATE in name)[ops.name] if len(ops) else np.zeros(0, bool)
    place = np.full(len(ops), -1, np.int64)
    place[rows] = np.arange(len(rows))
    found = _Issues(
        row=rows, kind=[kinds[ops.name[row]] or KINDS[-1] for row in rows.tolist()],
        gradient=under(ops.parent, accumulating)[rows], of_op=_inherited(ops.parent.astype(np.int64), place),
    )  # fmt: skip
    told = trace.collectives
    for call, op in zip(told.call.tolist(), told.op.tolist(), strict=True):
        dtype = trace.collective_calls[call].dtype
        element = ELEMENT_TYPES.get(COLLECTIVE_TYPES.get(dtype or "", dtype or ""))
        if op >= 0 and found.of_op[op] >= 0 and element is not None and trace.collective_calls[call].kind != "wait":
            found._told.setdefault(int(found.of_op[op]), element)
    return found


def _inherited(parent: Int64s, value: Int64s) -> Int64s:
    """Each row's own value, or that of the nearest caller that has one; -1 where none has."""
    found, above = value.copy(), parent.copy()
    while ((found < 0) & (above >= 0)).any():
        asking = (found < 0) & (above >= 0)
        found[asking] = value[above[asking]]
        above = np.where(above >= 0, parent[above], -1)
    return found


def _largest(signature: Signature) -> tuple[int, ElementType | None]:
    """Elements of the largest tensor, or list of tensors, among the arguments, and their type (not known of lists)."""
    best, element = -1, None
    for dims, dtype in zip(signature.dims, signature.dtypes, strict=False):
        listed = bool(dims) and isinstance(dims[0], tuple)
        sizes = _flattened(dims) if listed else [dims] if dtype in ELEMENT_TYPES else []
        count = sum(int(np.prod(size)) for size in sizes) if sizes else -1
        if count > best:
            best, element = count, ELEMENT_TYPES.get(dtype)
    return best, element


def _flattened(dims: tuple[object, ...]) -> list[tuple[int, ...]]:
    """The sizes of all tensors of a list, also of a list of lists."""
    found: list[tuple[int, ...]] = []
    for each in dims:
        if isinstance(each, tuple):
            nested = bool(each) and isinstance(each[0], tuple)
            found += _flattened(each) if nested else [each]
    return found


def _of_kernels(context: Context, steps: Steps, issues: _Issues) -> Iterator[Exchange]:
    """One for each kernel of a communication library; what it carries is as its summary for other ranks says."""
    trace = context.trace
    told = summarise(trace, trace.rank or 0)
    table, kernels = told.collectives, trace.kernels
    named = np.flatnonzero(collective_kernels(trace))
    rows = np.unique(np.append(named, trace.collectives.kernel[trace.collectives.kernel >= 0])).astype(np.int64)
    linked = len(rows) == len(table)  # both are in order of start
    op = kernels.op[rows].astype(np.int64) if linked else np.full(len(table), -1)
    place = np.where(op >= 0, issues.of_op[op], -1) if len(issues.of_op) else np.full(len(table), -1)
    step = _steps(steps, table, table.start_ns - trace.start_unix_ns)
    for at in range(len(table)):
        where, group = int(place[at]), told.groups[int(table.group[at])]
        elements, element = issues.payload(trace, where) if where >= 0 else (-1, None)
        size = max(int(table.in_bytes[at]), int(table.out_bytes[at]))
        if size >= 0 and element is not None:
            elements = size // element.itemsize
        yield Exchange(
            kind=KINDS[int(table.kind[at])], step=int(step[at]), row=int(issues.row[where]) if where >= 0 else -1,
            start_ns=int(table.start_ns[at]) - trace.start_unix_ns, end_ns=int(table.end_ns[at]) - trace.start_unix_ns,
            ran_ns=int(table.end_ns[at] - table.start_ns[at]),
            elements=elements, element=element, ranks=group.size, gradient=where >= 0 and bool(issues.gradient[where]),
        )  # fmt: skip


def _steps(steps: Steps, table: CollectiveTimes, start_ns: Int64s) -> Int64s:
    """The row of the step that issued each, or in which it ran where its launch was not recorded; -1 for neither."""
    at = np.minimum(np.searchsorted(steps.number, table.step), len(steps) - 1)
    known = steps.number[at] == table.step
    return np.where(known, at, step_of(steps, start_ns)).astype(np.int64)


def _of_host(context: Context, issues: _Issues) -> Iterator[Exchange]:
    """One for each issue, until what the backend ran for it ended; where they do not pair, until the issue ended."""
    trace, ops = context.trace, context.trace.host_ops
    own = [place for place in range(len(issues.row)) if issues.kind[place] != KINDS[-1]]
    ran = _runs(trace, len(own))
    for turn, place in enumerate(own):
        row = int(issues.row[place])
        elements, element = issues.payload(trace, place)
        start_ns, end_ns = int(ops.start_ns[row]), int(ops.end_ns[row])
        began_ns, ended_ns = ran[turn] if ran else (start_ns, end_ns)
        yield Exchange(
            kind=issues.kind[place], step=int(step_of(context.steps, ops.start_ns[row : row + 1])[0]), row=row,
            start_ns=start_ns, end_ns=max(end_ns, ended_ns), ran_ns=ended_ns - began_ns, elements=elements,
            element=element, ranks=trace.world_size, gradient=bool(issues.gradient[place]),
        )  # fmt: skip


def _runs(trace: Trace, issued: int) -> list[tuple[int, int]]:
    """When Gloo's threads ran what was issued, in order of issue; none where there are not as many runs."""
    marks = trace.annotations
    gloo = trace.named(lambda name: name.startswith("gloo:"))[marks.name] if len(marks) else np.zeros(0, bool)
    rows = np.flatnonzero(gloo & ~marks.on_device)
    if len(rows) != issued:
        return []
    rows = rows[np.argsort(marks.start_ns[rows], kind="stable")]
    return list(zip(marks.start_ns[rows].tolist(), marks.end_ns[rows].tolist(), strict=True))
