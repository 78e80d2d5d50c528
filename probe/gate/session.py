"""What is one session? Fresh processes of both versions on the same cores, a few recorded steps, blocks in turn."""

from __future__ import annotations

import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from probe.analyzers.gates.evidence import Blocks, Counted, OperatorTimes, Session, together
from probe.errors import InputError
from probe.gate.protocol import Ask, Ran, Ready
from probe.gate.reading import Recorded, read
from probe.gate.workers import START_S, EndedError, Worker

BLOCK_STEPS = 5
BLOCK_S = 0.03  # a block is at least so long: the clock of CPU time and the change of caches weigh less
BLOCKS = 40
FEWEST_BLOCKS = 8
WARM_STEPS = 5
WARM_BLOCK_S = 1.0
MOST_WARM = 12  # blocks of them, until two in a row agree
STABLE = 0.1  # of the step's time
TRACED_STEPS = 3
TRACED_BLOCKS = 3


@dataclass(frozen=True)
class Plan:
    """How long a session may take, and what of it is recorded."""

    seconds: float = 12.0  # of blocks
    trace: bool = True
    costs: bool = True  # FLOPs and memory, which need an analysis: once is enough
    seed: int = 0


@dataclass(frozen=True)
class Taken:
    """A session, and who ran it."""

    session: Session
    base: Ready
    new: Ready


@dataclass(frozen=True)
class Alone:
    """One version's session by itself: medians of blocks, seconds per step, and what was recorded."""

    gating_s: list[float]  # CPU time; on a GPU wall time
    wall_s: list[float]
    operators: OperatorTimes
    counts: Mapping[str, Counted]
    ready: Ready


@dataclass
class Times:
    """Medians of blocks of one side, seconds per step."""

    cpu_s: list[float]
    wall_s: list[float]


def take(base: Worker, new: Worker, plan: Plan) -> Taken:
    """Run one session with two workers that have just been started."""
    ready, times, recorded = _run((base, new), plan)
    done = min(len(side.cpu_s) for side in times)
    cpu = Blocks(np.array(times[0].cpu_s[:done]), np.array(times[1].cpu_s[:done]))
    wall = Blocks(np.array(times[0].wall_s[:done]), np.array(times[1].wall_s[:done]))
    session = Session(
        blocks=wall if any(r.on_gpu for r in ready) else cpu,
        wall=wall,
        base_operators=_median_of([r.operators for r in recorded[0]]),
        new_operators=_median_of([r.operators for r in recorded[1]]),
        base_counts=together([r.counts for r in recorded[0]]),
        new_counts=together([r.counts for r in recorded[1]]),
    )
    return Taken(session, ready[0], ready[1])


def take_alone(worker: Worker, plan: Plan) -> Alone:
    """Run one session of one version by itself."""
    (ready,), (times,), (recorded,) = _run((worker,), plan)
    counts = together([r.counts for r in recorded])
    gating = times.wall_s if ready.on_gpu else times.cpu_s
    return Alone(gating, times.wall_s, _median_of([r.operators for r in recorded]), counts, ready)


def _run(sides: Sequence[Worker], plan: Plan) -> tuple[list[Ready], list[Times], list[list[Recorded]]]:
    """Warm up, record, and run blocks of all sides in turn. Raises where the program ends before there are enough."""
    ready = [side.ready() for side in sides]
    for side, one in zip(sides, ready, strict=True):
        _check(side, one)
    _pin(sides, ready)
    times = [Times([], []) for _ in sides]
    recorded: list[list[Recorded]] = [[] for _ in sides]
    try:
        _fill(sides, plan, times, recorded)
    except EndedError as ended:
        if min(len(side.cpu_s) for side in times) < FEWEST_BLOCKS:
            raise _too_short(ended, plan) from None
    return ready, times, recorded


def _fill(sides: Sequence[Worker], plan: Plan, times: Sequence[Times], recorded: Sequence[list[Recorded]]) -> None:
    """All steps of a session: as many as fit its time, in blocks that suit the length of a step."""
    step_s = max(_warm(side, plan.seconds / 4) for side in sides)
    order = random.Random(plan.seed)
    if plan.trace:
        long = len(sides) * TRACED_BLOCKS * TRACED_STEPS * step_s > plan.seconds / 2
        _trace(sides, recorded, step_s, order, blocks=1 if long else TRACED_BLOCKS, costs=plan.costs)
    short = len(sides) * FEWEST_BLOCKS * BLOCK_STEPS * step_s < plan.seconds
    steps = max(BLOCK_STEPS, math.ceil(BLOCK_S / step_s)) if short else 1
    blocks = max(FEWEST_BLOCKS, min(BLOCKS, int(plan.seconds / (len(sides) * steps * step_s))))
    for _ in range(blocks):
        _block(sides, times, Ask(steps), steps * step_s, order)


