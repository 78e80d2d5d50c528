"""What does it cost to get work onto a GPU: from torch, through the driver, replayed from a graph?

First torch's operators (microbench/launch.py), whose `add` is the ceiling that analyses use. Then the driver alone,
with a kernel that does nothing and one that reads and writes 64 KiB. `params.clock` says whose clock a row is by:

- `device`: the time between two events, for each of the kernels or copies between them. `method` stream: launched one
  by one, as fast as the host can; queued: launched while an earlier kernel held the stream, so that the device alone
  sets the pace; graph: replayed, for each kernel of a graph of many; one-kernel graph: for each such graph; events: one
  empty kernel between two events (`params.events_s`: two events with nothing between them).
- `host`: how long the call keeps the host busy while the queue is not full; for `launch and synchronise`, how long
  until the host knows that the kernel is done.

A stream to which the host is slower to add than the device is to work off is flagged `launch-bound`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from probe.errors import UnavailableError
from probe.kernels.cpu.repeated_calls import PYTHON
from probe.kernels.cuda.driver import DeviceLost
from probe.kernels.cuda.empty import EMPTY, SMALL
from probe.kernels.cuda.gpu import Gpu
from probe.microbench import launch
from probe.microbench.cuda.bench import Bench, opened
from probe.microbench.cuda.launch_ways import DIRECTIONS, Way, Ways
from probe.microbench.cuda.watch import Watch, meter_of
from probe.microbench.harness import Effort, Timing, measure
from probe.microbench.suite import Context, time_measurement
from probe.results.measurement import Measurement

NAME = "launch"
OPERATORS_SHARE = 0.4  # of the budget, for torch's operators
HOST_BOUND = 1.1  # times what the device needs by itself: from there on it waits for the host
STREAM, QUEUED, GRAPH = "empty kernel, stream", "empty kernel, queued", "empty kernel, graph"
SMALL_STREAM, SMALL_GRAPH = "64 KiB kernel, stream", "64 KiB kernel, graph"
ONE_KERNEL, BETWEEN_EVENTS = "one-kernel graph", "empty kernel between events"
ROUND_TRIP = "launch and synchronise"
Makers = dict[str, Callable[[str], Way]]


def run(context: Context, gpu: Gpu | None = None) -> Iterator[Measurement]:
    """One measurement an operator, kernel or call, metric `time`, in seconds for one.

    Where torch does not work, or the driver cannot be called without it, the other half is kept, with a warning.
    Raises UnavailableError where neither gave anything, and where the device is lost.
    """
    found = 0
    for part in (operators(_part(context, 0, OPERATORS_SHARE)), driver(_part(context, OPERATORS_SHARE, 1), gpu)):
        try:
            for measurement in part:
                found += 1
                yield measurement
        except DeviceLost:
            raise
        except (RuntimeError, UnavailableError) as failed:
            reason = next(iter(str(failed).splitlines()), type(failed).__name__)
            context.warnings.append(f"{NAME}: what came until then is kept: {reason}")
    if not found:
        raise UnavailableError(f"nothing could be launched: {context.warnings[-1]}")


def _part(context: Context, first: float, last: float) -> Context:
    """The context for that part of the suite's time; warnings go to the same list."""
    return dataclasses.replace(
        context,
        budget_s=context.budget_s * (last - first),
        report=lambda fraction: context.report(first + fraction * (last - first)),
    )


def operators(context: Context) -> Iterator[Measurement]:
    """torch's operators, with what held on the GPU meanwhile."""
    with meter_of(context.index) as meter, Watch(meter) as watch:
        found = list(launch.run(context))
    conditions = watch.conditions
    for m in found:
        flags = tuple(dict.fromkeys((*m.flags, *conditions.flags)))
        yield dataclasses.replace(m, params={**conditions.params, **m.params}, flags=flags)


def driver(context: Context, gpu: Gpu | None = None) -> Iterator[Measurement]:
    """Kernels and calls without torch; what one GPU or driver cannot do costs only itself."""
    with opened(context, gpu) as bench:
        ways = Ways(bench)
        context.report(0.0)
        yield from _on_device(bench, _made(bench, on_device(ways)), bench.left_s / 2)
        context.report(0.5)
        yield from _on_host(bench, _made(bench, on_host(ways)), bench.left_s)
        bench.gpu.synchronise()
        context.report(1.0)


def on_device(ways: Ways) -> Makers:
    """What is timed by the device's clock."""
    return {
        STREAM: lambda name: ways.stream(name, EMPTY),
        SMALL_STREAM: lambda name: ways.stream(name, SMALL),
        QUEUED: ways.queued,
        GRAPH: lambda name: ways.graph(name, EMPTY),
        SMALL_GRAPH: lambda name: ways.graph(name, SMALL),
        ONE_KERNEL: ways.one_kernel_graph,
        BETWEEN_EVENTS: ways.between_events,
        **{f"copy 4 B {way}": _with(ways.copies, way) for way in DIRECTIONS},
    }


def on_host(ways: Ways) -> Makers:
    """What is timed by the host's clock."""
    return {
        "cuLaunchKernel": ways.launch_call,
        "cuGraphLaunch": ways.replay_call,
        **{f"cuMemcpyAsync 4 B {way}": _with(ways.copy_call, way) for way in DIRECTIONS},
        "cuEventRecord": ways.record_call,
        "cuEventQuery": ways.query_call,
        "cuStreamSynchronize, idle": ways.synchronise_call,
        ROUND_TRIP: ways.round_trip,
    }


def _with(make: Callable[[str, str], Way], direction: str) -> Callable[[str], Way]:
    return lambda name: make(name, direction)


def _made(bench: Bench, makers: Makers) -> list[Way]:
    """The ways that work here; a warning for each other."""
    made = []
    for operator, make in makers.items():
        with bench.sparing(f"{NAME}: {operator}"):
            made.append(make(operator))
    return made


def _on_device(bench: Bench, ways: list[Way], budget_s: float) -> Iterator[Measurement]:
    """By events, all in turn."""
    timings = bench.measure([way.variant for way in ways], Effort(budget_s))
    own_s = next((timing.seconds.min for timing in timings if timing.name == QUEUED), None)
    for way, timing in zip(ways, timings, strict=True):
        params = _params(way, timing, "device")
        flags = ("launch-bound",) if _is_host_bound(way, timing, own_s) else ()
        yield bench.time_row(NAME, f"{NAME} {timing.name}", "time", timing, params, proof=way.proof, flags=flags)


def _is_host_bound(way: Way, timing: Timing, own_s: float | None) -> bool:
    """Whether the host set the pace of kernels that were launched one by one."""
    if way.params["method"] != "stream":
        return False
    if way.params["repeated_by"] == PYTHON:
        return True
    return timing.name == STREAM and own_s is not None and timing.seconds.min > HOST_BOUND * own_s


def _on_host(bench: Bench, ways: list[Way], budget_s: float) -> Iterator[Measurement]:
    """By the host's clock, all in turn: what neighbours take of the CPUs counts, what the GPU's clock does not."""
    if not ways:
        return
    timings = measure([way.variant for way in ways], Effort(budget_s), bench.context.clock)
    for way, timing in zip(ways, timings, strict=True):
        yield time_measurement(NAME, f"{NAME} {timing.name}", "time", timing, _params(way, timing, "host"))


def _params(way: Way, timing: Timing, clock: str) -> dict[str, Any]:
    return {"operator": timing.name, "clock": clock, **way.params, **way.afterwards()}
