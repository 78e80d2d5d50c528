"""How long does a load take whose address is the previous load's result, for data of each size?

Method: a chase through a single-cycle random permutation of 64-byte lines (so that no prefetcher can guess the next
one) in 4 KiB pages, pinned to one CPU, in windows of half a millisecond. The clock is measured in the same rounds by
a chain of dependent additions (one cycle each) and gives `params.cycles`. Beyond the reach of the TLB the times
include its misses, as those of any program with scattered accesses and small pages do. In a full run the same lines
on huge pages, where the kernel gives some, are chased in the same rounds (`params.huge_page_latency_s`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from probe.kernels.cpu import machine_code
from probe.kernels.cpu.loops import Loops
from probe.microbench import memory
from probe.microbench.cpu.pages import SMALL_BYTES, Pages
from probe.microbench.cpu.pinning import pinned
from probe.microbench.harness import Effort, Timing, Variant, measure, paced, repeats_for, timed
from probe.microbench.suite import Context, time_measurement
from probe.results.measurement import Measurement
from probe.units import format_bytes

NAME = "cache_latency"
SEED = 20260101  # the same permutations in every run
LINE_WORDS = memory.LINE_BYTES // 8
Words = npt.NDArray[np.uint64]


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
    generator = np.random.default_rng(SEED)
    with pinned() as cpu:
        started = context.clock()
        ground = Ground(memory.Buffer(sizes[-1], small_pages=True), None if context.quick else _huge(context, sizes))
        left_s = context.budget_s - (context.clock() - started)
        for size, budget_s in paced(sizes[::-1], left_s, context.clock, context.report):
            yield _measure_size(context, loops, ground, generator, size, budget_s, cpu)


@dataclass(frozen=True)
class Ground:
    """What the chases walk over: small pages, and huge ones where they can be had."""

    small: memory.Buffer
    huge: Pages | None


def _huge(context: Context, sizes: tuple[int, ...]) -> Pages | None:
    """Huge pages for the largest size that there is still room for; None, with a warning, where there are none."""
    left = memory.affordable(tuple(sizes[-1] + size for size in sizes), memory.free_bytes())
    reason: str | None = "too little memory is free"
    if left:
        pages = Pages(left[-1] - sizes[-1], np.random.default_rng(SEED), huge=True)
        reason = pages.why_small
        if reason is None:
            return pages
    context.warnings.append(f"cache_latency: not measured on huge pages: {reason}")
    return None


def _measure_size(
    context: Context,
    loops: Loops,
    ground: Ground,
    generator: np.random.Generator,
    size: int,
    budget_s: float,
    cpu: int,
) -> Measurement:
    started = context.clock()
    following = single_cycle(size // memory.LINE_BYTES, generator)
    lines = [(ground.small.view(np.uint64), ground.small.address)]
    if ground.huge is not None and size <= ground.huge.words.nbytes:
        lines.append((ground.huge.words, ground.huge.address))
    variants = [_chase(loops, words, address, following) for words, address in lines]
    adds_n = repeats_for(lambda n: timed(lambda: loops.adds(0, n))())
    variants.append(Variant("adds", timed(lambda: loops.adds(0, adds_n)), adds_n * loops.unroll))
    left_s = budget_s - (context.clock() - started)
    latency, *huge, cycle = measure(variants, Effort(left_s), context.clock)
    cycle_s = cycle.seconds.min
    params = {
        "size_bytes": size,
        "cycles": latency.seconds.min / cycle_s,
        "clock_hz": 1 / cycle_s,
        "page_bytes": SMALL_BYTES,
        "cpu": cpu,
        **(_on_huge_pages(huge[0], cycle_s) if huge else {}),
    }
    return time_measurement(NAME, f"latency {format_bytes(size)}", "latency", latency, params)


def _chase(loops: Loops, words: Words, address: int, following: Words) -> Variant:
    """Windows of a chase over the first lines of `words`, which lie at `address`."""
    write_links(words, address, following)
    chase = Chase(loops, address, len(following) * memory.LINE_BYTES)
    n = repeats_for(chase.window)
    return Variant("chase", lambda: chase.window(n), n * loops.unroll)


def _on_huge_pages(timing: Timing, cycle_s: float) -> dict[str, float]:
    """The same chase on huge pages, in as many windows of the same rounds: the latency without most TLB misses."""
    seconds = timing.seconds
    return {
        "huge_page_latency_s": seconds.min,
        "huge_page_median_s": seconds.median,
        "huge_page_cycles": seconds.min / cycle_s,
    }


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


def single_cycle(n: int, generator: np.random.Generator) -> Words:
    """For each of n nodes the next one, such that all are visited before the first comes again; random."""
    order = generator.permutation(n)
    following = np.empty(n, np.uint64)
    following[order] = np.roll(order, -1)
    return following


def link(buffer: memory.Buffer, size_bytes: int, generator: np.random.Generator) -> None:
    """Write into each line of the first `size_bytes` the address of the next one of a random single cycle."""
    write_links(buffer.view(np.uint64), buffer.address, single_cycle(size_bytes // memory.LINE_BYTES, generator))


def write_links(words: Words, address: int, following: Words) -> None:
    """Write into each of the first lines of `words`, which lie at `address`, where the line that follows it lies."""
    words[: len(following) * LINE_WORDS : LINE_WORDS] = following * np.uint64(memory.LINE_BYTES) + np.uint64(address)
