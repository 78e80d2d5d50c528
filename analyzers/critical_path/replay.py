"""How long would the steps take if some operators or kernels took another time? The graph is walked once more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from probe.analyzers.critical_path.device_work import least_delay_ns
from probe.analyzers.critical_path.graph import MOST_NODES, NONE, Graph, middle
from probe.analyzers.critical_path.host_points import Kind
from probe.analyzers.operators.steps import EARLIER, paced, work_steps
from probe.trace import Int64s, Mask, Trace

_NEVER = -(1 << 60)  # for what waits for others before it is ready
Factors = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Changes:
    """What share of its time something keeps, by its row: 0 removes it, 1 changes nothing, 2 doubles it.

    ops: host operators, with all that they call and launch. host: whether their time on the host changes with that of
    what they launch; it does where fewer or more are called. kernels, copies: device work alone.
    """

    ops: Mapping[int, float] = field(default_factory=dict)
    kernels: Mapping[int, float] = field(default_factory=dict)
    copies: Mapping[int, float] = field(default_factory=dict)
    host: bool = True


@dataclass(frozen=True, eq=False)
class Replay:
    """A graph made ready to be walked again and again; of a long recording the steps in its middle only."""

    trace: Trace
    graph: Graph
    most_nodes: int = MOST_NODES

    def step_s(self, changes: Changes | None = None) -> float:
        """Mean seconds per step with the changes: the host's pace or the device's, whichever is slower."""
        if not len(self.graph.marks):
            return 0.0
        unchanged = self._pace_ns(self.graph.end_ns, slice(None)) / 1e9 / len(self.graph.marks)
        if changes is None:
            return unchanged
        steps = self._window[0]
        before = self._pace_ns(self.graph.end_ns, steps)
        return unchanged * self._pace_ns(self._ends(changes), steps) / before if before else unchanged

    def walk(self) -> Int64s:
        """When each node ends if nothing is changed: as recorded, or the graph is wrong."""
        return self._ends(Changes())

    def undelayed_step_s(self) -> float:
        """Mean seconds per step if device work began as soon as what it is known to wait for lets it.

        The graph keeps what no dependency explains as a delay. Without those on the device, what is left is what the
        dependencies alone foretell. A call may hand its work over at any moment until it returns: a copy from pageable
        memory is staged first.
        """
        if not len(self.graph.marks):
            return 0.0
        graph, steps = self.graph, self._window[0]
        lag = np.where(np.arange(len(graph)) >= len(graph.points), np.minimum(graph.lag_ns, 0), graph.lag_ns)
        calls = self.trace.runtime_calls
        inside = np.append(calls.end_ns - calls.start_ns, 0)[graph.work.launch]
        handed = np.maximum(inside, least_delay_ns(graph.work))
        least = graph.launch_lag_ns.copy()
        least[len(graph.points) :] = np.minimum(least[len(graph.points) :], handed)
        ends = self._walk(lag, graph.end_ns - graph.ready_ns, least)
        before = self._pace_ns(graph.end_ns, steps)
        return self.step_s() * self._pace_ns(ends, steps) / before if before else self.step_s()

    def _pace_ns(self, end: Int64s, steps: slice) -> float:
        """What the steps take altogether, given when each node ends."""
        graph = self.graph
        starts, ends = (end[self._marks[kind]] for kind in (Kind.STEP_BEGINS, Kind.STEP_ENDS))
        marked = float((ends - starts)[steps].sum())
        if not len(graph.work):
            return marked
        work = end[len(graph.points) :]
        until = np.full(len(starts), np.iinfo(np.int64).min)
        inside = self._steps >= 0
        np.maximum.at(until, self._steps[inside], work[inside])
        begun, done = paced(starts, ends, until, int(work[self._earlier].max(initial=starts[0])))
        return max(marked, float((done - begun)[steps].sum()))

    @cached_property
    def _marks(self) -> dict[Kind, Int64s]:
        """The nodes at which the steps begin and end, in the order of the steps."""
        points = self.graph.points
        at = {kind: np.flatnonzero(points.kind == kind) for kind in (Kind.STEP_BEGINS, Kind.STEP_ENDS)}
        return {kind: rows[np.argsort(points.row[rows])] for kind, rows in at.items()}

    @cached_property
    def _window(self) -> tuple[slice, Int64s]:
        """The steps that are walked, and the nodes of their time in order."""
        graph = self.graph
        steps = middle(graph, self.most_nodes)
        if steps == slice(0, len(graph.marks)):
            return steps, graph.order
        start, last = int(graph.marks.start_ns[steps.start]), steps.stop - 1
        work_end = graph.end_ns[len(graph.points) :][self._steps == last].max(initial=0)
        end = max(int(graph.marks.end_ns[last]), int(work_end))
        ready = graph.ready_ns[graph.order]
        return steps, graph.order[(ready >= start) & (ready <= end)]

    @cached_property
    def _steps(self) -> Int64s:
        """The step that launched each piece of device work."""
        tables = (self.trace.kernels, self.trace.copies)
        return np.concatenate([work_steps(self.trace, work, self.graph.marks) for work in tables])

    @cached_property
    def _earlier(self) -> Mask:
        """The device work of steps before the first."""
        start = self.graph.work.start_ns
        mine = start[self._steps >= 0]
        return np.asarray((self._steps == EARLIER) & (start < (mine.min() if len(mine) else 0)), bool)

    def _ends(self, changes: Changes) -> Int64s:
        """When each node ends: host points, then device work."""
        graph = self.graph
        lag, cost = graph.lag_ns.copy(), graph.end_ns - graph.ready_ns
        if changes.ops:
            changed = _outermost(self.trace, changes.ops)
            if changes.host:
                self._shorten_host(changed, lag, cost)
        else:
            changed = _NOTHING
        first = len(graph.points)
        cost[first:] = np.rint(cost[first:] * self._kept_work(changed, changes))
        return self._walk(lag, cost)

    def _shorten_host(self, changed: _Changed, lag: Int64s, cost: Int64s) -> None:
        """Take what the operators no longer spend on the host from the time between points and inside calls."""
        points = self.graph.points
        first = len(points)
        ready, end = self.graph.ready_ns[:first], self.graph.end_ns[:first]
        for thread in np.unique(changed.thread).tolist():
            rows = np.flatnonzero(points.thread == thread)
            if not len(rows):
                continue
            begin, before = points.begin_ns[rows], self.graph.before[rows]
            since = np.where(before >= 0, end[before], begin)
            less = np.rint(changed.saved(thread, begin) - changed.saved(thread, since)).astype(np.int64)
            lag[rows] = np.where(lag[rows] > 0, lag[rows] - less, lag[rows])
            cost[rows] -= np.rint(changed.saved(thread, end[rows]) - changed.saved(thread, ready[rows])).astype(
                np.int64
            )

    def _kept_work(self, changed: _Changed, changes: Changes) -> Factors:
        """The share of its time that each piece of device work keeps."""
        work, host = self.graph.work, self.trace.host_ops
        kept = np.ones(len(work))
        owned = np.flatnonzero(work.op >= 0)
        kept[owned] = changed.factor_at(host.thread[work.op[owned]].astype(np.int64), host.start_ns[work.op[owned]])
        for rows, offset in ((changes.kernels, 0), (changes.copies, len(self.trace.kernels))):
            for row, factor in rows.items():
                kept[row + offset] = factor
        return kept

    @cached_property
    def _lists(self) -> _Lists:
        """What is walked as lists, for a loop over single numbers is quicker with them."""
        graph, walked = self.graph, self._window[1]
        inside = np.zeros(len(graph), bool)
        inside[walked] = True
        waits = inside[graph.other.later]
        later, earlier, lag = graph.other.later[waits], graph.other.earlier[waits], graph.other.lag_ns[waits]
        read = np.unique(np.concatenate([graph.before[walked], graph.launch[walked], earlier]))
        read = read[read != NONE]
        nodes = np.concatenate([walked, read[~inside[read]]])
        place = np.full(len(graph) + 1, NONE, np.int64)  # the last is that of NONE
        place[nodes] = np.arange(len(nodes))
        other: dict[int, list[tuple[int, int]]] = {}
        for at, source, wait in zip(place[later].tolist(), place[earlier].tolist(), lag.tolist(), strict=True):
            other.setdefault(at, []).append((source, wait))
        return _Lists(
            before=place[graph.before[walked]].tolist(),
            launch=place[graph.launch[walked]].tolist(),
            launch_lag=graph.launch_lag_ns[walked].tolist(),
            other=other,
            free=(graph.bound_by[walked] == NONE).tolist(),
            ready=graph.ready_ns[nodes].tolist(),
            end=graph.end_ns[nodes].tolist(),
        )

    def _walk(self, lag: Int64s, cost: Int64s, launch_lags: Int64s | None = None) -> Int64s:
        """When each node ends, from what it waits for: one after another, for each depends on the last."""
        lists, walked = self._lists, self._window[1]
        other = lists.other
        launch_lag = lists.launch_lag if launch_lags is None else launch_lags[walked].tolist()
        ready, end = lists.ready.copy(), lists.end.copy()
        columns = (lists.before, lists.launch, launch_lag, lists.free, lag[walked].tolist(), cost[walked].tolist())
        for node, (previous, issued, wait, free, own_lag, own_cost) in enumerate(zip(*columns, strict=True)):
            at = end[previous] + own_lag if previous != NONE else ready[node] if free else _NEVER
            if issued != NONE:
                launched = ready[issued] + wait
                at = launched if launched > at else at  # a call of max takes as long as all the rest
            if node in other:
                at = max(at, max(end[earlier] + lag_ns for earlier, lag_ns in other[node]))
            ready[node] = at
            end[node] = at + own_cost
        found = self.graph.end_ns.copy()
        found[walked] = end[: len(walked)]
        return found


@dataclass(frozen=True)
class _Lists:
    """Columns of the nodes that are walked, in the order of the walk; nodes are numbered by their place in it.

    ready, end: as recorded, of those nodes and then of others that they wait for. free: whether it waits for nothing.
    """

    before: list[int]
    launch: list[int]
    launch_lag: list[int]
    other: dict[int, list[tuple[int, int]]]
    free: list[bool]
    ready: list[int]
    end: list[int]


@dataclass(frozen=True, eq=False)
class _Changed:
    """Changed operators that no other changed one calls, in the order of thread and time; the share that each keeps."""

    thread: Int64s
    start_ns: Int64s
    end_ns: Int64s
    factor: Factors

    def saved(self, thread: int, instants_ns: Int64s) -> Factors:
        """Nanoseconds that a thread's operators no longer take before each instant."""
        rows = self.thread == thread
        ends = np.stack([self.start_ns[rows], self.end_ns[rows]], axis=1).reshape(-1)
        each = (1 - self.factor[rows]) * (self.end_ns - self.start_ns)[rows]
        total = np.cumsum(each)
        found: Factors = np.interp(instants_ns, ends, np.stack([total - each, total], axis=1).reshape(-1))
        return found

    def factor_at(self, thread: Int64s, instants_ns: Int64s) -> Factors:
        """The share that what runs on a thread at an instant keeps."""
        if not len(self.factor):
            return np.ones(len(instants_ns))
        at = np.searchsorted(_key(self.thread, self.start_ns), _key(thread, instants_ns), side="right") - 1
        inside = (at >= 0) & (self.thread[at] == thread) & (instants_ns < self.end_ns[at])
        return np.asarray(np.where(inside, self.factor[at], 1.0), np.float64)


_NOTHING = _Changed(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def _outermost(trace: Trace, ops: Mapping[int, float]) -> _Changed:
    rows, kept = np.fromiter(ops.keys(), np.int64, len(ops)), np.fromiter(ops.values(), np.float64, len(ops))
    order = np.argsort(rows)
    rows = rows[order]
    host = trace.host_ops
    thread, start, end = host.thread[rows].astype(np.int64), host.start_ns[rows], host.end_ns[rows]
    covered = np.append(-1, np.maximum.accumulate(_key(thread, end))[:-1])
    outer = _key(thread, start) >= covered
    return _Changed(thread[outer], start[outer], end[outer], kept[order][outer])


def _key(thread: Int64s, instant_ns: Int64s) -> Int64s:
    """One number that sorts by thread, then time."""
    return thread.astype(np.int64) * (1 << 50) + instant_ns
