"""How long does a load take whose address is the previous load's result, for data of each size?

Method: a chase through a single-cycle random permutation of 64-byte lines (so that no prefetcher can guess the next
one) in 4 KiB pages, pinned to one CPU, in windows of half a millisecond. The clock is measured in the same rounds by
a chain of dependent additions (one cycle each) and gives `params.cycles`. Beyond the reach of the TLB the times
include its misses, as those of any program with scattered accesses and small pages do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from probe.kernels.cpu import machine_code
from probe.kernels.cpu.loops import Loops
from probe.measurement import Measurement
from probe.microbench import memory
from probe.microbench.cpu.pinning import pinned
from probe.microbench.harness import Effort, Variant, measure, paced, repeats_for, timed
from probe.microbench.suite import Context, time_measurement
from probe.units import format_bytes

NAME = "cache_latency"
SEED = 20260101  # the same permutations in every run
LINE_WORDS = memory.LINE_BYTES // 8


def run(context: Context) -> Iterator[Measurement]:
    """One measurement a size, metric `latency`, in seconds; the largest size first."""
    loops = machine_code.load(context.device.isa)
    wanted = memory.sizes(context.device)
    sizes = memory.affordable(wanted, memory.free_bytes())
    if sizes != wanted:
        left_out = format_bytes(wanted[len(sizes)])
        context.warnings.append(f"cache_latency: sizes from {left_out} up are left out, too little memory is free")
    if not sizes:
        return
    buffer = memory.Buffer(sizes[-1], small_pages=True)
    generator = np.random.default_rng(SEED)
    with pinned() as cpu:
        for size, budget_s in paced(sizes[::-1], context.budget_s, context.clock, context.report):
            yield _measure_size(context, loops, buffer, generator, size, budget_s, cpu)


def _measure_size(
    context: Context,
    loops: Loops,
    buffer: memory.Buffer,
    generator: np.random.Generator,
    size: int,
    budget_s: float,
    cpu: int,
) -> Measurement:
    started = context.clock()
    link(buffer, size, generator)
    chase = Chase(loops, buffer.address, size)
    chase_n = repeats_for(chase.window)
    adds_n = repeats_for(lambda n: timed(lambda: loops.adds(0, n))())
    variants = (
        Variant("chase", lambda: chase.window(chase_n), chase_n * loops.unroll),
        Variant("adds", timed(lambda: loops.adds(0, adds_n)), adds_n * loops.unroll),
    )
    left_s = budget_s - (context.clock() - started)
    latency, cycle = measure(variants, Effort(left_s), context.clock)
    cycles = latency.seconds.min / cycle.seconds.min
    params = {
        "size_bytes": size,
        "cycles": cycles,
        "clock_hz": 1 / cycle.seconds.min,
        "page_bytes": 4096,
        "cpu": cpu,
    }
    return time_measurement(NAME, f"latency {format_bytes(size)}", "latency", latency, params)


class Chase:
    """A walk along the linked lines of a buffer that goes on where the last window ended."""

    def __init__(self, loops: Loops, address: int, size_bytes: int) -> None:
        """Walks the whole cycle once, so that what fits into a cache is there."""
        self._loops = loops
        self._at = loops.chase(address, max(1, size_bytes // memory.LINE_BYTES // loops.unroll))

    def window(self, n: int) -> float:
        """Seconds for n × `unroll` loads."""
        start = time.perf_counter()
        self._at = self._loops.chase(self._at, n)
        return time.perf_counter() - start


def single_cycle(n: int, generator: np.random.Generator) -> npt.NDArray[np.uint64]:
    """For each of n nodes the next one, such that all are visited before the first comes again; random."""
    order = generator.permutation(n)
    following = np.empty(n, np.uint64)
    following[order] = np.roll(order, -1)
    return following


def link(buffer: memory.Buffer, size_bytes: int, generator: np.random.Generator) -> None:
    """Write into each line of the first `size_bytes` the address of the next one of a random single cycle."""
    following = single_cycle(size_bytes // memory.LINE_BYTES, generator)
    words = buffer.view(np.uint64)
    addresses = following * np.uint64(memory.LINE_BYTES) + np.uint64(buffer.address)
    words[: size_bytes // 8 : LINE_WORDS] = addresses