def _too_short(ended: EndedError, plan: Plan) -> EndedError | InputError:
    """The program ended, or failed, before a session was full."""
    if ended.program_exit_code != 0:
        return ended
    traced = (TRACED_STEPS + 1) * TRACED_BLOCKS + 1 if plan.trace else 0  # a step between recordings
    needed = 1 + 2 * WARM_STEPS + traced + FEWEST_BLOCKS * BLOCK_STEPS
    return InputError(f"{ended}: it made {ended.steps + 1} steps; give it {needed} or more, {20 * needed} are better")


def _check(side: Worker, ready: Ready) -> None:
    if ready.foreign:
        raise InputError(
            f"{side.name}: imports {ready.foreign[0]} of the other version; its package is installed from there: "
            "run the gate from an environment where it is not, or give it with PYTHONPATH"
        )


def _pin(sides: Sequence[Worker], ready: Sequence[Ready]) -> None:
    """Both on the same cores: one, where neither uses more threads."""
    if not hasattr(os, "sched_setaffinity") or any(r.on_gpu for r in ready):
        return
    cores = sorted(os.sched_getaffinity(0))
    count = max(r.threads for r in ready)
    if count < len(cores):
        for side in sides:
            side.pin(cores[-count:])


def _warm(side: Worker, seconds: float) -> float:
    """Steps until two blocks in a row agree, or the time is over; seconds of a step."""
    begin = time.monotonic()
    before = statistics.median(side.run(Ask(2), least_s=START_S).wall_s)
    steps = max(1, min(WARM_STEPS, int(WARM_BLOCK_S / before)))
    for _ in range(MOST_WARM):
        after = statistics.median(side.run(Ask(steps), before * steps).wall_s)
        agree = abs(after / before - 1) < STABLE
        before = after
        if agree or time.monotonic() - begin > seconds:
            break
    return before


def _block(sides: Sequence[Worker], times: Sequence[Times], ask: Ask, expected_s: float, order: random.Random) -> None:
    """A block of each side, in random order."""
    pairs = list(zip(sides, times, strict=True))
    order.shuffle(pairs)
    ran: list[tuple[Times, Ran]] = [(kept, side.run(ask, expected_s)) for side, kept in pairs]
    for kept, one in ran:  # a pair is kept whole or not at all
        kept.cpu_s.append(statistics.median(one.cpu_s))
        kept.wall_s.append(statistics.median(one.wall_s))


def _trace(
    sides: Sequence[Worker],
    found: Sequence[list[Recorded]],
    step_s: float,
    order: random.Random,
    *,
    blocks: int,
    costs: bool,
) -> None:
    """Recorded steps of each side, in turn."""
    with tempfile.TemporaryDirectory(prefix="probe-gate-") as folder:
        for block in range(blocks):
            numbers = list(range(len(sides)))
            order.shuffle(numbers)
            for number in numbers:
                first = costs and not block
                found[number].append(_record(sides[number], Path(folder), f"{number}.{block}", step_s, costs=first))


def _record(side: Worker, folder: Path, name: str, step_s: float, *, costs: bool) -> Recorded:
    """One block under the profiler; the first with allocations, for the memory."""
    path = folder / f"{name}.json.gz"
    ran = side.run(Ask(TRACED_STEPS, str(path)), 100 * step_s * TRACED_STEPS)
    recorded = read(path, costs=costs)
    if not costs:
        return recorded
    memory = path.with_name(f"memory.{path.name}")
    side.run(Ask(1, str(memory), memory=True), 100 * step_s)
    more = {k: v for k, v in read(memory, costs=True).counts.items() if k == "peak_memory_bytes"}
    if ran.peak_memory_bytes is not None:
        more["peak_memory_bytes"] = Counted(float(ran.peak_memory_bytes), float(ran.peak_memory_bytes), 1)
    for name, count in ran.counters.items():
        more[name] = Counted(count, count, 1)
    return replace(recorded, counts=recorded.counts | more)


def _median_of(sides: Sequence[OperatorTimes]) -> OperatorTimes:
    """Medians of the seconds over the recorded blocks; an operator that a block lacks took no time there."""
    keys = dict.fromkeys(key for side in sides for key in side.seconds)
    seconds = {key: statistics.median(side.seconds.get(key, 0.0) for side in sides) for key in keys}
    first = sides[0] if sides else OperatorTimes()
    return OperatorTimes(seconds, first.calls, first.kernels)
