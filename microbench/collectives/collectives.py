"""How fast do ranks exchange data: with Gloo between CPUs, with NCCL (RCCL) between GPUs?

Method: after all ranks have met, each times a window of about a millisecond of calls in a row (one call where that
takes longer); a sample is the slowest rank's time. Operations take turns, sizes go from 8 B to 1 GiB as far as memory
and time reach. busbw is nccl-tests': what links carry, comparable with their hardware rate. Before it is timed every
operation runs at every size on known inputs, and the outputs of all ranks are compared exactly. Started by itself the
suite starts ranks on this machine: one a GPU, or two to four CPU processes with one thread each, which exchange data
over the loopback interface. Under torchrun, srun or mpirun it joins the ranks that were started; rank 0 reports.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from probe.bus_bandwidth import bus_factor
from probe.errors import UnavailableError
from probe.executors.processes import ONE_THREAD
from probe.launchers import LaunchedRank, launched_rank
from probe.microbench.collectives.alpha_beta import LEAST_SIZES, MOST_RMS_FRACTION, Line, line_through, longest_line
from probe.microbench.collectives.operations import OPERATIONS
from probe.microbench.collectives.rank_processes import RankFailed, RankProcesses
from probe.microbench.collectives.ranks import Assignment, join, one_line
from probe.microbench.collectives.sweep import At, Group, Message, Note, Plan, Point, sweep
from probe.microbench.cpu.pinning import working_cpus
from probe.microbench.harness import Timing
from probe.microbench.suite import Context, rate_measurement
from probe.results.measurement import Measurement
from probe.stats import Summary, summarise

NAME = "collectives"
QUICK_OPERATIONS = ("all_reduce", "all_gather")
MOST_CPU_RANKS = 4  # more Gloo ranks on one machine only divide its memory bandwidth further
DEFAULT_PORT = "29500"  # torch.distributed's
LOOPBACK = Path("/sys/class/net/lo")


def run(context: Context) -> Iterator[Measurement]:
    """busbw in B/s for each operation and size, then for each operation alpha (metric `latency`) in s; on rank 0 only.

    Raises UnavailableError where there are no two ranks, or where they failed before anything was measured.
    """
    place = launched_rank()
    messages = spawned(context) if place.ranks == 1 else joined(context, place)
    yield from measurements(context, messages)


def spawned(context: Context) -> Iterator[Message]:
    """What rank 0 of a group on this machine says; its processes end with this generator."""
    ranks = ranks_of(context)
    until = time.perf_counter() + context.budget_s
    plan = _plan(context)
    with RankProcesses(environment_of(context, os.environ)) as processes:
        processes.start([
            Assignment(rank, ranks, processes.meeting, plan, _device(context, rank), until) for rank in range(ranks)
        ])  # fmt: skip
        yield from processes.messages()


def joined(context: Context, place: LaunchedRank) -> Iterator[Message]:
    """What this rank of a launcher's group says: on rank 0 everything, on the others nothing."""
    assignment = Assignment(
        place.rank, place.ranks, meeting_of(place, os.environ), _plan(context), _local_device(context, place)
    )
    peers = None
    try:
        peers = join(assignment)
        for message in sweep(peers, assignment.plan):
            if place.rank == 0:
                yield message
        peers.leave()
    except UnavailableError:
        raise
    except Exception as error:  # whatever torch and the network raise; a rank that died is one of many causes
        if peers is not None:
            peers.abandon()
        raise RankFailed(
            f"rank {place.rank} of {place.ranks} lost the others: {one_line(error)}; "
            "see the other ranks' output, and that MASTER_ADDR can be reached from all nodes"
        ) from None


def measurements(context: Context, messages: Iterator[Message]) -> Iterator[Measurement]:
    """Messages as measurements, notes as warnings; a failure after the first measurement is a warning too."""
    points: list[Point] = []
    group = None
    try:
        for message in messages:
            if isinstance(message, Group):
                group = message
            elif isinstance(message, At):
                context.report(message.fraction)
            elif isinstance(message, Note):
                context.warnings.append(f"{NAME}: {message.text}")
            elif isinstance(message, Point) and group is not None:
                points.append(message)
                yield busbw(message, group)
    except RankFailed as error:
        if not points:
            raise
        context.warnings.append(f"{NAME}: {error}; what was measured until then is kept")
    if group is not None:
        yield from latencies(context, points, group)
    context.report(1.0)


def latencies(context: Context, points: list[Point], group: Group) -> Iterator[Measurement]:
    """One measurement an operation whose times a line alpha + size / beta describes; a warning names the others."""
    without = []
    for operation in dict.fromkeys(point.operation for point in points):
        found = latency(operation, [point for point in points if point.operation == operation and point.right], group)
        if found is None:
            without.append(operation)
        else:
            yield found
    if without:
        context.warnings.append(
            f"{NAME}: no latency is given for {', '.join(without)}: the times of {LEAST_SIZES} sizes or more, "
            f"from the smallest up, follow no line alpha + size / beta within {MOST_RMS_FRACTION:.0%}"
        )


