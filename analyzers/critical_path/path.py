"""Which chain of waits makes the steps as long as they are, and what it is made of: every instant of it once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probe.analyzers.critical_path.graph import LAUNCH, MOST_NODES, NONE, Graph, middle
from probe.analyzers.critical_path.host_points import Kind
from probe.analyzers.operators.steps import cut_by_device, work_steps
from probe.analyzers.timeline.calls import is_allocation, is_sync
from probe.analyzers.timeline.device import collective_kernels
from probe.analyzers.timeline.threads import busy, loader_intervals
from probe.intervals import difference, length_before
from probe.results.analysis import PATH_KINDS
from probe.trace import Int64s, Table, Trace

_CALLS = (int(Kind.CALL), int(Kind.WAIT))
HOST, CALL, ISSUE, DELAY, RUN = range(5)  # a thread, a runtime call, the way to the device, its queue, device work


@dataclass(frozen=True, eq=False)
class Path(Table):
    """Pieces of the critical path, the last first: each ends where the one before it in the table begins."""

    start_ns: Int64s
    end_ns: Int64s
    what: Int64s  # HOST, CALL, ISSUE, DELAY or RUN
    row: Int64s  # HOST: of the thread; CALL: of the runtime call; RUN: of the device work; else -1


def critical_path(trace: Trace, graph: Graph) -> Path:
    """Back from the end of the last step, always to what was waited for last, to the begin of the first.

    Of a long recording, the steps in its middle.
    """
    if not len(graph.marks) or not len(graph):
        return Path(*(np.zeros(0, np.int64) for _ in range(4)))
    steps, chosen = cut_by_device(trace, graph.marks), middle(graph, MOST_NODES)
    node = _last(trace, graph, chosen.stop - 1, ends_on_device=steps is not graph.marks)
    pieces = _Pieces(graph, int(graph.end_ns[node]), int(steps.start_ns[chosen.start]))
    for _ in range(len(graph)):  # a node is visited once
        if node == NONE or pieces.until <= pieces.start:
            break
        node = pieces.back(node)
    return Path(*np.array(pieces.found, np.int64).reshape(-1, 4).T)


def _last(trace: Trace, graph: Graph, last: int, *, ends_on_device: bool) -> int:
    """The node with which a step ends."""
    nodes = np.flatnonzero((graph.points.kind == Kind.STEP_ENDS) & (graph.points.row <= last))
    if ends_on_device:
        step = np.concatenate([work_steps(trace, work, graph.marks) for work in (trace.kernels, trace.copies)])
        nodes = np.append(nodes, len(graph.points) + np.flatnonzero((step >= 0) & (step <= last)))
    return int(nodes[np.argmax(graph.end_ns[nodes])])


class _Pieces:
    """Pieces found so far, none of them over another. Single numbers are quicker to look up in views of memory."""

    def __init__(self, graph: Graph, until: int, start: int) -> None:
        self.until, self.start = until, start
        self.found: list[tuple[int, int, int, int]] = []
        points = graph.points
        self._points = len(points)
        self._kind, self._row, self._thread = points.kind.data, points.row.data, points.thread.data
        self._ready, self._end = graph.ready_ns.data, graph.end_ns.data
        self._bound_by, self._how = graph.bound_by.data, graph.bound_how.data

    def back(self, node: int) -> int:
        """Note what a node did and what it waited for, and return that."""
        on_device = node >= self._points
        if on_device:
            self._add(self._ready[node], RUN, node - self._points)
        elif self._kind[node] in _CALLS:
            self._add(self._ready[node], CALL, self._row[node])
        earlier: int = self._bound_by[node]
        if earlier == NONE:
            return NONE
        if self._how[node] == LAUNCH:
            self._add(self._ready[earlier], ISSUE, NONE)
            return self._issued(earlier)
        self._add(self._end[earlier], DELAY if on_device else HOST, NONE if on_device else self._thread[node])
        return earlier

    def _issued(self, point: int) -> int:
        """From the moment at which a call handed its work over, back to what its thread did before."""
        earlier: int = self._bound_by[point]
        if earlier != NONE:
            self._add(self._end[earlier], HOST, self._thread[point])
        return earlier

    def _add(self, start: int, what: int, row: int) -> None:
        """The time from `start` to the begin of the piece before."""
        start = max(start, self.start)
        if start < self.until:
            self.found.append((start, self.until, what, row))
            self.until = start


def path_s(trace: Trace, graph: Graph, step_s: float | None = None) -> dict[str, float]:
    """Seconds per step that the critical path spends on each of PATH_KINDS.

    step_s: what a step takes without the profiler, to which the recorded ones are scaled.
    """
    path = critical_path(trace, graph)
    spent = dict.fromkeys(PATH_KINDS, 0) | _device_ns(trace, path) | _host_ns(trace, path)
    for kind, ns in _call_ns(trace, path).items():
        spent[kind] += ns
    chosen, total = middle(graph, MOST_NODES), sum(spent.values())
    scale = 1e-9 / max(chosen.stop - chosen.start, 1) if step_s is None or not total else step_s / total
    return {kind: ns * scale for kind, ns in spent.items()}


def _device_ns(trace: Trace, path: Path) -> dict[str, int]:
    """Time of the path on the device: work, and queues."""
    length, runs = path.end_ns - path.start_ns, path.what == RUN
    collective = np.append(collective_kernels(trace), np.zeros(len(trace.copies), bool))
    copies = np.append(np.zeros(len(trace.kernels), bool), trace.copies.crosses_bus)
    kinds = {"communication": collective, "copies": copies, "kernels": ~collective & ~copies}
    found = {kind: int(length[runs][rows[path.row[runs]]].sum()) for kind, rows in kinds.items()}
    return found | {"queue": int(length[path.what == DELAY].sum()), "launch": int(length[path.what == ISSUE].sum())}


def _call_ns(trace: Trace, path: Path) -> dict[str, int]:
    """Time of the path in runtime calls, without what they wait for."""
    length, calls = (path.end_ns - path.start_ns)[path.what == CALL], path.row[path.what == CALL]
    names = trace.runtime_calls.name[calls]
    sync, allocator = trace.named(is_sync)[names], trace.named(is_allocation)[names]
    kinds = {"sync": sync, "allocator": allocator, "launch": ~sync & ~allocator}
    return {kind: int(length[rows].sum()) for kind, rows in kinds.items()}


def _host_ns(trace: Trace, path: Path) -> dict[str, int]:
    """Time of the path on host threads: in the data loader, in operators, and outside both."""
    found = dict.fromkeys(("loader", "operators", "python"), 0)
    rows, loader = path.what == HOST, loader_intervals(trace)
    for thread in np.unique(path.row[rows]).tolist():
        mine = rows & (path.row == thread)
        operators = difference(busy(trace, thread), loader)
        starts, ends = path.start_ns[mine], path.end_ns[mine]
        for kind, within in (("loader", loader), ("operators", operators)):
            found[kind] += int((length_before(within, ends) - length_before(within, starts)).sum())
        found["python"] += int((ends - starts).sum())
    found["python"] -= found["loader"] + found["operators"]
    return found
