"""What does a step take whose kernels are launched at once, as a CUDA graph? The host's part of launching is taken out.

What stays: the host before the first launch of a step and after the last, waits for the device and what follows them
until the next launch (a graph ends there), the order of kernels on their streams, and delays that nothing explains.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from probe.analyzers.critical_path.device_work import LATE_NS, Edges, least_delay_ns
from probe.analyzers.critical_path.graph import BEFORE, NONE, Graph
from probe.analyzers.critical_path.host_points import Kind
from probe.analyzers.operators.steps import step_of
from probe.trace import Mask, Trace


@dataclass(frozen=True)
class Launching:
    """What graphs cost: seconds of the host to launch one and for each of its kernels, and from kernel to kernel."""

    once_s: float
    each_s: float
    gap_s: float


# The host: 2.5 µs and 1 ns a kernel with CUDA 12.6, 200 ns a kernel with 11.8 (NVIDIA's blog of September 2024,
# "Constant Time Launch for Straight-Line CUDA Graphs"). From kernel to kernel: 0.58 µs of empty ones, after 15 µs once
# (ahrefs/ocannl issue 488); 1.34 µs of kernels over 64 KiB on an A100, whose own time is part of it (gpu-benches).
USUAL = Launching(2.5e-6, 1e-9, 0.58e-6)
LEAST = Launching(2.5e-6, 1e-9, 0.0)
MOST = Launching(15e-6, 200e-9, 1.34e-6)


@dataclass(frozen=True, eq=False)
class Launches:
    """Of each point of the host, [points]: does it launch kernels, does it fall away, does a graph begin with it?"""

    launching: Mask
    falls_away: Mask  # it and the host's time before it: from a graph's first launch to its last
    opens: Mask


def as_graphs(trace: Trace, graph: Graph, costs: Launching) -> Graph:
    """The graph of waits with the kernels of each step launched at once, as often as the host waits in between."""
    found, first = launches(trace, graph), len(graph.points)
    spent = (graph.end_ns - graph.ready_ns)[:first]
    spent = np.where(found.falls_away & (graph.points.kind != Kind.WAIT), 0, spent)
    spent = np.where(found.launching, _ns(costs.each_s) + np.where(found.opens, _ns(costs.once_s), 0), spent)
    lag, late = graph.lag_ns.copy(), graph.launch_lag_ns.copy()
    lag[:first] = np.where(found.falls_away, np.minimum(lag[:first], 0), lag[:first])
    mine = first + np.flatnonzero(np.append(found.launching, False)[graph.launch[first:]])
    late[mine] = np.minimum(late[mine], max(least_delay_ns(graph.work), _ns(costs.once_s)))
    mine = mine[(graph.before[mine] != NONE) & (lag[mine] >= 0) & (lag[mine] <= LATE_NS)]
    followed = graph.bound_how[mine] == BEFORE  # what was seen to follow sooner does so again
    lag[mine] = np.where(followed, np.minimum(lag[mine], _ns(costs.gap_s)), _ns(costs.gap_s))
    ready = np.append(graph.end_ns[:first] - spent, graph.ready_ns[first:])
    other = _without_turns(graph, found.falls_away)
    return replace(graph, ready_ns=ready, lag_ns=lag, launch_lag_ns=late, other=other)


def launches(trace: Trace, graph: Graph) -> Launches:
    """Which points of the host a graph replaces. After a wait, the host's time stays until the next launch."""
    points = graph.points
    launching = (points.kind == Kind.CALL) & np.isin(points.row, trace.kernels.launch)
    step = step_of(graph.marks, points.begin_ns)
    launching &= step >= 0
    last = np.full(len(graph.marks), -1, np.int64)
    np.maximum.at(last, step[launching], points.begin_ns[launching])
    falls_away, opens = np.zeros(len(points), bool), np.zeros(len(points), bool)
    within: int | None = None  # the step whose graph is open
    for row in np.lexsort((points.begin_ns, step)).tolist():
        here = int(step[row])
        if here < 0 or points.begin_ns[row] > last[here]:
            continue
        falls_away[row] = within == here
        if launching[row]:
            opens[row], within = within != here, here
        elif points.kind[row] == Kind.WAIT:
            within = None
    return Launches(launching, falls_away, opens)


def graphs_a_step(trace: Trace, graph: Graph) -> float:
    """How many graphs a step comes to: one, and one more for each wait after which something is launched."""
    return float(launches(trace, graph).opens.sum()) / max(len(graph.marks), 1)


def _without_turns(graph: Graph, falls_away: Mask) -> Edges:
    """The waits of threads for one another take no time where no thread takes part; those for the device stay."""
    other, first = graph.other, len(graph.points)
    between_threads = (other.earlier < first) & np.append(falls_away, np.zeros(len(graph) - first, bool))[other.later]
    return replace(other, lag_ns=np.where(between_threads, np.minimum(other.lag_ns, 0), other.lag_ns))


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
