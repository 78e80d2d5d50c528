"""What waits for what: moments of the host and pieces of device work, each with all that it had to wait for.

The graph reproduces the recording by construction: each node starts when the last of what it waits for is over, plus
the delay that was observed there. What is changed moves everything that waits for it and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probe.analyzers.critical_path.device_work import (
    Edges,
    Work,
    across_streams,
    device_work,
    launch_points,
    least_delay_ns,
    stream_order,
    streams,
)
from probe.analyzers.critical_path.host_points import Kind, Points, host_points
from probe.analyzers.critical_path.host_waits import device_waits, turns
from probe.trace import Int32s, Int64s, Steps, Trace

NONE = -1
MOST_NODES = 60_000  # of a walk: a Python loop over more takes more than some hundredths of a second
BEFORE, LAUNCH, OTHER = 0, 1, 2  # what bound a node: the one before it, its launch, or another thread or stream
_NEVER = -(1 << 60)
_CHAIN = 1 << 50  # more than any rank: the ranks of one thread never reach those of the next


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes: first the points of the host, then the device work. Columns [nodes] unless said otherwise.

    A node is ready when the one before it on its thread or stream has ended, its launch was reached, and all others
    that it waits for have ended, each with its lag; it ends `end_ns - ready_ns` later.
    """

    points: Points
    work: Work
    marks: Steps
    ready_ns: Int64s
    end_ns: Int64s
    before: Int64s  # node before it on the same thread or stream
    lag_ns: Int64s
    launch: Int64s  # of device work: the point at which the host handed it over
    launch_lag_ns: Int64s
    other: Edges  # between nodes
    order: Int64s  # nodes in an order in which each comes after all that it waits for
    bound_by: Int64s  # node that it waited for last, -1 for none
    bound_how: Int64s  # BEFORE, LAUNCH or OTHER

    def __len__(self) -> int:
        return len(self.ready_ns)


def build(trace: Trace, marks: Steps) -> Graph:
    """The graph of a trace with these step marks."""
    points, work = host_points(trace, marks), device_work(trace)
    first = len(points)  # number of the first node that is device work
    every = streams(work)
    waits, handed = device_waits(trace, points, work, every), turns(points)
    ready = np.append(_host_ready(points, work, waits), work.start_ns)
    end = np.append(points.end_ns, work.end_ns)
    before, lag = _before(points, work, first, ready, end)
    launch = np.append(np.full(first, NONE), launch_points(points, len(trace.runtime_calls))[work.launch])
    launch_lag = _launch_lags(launch, ready, least_delay_ns(work))
    arrived = np.maximum(_arrival(before, end, lag), _arrival(launch, ready, launch_lag))
    crossing = across_streams(trace, work, every, arrived[first:])
    other = _joined(handed, _moved(waits, first, 0), _moved(crossing, first, first))
    return _bound(points, work, marks, ready, end, before, lag, launch, launch_lag, other)


