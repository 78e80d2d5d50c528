"""How long does a load take on a GPU whose address is the previous load's result, for data of each size?

Method: one thread of one block chases through a single random cycle of 128-byte lines and counts its SM's cycles; the
GPU's own timer gives the clock of the same window and thereby seconds. All threads of the block walk the cycle once
before, in the same kernel, because L1 is empty when a kernel starts. From four times the L2 cache up nothing is warmed,
and L2 is overwritten before each window: these times are DRAM's, undiluted by what would still be in L2. They include
the misses of the TLB that scattered accesses over as much memory have (see the suite `tlb`).

Beside this sweep: the same past L1 (L2 at sizes that L1 would hold), a chase in shared memory, and L2 from every SM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from probe.errors import UnavailableError
from probe.kernels.cuda import chase
from probe.kernels.cuda.driver import OutOfMemory
from probe.kernels.cuda.function import Function
from probe.kernels.cuda.gpu import Gpu
from probe.kernels.cuda.memory import Memory
from probe.microbench.cuda import l2_map, levels
from probe.microbench.cuda.bench import Bench, opened
from probe.microbench.cuda.chain import LINE_BYTES, linked, random_order, walk
from probe.microbench.cuda.in_kernel import InKernel
from probe.microbench.harness import Effort, Timing, paced
from probe.microbench.suite import Context
from probe.results.measurement import Measurement
from probe.units import format_bytes

NAME = "cache_latency"
SEED = 20260103  # the same orders in every run
KIB, MIB = 1 << 10, 1 << 20
SMALLEST_BYTES = 4 * KIB
L2_IF_UNKNOWN = 64 * MIB  # more than any GPU but the newest has
COLD_FROM, LARGEST = 4, 8  # times the L2 cache
PAST_L1_BYTES = (256 * KIB, 2 * MIB)
SHARED_BYTES, SHARED_THREADS = 4 * KIB, 128
Task = Callable[[float], list[Measurement]]  # gets its seconds


def run(context: Context, gpu: Gpu | None = None) -> Iterator[Measurement]:
    """Metric `latency`, in seconds, with `params.level`; all rows come at the end, when the levels are known.

    What was measured until an interrupt or the loss of the device comes then, too.

    Raises UnavailableError where this is no CUDA device, or its kernels cannot be compiled or proved.
    """
    found: list[Measurement] = []
    l2_bytes = None
    try:
        with opened(context, gpu) as bench:
            l2_bytes = bench.gpu.l2_bytes or None
            for (what, task), budget_s in paced(_tasks(bench), bench.left_s, context.clock, context.report):
                with bench.sparing(f"{NAME}: {what} is left out"):
                    found += task(budget_s)
    finally:
        yield from levels.labelled(found, l2_bytes)


def sizes(l2_bytes: int, *, coarse: bool) -> tuple[int, ...]:
    """Powers of two from 4 KiB to at least eight times L2; every second one, and the largest, where `coarse`."""
    largest = 1 << (LARGEST * l2_bytes - 1).bit_length()
    exponents = range(SMALLEST_BYTES.bit_length() - 1, largest.bit_length())
    return tuple(sorted({1 << e for e in (exponents[::2] if coarse else exponents)} | {largest}))


def _tasks(bench: Bench) -> Sequence[tuple[str, Task]]:
    """What is measured, in turn: the sizes that take long to link first."""
    for kernel in (chase.LINK, chase.THROUGH_L1):  # without these there is nothing
        bench.gpu.load(kernel)
    with bench.sparing(f"{NAME}: L1 has the share that the driver chooses"):
        bench.gpu.load(chase.THROUGH_L1).allow_shared(0)  # all of the SM's memory is L1
    l2_bytes = bench.gpu.l2_bytes or L2_IF_UNKNOWN
    generator = np.random.default_rng(SEED)
    wanted = sizes(l2_bytes, coarse=bench.context.quick)
    arena, affordable = _arena(bench, wanted)
    past_l1 = [size for size in PAST_L1_BYTES if 4 * size <= l2_bytes and size <= affordable[-1]]
    tasks: list[tuple[str, Task]] = []
    for size in affordable[::-1]:
        cold = size >= COLD_FROM * l2_bytes
        tasks.append((format_bytes(size), partial(_size, bench, arena, generator, size, cold=cold)))
    for size in past_l1[: 1 if bench.context.quick else None]:
        tasks.append((f"{format_bytes(size)} past L1", partial(_past_l1, bench, arena, generator, size)))
    tasks.append(("shared memory", partial(_shared, bench, generator)))
    tasks.append(("L2 by SM", partial(l2_map.measure, bench, arena, NAME, generator)))
    return tasks


def _arena(bench: Bench, wanted: Sequence[int]) -> tuple[Memory, tuple[int, ...]]:
    """Memory for the largest size that can be had, and the sizes up to it; says which are left out.

    Raises UnavailableError where not even the least can be had.
    """
    affordable = bench.affordable(wanted)
    while affordable:
        try:
            arena = bench.gpu.allocate(affordable[-1])
        except OutOfMemory:
            affordable = affordable[:-1]
            continue
        if affordable[-1] < wanted[-1]:
            left_out = format_bytes(wanted[len(affordable)])
            bench.warn(f"{NAME}: sizes from {left_out} on are left out: too little of the GPU's memory is free")
        return arena, affordable
    raise UnavailableError("too little of the GPU's memory is free; end other processes on it")


def _size(
    bench: Bench, arena: Memory, generator: np.random.Generator, size: int, budget_s: float, *, cold: bool
) -> list[Measurement]:
    """Ordinary loads, which look into L1 first."""
    function = bench.gpu.load(chase.THROUGH_L1)
    timed, timing = _chased(bench, arena, generator, size, function, budget_s, cold=cold)
    params = {"size_bytes": size, **timed.params, "load": levels.THROUGH_L1, "line_bytes": LINE_BYTES}
    params["warmed"] = not cold
    return [bench.time_row(NAME, f"latency {format_bytes(size)}", "latency", timing, params, proof=function.proof)]


def _past_l1(
    bench: Bench, arena: Memory, generator: np.random.Generator, size: int, budget_s: float
) -> list[Measurement]:
    """Loads that L2 must answer, of few enough lines to be in it."""
    function = bench.gpu.load(chase.PAST_L1)
    timed, timing = _chased(bench, arena, generator, size, function, budget_s)
    params = {"size_bytes": size, **timed.params, "load": levels.PAST_L1, "line_bytes": LINE_BYTES, "warmed": True}
    params["level"] = levels.L2
    name = f"latency {format_bytes(size)}, past L1"
    return [bench.time_row(NAME, name, "latency", timing, params, proof=function.proof)]


def _chased(
    bench: Bench,
    arena: Memory,
    generator: np.random.Generator,
    size: int,
    function: Function,
    budget_s: float,
    *,
    cold: bool = False,
) -> tuple[InKernel, Timing]:
    """Seconds and cycles a hop of a chase through `size` bytes."""
    clock = bench.context.clock
    started = clock()
    chain = linked(bench, arena, random_order(size // LINE_BYTES, generator))
    timed, variant = walk(bench, chain, function, format_bytes(size), cold=cold)
    [timing] = bench.measure([variant], Effort(budget_s - (clock() - started)))
    chain.close()
    return timed, timing


def _shared(bench: Bench, generator: np.random.Generator, budget_s: float) -> list[Measurement]:
    """A chase through 4 KiB of shared memory, 4 bytes a node: it has no lines."""
    function = bench.gpu.load(chase.SHARED)
    order = random_order(SHARED_BYTES // 4, generator, 4).astype(np.uint32)
    offsets = bench.gpu.allocate(order.nbytes)
    offsets.write(order)
    nodes = np.uint32(len(order))

    def launch(iterations: int, stamps: Memory) -> None:
        counts = np.uint32(iterations)
        function.launch(1, SHARED_THREADS, offsets, nodes, stamps, counts, shared=SHARED_BYTES)

    timed = InKernel(bench)
    [timing] = bench.measure([timed.variant("shared", launch, chase.HOPS)], Effort(budget_s))
    params = {"size_bytes": SHARED_BYTES, **timed.params, "load": "ld.shared", "level": levels.SHARED}
    return [bench.time_row(NAME, "latency shared memory", "latency", timing, params, proof=function.proof)]