def busbw(point: Point, group: Group) -> Measurement:
    """Bus bandwidth of one operation at one size, in B/s."""
    seconds = summarise(point.seconds)
    factor = _factor(point.operation, group)
    moved = point.size_bytes * factor
    timing = Timing(point.operation, summarise([sample / moved for sample in point.seconds]))
    params = {
        **_params(point.operation, group),
        "size_bytes": point.size_bytes,
        "time_s": {"min": seconds.min, "median": seconds.median},
        "algbw_bytes_per_s": point.size_bytes / seconds.min,
    }
    flags = () if point.right else ("wrong-result",)
    return rate_measurement(NAME, point.operation, "busbw", "B/s", timing, params, flags=flags)


def latency(operation: str, points: list[Point], group: Group) -> Measurement | None:
    """alpha of an operation, in s, by the best times and by the medians; None where no line describes them.

    The interval is that of lines through the low and through the high ends of the medians' intervals.
    """
    sizes = [point.size_bytes for point in points]
    summaries = [summarise(point.seconds) for point in points]
    best = longest_line(sizes, [summary.min for summary in summaries])
    typical = None if best is None else _of_medians(sizes[: best.sizes], summaries[: best.sizes])
    if best is None or typical is None:
        return None
    median, interval = typical
    params = {
        **_params(operation, group),
        "beta_bytes_per_s": best.beta_bytes_per_s,
        "beta_busbw_bytes_per_s": best.beta_bytes_per_s * _factor(operation, group),
        "fit": _quality(best, sizes),
    }
    alpha_s = best.alpha_s
    flags = ("contended",) if any(summary.contended for summary in summaries[: best.sizes]) else ()
    return Measurement(NAME, operation, "latency", "s", alpha_s, alpha_s, median, interval, best.sizes, params, flags)


def _of_medians(sizes: list[int], summaries: list[Summary]) -> tuple[float, tuple[float, float]] | None:
    """alpha by the medians and its interval; None where the medians give no positive alpha."""
    alpha = line_through(sizes, [summary.median for summary in summaries]).alpha_s
    if alpha <= 0:
        return None
    ends = [line_through(sizes, [summary.interval[end] for summary in summaries]).alpha_s for end in (0, 1)]
    return alpha, (max(0.0, min(alpha, *ends)), max(alpha, *ends))


def _quality(line: Line, sizes: list[int]) -> dict[str, float | int]:
    """How well a line describes the times, and for which sizes."""
    return {
        "from_bytes": sizes[0],
        "to_bytes": sizes[line.sizes - 1],
        "rms_error_fraction": line.rms_error_fraction,
        "worst_error_fraction": line.worst_error_fraction,
    }


def _params(operation: str, group: Group) -> dict[str, object]:
    """What was run, by whom."""
    return {
        "operation": operation,
        "dtype": "float32",
        "ranks": group.ranks,
        "nodes": group.nodes,
        "backend": group.backend,
    }


def _factor(operation: str, group: Group) -> float:
    """busbw over algbw; none of the operations here is without one."""
    factor = bus_factor(operation, group.ranks)
    assert factor
    return factor


def _plan(context: Context) -> Plan:
    return Plan(QUICK_OPERATIONS if context.quick else OPERATIONS, context.quick, context.budget_s)


def ranks_of(context: Context) -> int:
    """How many ranks to start on this machine; raises UnavailableError where two would share one device."""
    if context.index is None:
        cpus = len(working_cpus())
        if cpus < 2:
            raise UnavailableError(
                "one CPU: two ranks would take turns on it; start it with torchrun on several machines"
            )
        return min(cpus, MOST_CPU_RANKS)
    import torch

    gpus = torch.cuda.device_count()
    if gpus < 2:
        raise UnavailableError(
            "one GPU is visible; NCCL needs two or more: "
            "start it with torchrun on several machines, or use --device cpu for Gloo"
        )
    return gpus


def environment_of(context: Context, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables of the ranks: one thread each; Gloo on the loopback interface, whatever the host's name resolves to."""
    chosen = dict(ONE_THREAD)
    if "GLOO_SOCKET_IFNAME" not in environ and sys.platform == "linux" and LOOPBACK.exists():
        chosen["GLOO_SOCKET_IFNAME"] = LOOPBACK.name
    return chosen


def _device(context: Context, rank: int) -> str:
    return "cpu" if context.index is None else f"cuda:{rank}"


def _local_device(context: Context, place: LaunchedRank) -> str:
    """The device of a launched rank: where the launcher shows each its own GPU alone, that is number 0."""
    if context.index is None:
        return "cpu"
    import torch

    return f"cuda:{place.local_rank % torch.cuda.device_count()}"


def meeting_of(place: LaunchedRank, environ: Mapping[str, str]) -> str:
    """Where launched ranks find one another; raises UnavailableError where the launcher did not say."""
    if "MASTER_ADDR" not in environ:
        raise UnavailableError(
            f"rank {place.rank} of {place.ranks} does not know where the others are: "
            "export MASTER_ADDR (the host of rank 0) and MASTER_PORT, or start it with torchrun"
        )
    if "MASTER_PORT" in environ:
        return "env://"
    return f"tcp://{environ['MASTER_ADDR']}:{DEFAULT_PORT}"