def middle(graph: Graph, most_nodes: int) -> slice:
    """The steps in the middle of a recording that have no more nodes than that; all of a short one, one at least."""
    count = len(graph.marks)
    if len(graph) <= most_nodes:
        return slice(0, count)
    wanted = max(1, count * most_nodes // len(graph))
    return slice((count - wanted) // 2, (count - wanted) // 2 + wanted)


def _host_ready(points: Points, work: Work, waits: Edges) -> Int64s:
    """When each point of the host had nothing left to wait for: when it began, or what it waited for had ended."""
    ready = points.begin_ns.copy()
    np.maximum.at(ready, waits.later, work.end_ns[waits.earlier])
    return np.minimum(ready, points.end_ns)


def _before(points: Points, work: Work, first: int, ready: Int64s, end: Int64s) -> tuple[Int64s, Int64s]:
    """The node before each on its thread or stream, and the time between them that is its own.

    A thread that others hand over to, or that waits for them, has none: what passes there is the others'.
    """
    before, lag = np.full(len(ready), NONE, np.int64), np.zeros(len(ready), np.int64)
    follows = np.flatnonzero(points.thread[1:] == points.thread[:-1]) + 1
    before[follows] = follows - 1
    lag[follows] = points.begin_ns[follows] - points.end_ns[follows - 1]
    waiting = np.flatnonzero((points.kind == Kind.RESUMED) | (points.kind == Kind.HANDED_OVER))
    lag[waiting] = np.minimum(lag[waiting], 0)
    order = stream_order(work)
    before[order.later + first], lag[order.later + first] = order.earlier + first, order.lag_ns
    return before, lag


def _launch_lags(launch: Int64s, ready: Int64s, least_ns: int) -> Int64s:
    """What the way to the device takes: the least that occurs, less where the clocks say less."""
    lag = np.zeros(len(launch), np.int64)
    known = launch >= 0
    lag[known] = np.minimum(least_ns, ready[known] - ready[launch[known]])
    return lag


def _arrival(source: Int64s, instant: Int64s, lag: Int64s) -> Int64s:
    """When what each node waits for lets it start; never, in the past, where it waits for nothing."""
    return np.where(source >= 0, instant[source] + lag, _NEVER)


def _moved(edges: Edges, earlier: int, later: int) -> Edges:
    return Edges(edges.earlier + earlier, edges.later + later, edges.lag_ns)


def _joined(*edges: Edges) -> Edges:
    """All edges, by the node that waits."""
    joined = Edges(*(np.concatenate([getattr(e, name) for e in edges]) for name in ("earlier", "later", "lag_ns")))
    return joined.where(np.argsort(joined.later, kind="stable"))


def _bound(
    points: Points, work: Work, marks: Steps, ready: Int64s, end: Int64s, before: Int64s, lag: Int64s,
    launch: Int64s, launch_lag: Int64s, other: Edges,
) -> Graph:  # fmt: skip
    """The graph, with what each node waited for last; what nothing explains is a delay of that."""
    rank = _ranks(points, work, ready, launch)
    other = other.where(rank[other.earlier] < rank[other.later])
    arrivals = np.stack([_arrival(before, end, lag), _arrival(launch, ready, launch_lag)])
    arrived = end[other.earlier] + other.lag_ns
    last = np.full(len(ready), NONE, np.int64)
    by_time = np.argsort(arrived, kind="stable")
    last[other.later[by_time]] = by_time  # the latest stays
    other_at = np.where(last >= 0, np.append(arrived, _NEVER)[last], _NEVER)
    choices = np.stack([*arrivals, other_at])
    how = np.argmax(choices, axis=0)
    none = choices.max(axis=0) <= _NEVER
    rest = np.where(none, 0, ready - choices.max(axis=0))
    lag = lag + np.where(how == BEFORE, rest, 0)
    launch_lag = launch_lag + np.where(how == LAUNCH, rest, 0)
    late = np.flatnonzero((how == OTHER) & ~none)
    lags = other.lag_ns.copy()
    lags[last[late]] += rest[late]
    sources = np.stack([before, launch, np.append(other.earlier, NONE)[last]])
    return Graph(
        points, work, marks, ready, end, before, lag, launch, launch_lag,
        Edges(other.earlier, other.later, lags), np.argsort(rank, kind="stable"),
        np.where(none, NONE, np.take_along_axis(sources, how[None], 0)[0]), how,
    )  # fmt: skip


def _ranks(points: Points, work: Work, ready: Int64s, launch: Int64s) -> Int64s:
    """Each node's place in an order of time that keeps threads, streams and launches in theirs."""
    first = len(points)
    rank = ready * 4  # room for what happens at the same instant
    rank[:first] = _rising(rank[:first], points.thread)
    rank[first:] = np.maximum(rank[first:], np.append(rank, _NEVER)[launch[first:]] + 1)
    order = first + np.lexsort((work.start_ns, work.stream))
    rank[order] = _rising(rank[order], work.stream[order - first])
    return rank


def _rising(rank: Int64s, chain: Int64s | Int32s) -> Int64s:
    """Ranks, sorted by chain, that rise by at least one within each."""
    places = np.arange(len(rank))
    apart = np.append(0, np.cumsum(np.diff(chain) != 0))[: len(rank)] * _CHAIN
    return np.asarray(np.maximum.accumulate(rank - places + apart) + places - apart, np.int64)
