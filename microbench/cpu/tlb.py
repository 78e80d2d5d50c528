"""How far do the TLBs reach, and what does an access beyond them cost?

Method: a chase in random order through one line of each of n pages, interleaved with a chase through as many lines
packed densely: both need as much cache, so what the first takes longer is the TLB's. Its lines are spread evenly over
the sets of the first-level cache, and its pages are touched in random order first, because a processor may keep
several pages in one entry where neighbours happen to be neighbours in physical memory too. Each window follows an
unrecorded lap, which brings back what the other chases have displaced. Where the kernel gives huge pages, the same
lines are chased on those (what huge pages would gain), and one line of each huge page (how far they reach).
"""

from __future__ import annotations

import itertools
import mmap
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from probe.errors import UnavailableError
from probe.kernels.cpu import machine_code
from probe.kernels.cpu.loops import Loops
from probe.microbench import memory, plateaus
from probe.microbench.cpu.cache_latency import single_cycle
from probe.microbench.cpu.pages import HUGE_BYTES, SMALL_BYTES, Pages
from probe.microbench.cpu.pinning import pinned
from probe.microbench.harness import WINDOW_S, Effort, Timing, Variant, measure, paced, repeats_for, timed
from probe.microbench.suite import Context, time_measurement
from probe.results.measurement import Measurement
from probe.units import format_bytes

NAME = "tlb"
SEED = 20260102  # the same orders in every run
FEWEST_PAGES, MOST_PAGES, MOST_PAGES_QUICK = 16, 32768, 8192
MOST_HUGE_PAGES = 512  # for their own reach: 1 GiB, whose first touch takes longer than a quick run lasts
LEAST_WINDOWS = 6
MOST_STEPS = 2  # TLBs; what rises beyond them are page tables that leave the caches, and neighbours
PAGE_LINES = SMALL_BYTES // memory.LINE_BYTES
ONE_A_PAGE, DENSE, ON_HUGE = "one line a page", "dense", "one line each 4 KiB"
Offsets = npt.NDArray[np.uint64]


def run(context: Context) -> Iterator[Measurement]:
    """Metric `latency`, in seconds, for each number of pages and layout; then each TLB's `reach` and what lies beyond.

    Raises UnavailableError where pages are not 4 KiB large or there is no machine code.
    """
    if mmap.PAGESIZE != SMALL_BYTES:
        raise UnavailableError(f"measured on 4 KiB pages only, and this system's are {format_bytes(mmap.PAGESIZE)}")
    loops = machine_code.load(context.device.isa)
    counts = affordable_counts(memory.free_bytes(), coarse=context.quick)
    generator = np.random.default_rng(SEED)
    started = context.clock()
    found: list[Measurement] = []
    with pinned() as cpu:
        ground = Ground(counts[-1], 0 if context.quick else MOST_HUGE_PAGES, generator, context.warnings)
        left_s = context.budget_s - (context.clock() - started)
        for count, budget_s in paced(counts, left_s, context.clock, context.report):
            points = _measure_count(context, loops, ground, count, budget_s, cpu)
            found += points
            yield from points
    yield from summary(found, context.warnings)


def affordable_counts(free: int | None, *, coarse: bool) -> tuple[int, ...]:
    """How many pages are chased through: powers of two, unless `coarse` with those halfway between, as memory allows.

    Raises UnavailableError where not even the fewest are affordable.
    """
    most = MOST_PAGES_QUICK if coarse else MOST_PAGES
    powers = range(FEWEST_PAGES.bit_length() - 1, most.bit_length())
    between = set() if coarse else {3 << (e - 1) for e in powers[:-1]}
    wanted = sorted({1 << e for e in powers} | between)
    sizes = memory.affordable(tuple(count * SMALL_BYTES for count in wanted), free)
    if not sizes:
        raise UnavailableError(f"too little memory is free for {FEWEST_PAGES} pages; end other programs")
    return tuple(size // SMALL_BYTES for size in sizes)


@dataclass(frozen=True)
class Chase:
    """A closed walk in random order over the lines at `offsets` of some memory, one a `stride_bytes`."""

    layout: str
    start: int  # address of one of its lines
    lines: int
    stride_bytes: int
    page_bytes: int

    @property
    def params(self) -> dict[str, object]:
        """What a reader must know to repeat it; `pages` of `page_bytes` each are touched."""
        size_bytes = self.lines * self.stride_bytes
        return {
            "lines": self.lines,
            "layout": self.layout,
            "pages": -(-size_bytes // self.page_bytes),
            "page_bytes": self.page_bytes,
            "size_bytes": size_bytes,
            "huge": self.page_bytes == HUGE_BYTES,
        }

    def variant(self, loops: Loops) -> Variant:
        """Windows of this walk, each after an unrecorded lap."""
        lap = -(-self.lines // loops.unroll)

        def window(n: int) -> float:
            at = loops.chase(self.start, lap)
            start = time.perf_counter()
            loops.chase(at, n)
            return time.perf_counter() - start

        repeats = repeats_for(window, WINDOW_S)
        name = f"{self.layout} {self.page_bytes}"
        return Variant(name, lambda: window(repeats), repeats * loops.unroll)


class Ground:
    """The memory that all chases walk over: small pages, a dense block, and huge pages where they can be had."""

    def __init__(self, most: int, most_huge: int, generator: np.random.Generator, warnings: list[str]) -> None:
        """Room for chases over `most` lines, and over `most_huge` huge pages."""
        self._generator = generator
        self._small = Pages(most * SMALL_BYTES, generator, huge=False)
        self._dense = Pages(most * memory.LINE_BYTES, generator, huge=True)
        self._reach_at = -(-most * SMALL_BYTES // HUGE_BYTES) * HUGE_BYTES  # the same lines come before it
        self._huge, self._huge_pages = self._find_huge(most_huge, warnings)

    def _find_huge(self, most_huge: int, warnings: list[str]) -> tuple[Pages | None, int]:
        """Huge pages for the same lines and how many more, behind them, for their own reach; None and 0 if none."""
        sizes = tuple(self._reach_at + pages * HUGE_BYTES for pages in sorted({0, most_huge}))
        affordable = memory.affordable(sizes, memory.free_bytes())
        reason = self._dense.why_small
        if reason is None and affordable:
            pages = Pages(affordable[-1], self._generator, huge=True)
            reason = pages.why_small
            if reason is None:
                return pages, (affordable[-1] - self._reach_at) // HUGE_BYTES
        warnings.append(f"tlb: not measured on huge pages: {reason or 'too little memory is free'}")
        return None, 0

    def chases(self, count: int) -> Iterator[Chase]:
        """All chases over `count` lines."""
        order = single_cycle(count, self._generator)
        sparse = one_a_page(count, self._generator)
        dense = np.arange(count, dtype=np.uint64) * np.uint64(memory.LINE_BYTES)
        dense_pages = SMALL_BYTES if self._dense.why_small else HUGE_BYTES
        yield _chase(ONE_A_PAGE, self._small, sparse, order, SMALL_BYTES, SMALL_BYTES)
        yield _chase(DENSE, self._dense, dense, order, memory.LINE_BYTES, dense_pages)
        if self._huge is not None:
            yield _chase(ON_HUGE, self._huge, sparse, order, SMALL_BYTES, HUGE_BYTES)
            if count <= self._huge_pages:
                reach = np.uint64(self._reach_at) + one_a_page(count, self._generator, HUGE_BYTES)
                yield _chase(ONE_A_PAGE, self._huge, reach, order, HUGE_BYTES, HUGE_BYTES)


def one_a_page(count: int, generator: np.random.Generator, page_bytes: int = SMALL_BYTES) -> Offsets:
    """Offsets of one line in each of `count` pages, such that every place of a 4 KiB page is used equally often.

    64 neighbouring pages use the 64 places in random order: the sets of a first-level cache are then filled as evenly
    as by dense lines, and places are not tied to the bits of the page's number that choose a set of the next level.
    """
    blocks = -(-count // PAGE_LINES)
    places = np.concatenate([generator.permutation(PAGE_LINES) for _ in range(blocks)])[:count].astype(np.uint64)
    pages = np.arange(count, dtype=np.uint64) * np.uint64(page_bytes)
    within = generator.integers(0, page_bytes // SMALL_BYTES, count, dtype=np.uint64) * np.uint64(SMALL_BYTES)
    offsets: Offsets = pages + within + places * np.uint64(memory.LINE_BYTES)
    return offsets


def _chase(
    layout: str, pages: Pages, offsets: Offsets, order: npt.NDArray[np.uint64], stride_bytes: int, page_bytes: int
) -> Chase:
    """Link the lines at `offsets` so that each holds the address of the one that follows it in `order`."""
    pages.words[offsets // np.uint64(8)] = offsets[order] + np.uint64(pages.address)
    return Chase(layout, pages.address + int(offsets[0]), len(offsets), stride_bytes, page_bytes)


def _measure_count(
    context: Context, loops: Loops, ground: Ground, count: int, budget_s: float, cpu: int
) -> list[Measurement]:
    """All chases over `count` lines in turn, with a chain of dependent additions that gives the clock."""
    started = context.clock()
    chases = list(ground.chases(count))
    adds_n = repeats_for(lambda n: timed(lambda: loops.adds(0, n))())
    adds = Variant("adds", timed(lambda: loops.adds(0, adds_n)), adds_n * loops.unroll)
    variants = [chase.variant(loops) for chase in chases]
    left_s = budget_s - (context.clock() - started)
    *timings, cycle = measure([*variants, adds], Effort(left_s, least=LEAST_WINDOWS), context.clock)
    return [_measurement(chase, timing, cycle, cpu) for chase, timing in zip(chases, timings, strict=True)]


def _measurement(chase: Chase, timing: Timing, cycle: Timing, cpu: int) -> Measurement:
    cycles = timing.seconds.min / cycle.seconds.min
    params = {**chase.params, "cycles": cycles, "clock_hz": 1 / cycle.seconds.min, "cpu": cpu}
    name = f"{chase.lines} lines, {chase.layout}, {format_bytes(chase.page_bytes)} pages"
    return time_measurement(NAME, name, "latency", timing, params)


def summary(found: Sequence[Measurement], warnings: list[str]) -> Iterator[Measurement]:
    """The steps of the chase over one line a page, on small and on huge pages: how far each is, what lies beyond it."""
    dense = {m.params["lines"]: m for m in found if m.params["layout"] == DENSE}
    for page_bytes in (SMALL_BYTES, HUGE_BYTES):
        sparse = [m for m in found if m.params["layout"] == ONE_A_PAGE and m.params["page_bytes"] == page_bytes]
        pairs = [(m, dense[m.params["lines"]]) for m in sparse]
        steps = _steps(pairs) if len(pairs) > 1 else []
        if pairs and not steps:
            where = format_bytes(page_bytes)
            warnings.append(f"tlb: no step was seen on {where} pages: misses drown in the noise, or were not reached")
        for number, (before, after) in enumerate(steps, 1):
            edge = [pair for pair in pairs if pair[0].params["lines"] in (before[-1], after[0])]
            yield _reach(number, edge, len(pairs), page_bytes)
            yield _beyond(number, [pair for pair in pairs if pair[0].params["lines"] in after], page_bytes)
        if page_bytes == SMALL_BYTES and steps and _kept_as_small(found, dense, steps[0][1]):
            warnings.append(
                "tlb: huge pages reach no further than small ones: the processor keeps them as small ones, "
                "as it must where the host of a virtual machine backs its memory with small pages"
            )


def _steps(pairs: Sequence[tuple[Measurement, Measurement]]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The sizes before and after each step of what the sparse chase takes longer than the dense one.

    A piece of the curve that is shorter than a factor of two between two others is the climb from one to the next: a
    TLB whose sets fill unevenly is full before its last entry is used.
    """
    lines = [int(sparse.params["lines"]) for sparse, _ in pairs]
    hit_s = min(sparse.value for sparse, _ in pairs)  # without it a cost of nothing would have no logarithm
    pieces = [p.sizes for p in plateaus.find(lines, [hit_s + max(0.0, a.value - b.value) for a, b in pairs])]
    level = [sizes for sizes in pieces if sizes in (pieces[0], pieces[-1]) or sizes[-1] >= 2 * sizes[0]]
    return list(itertools.pairwise(level))[:MOST_STEPS]


def _kept_as_small(found: Sequence[Measurement], dense: dict[int, Measurement], beyond: tuple[int, ...]) -> bool:
    """Whether lines on huge pages pay most of what those on small pages pay just beyond the first step."""
    costs: dict[str, list[float]] = {ONE_A_PAGE: [], ON_HUGE: []}
    for m in found:
        lines, layout = m.params["lines"], m.params["layout"]
        if lines in beyond and (layout == ON_HUGE or (layout == ONE_A_PAGE and not m.params["huge"])):
            costs[layout].append(m.value - dense[lines].value)
    return bool(costs[ON_HUGE]) and sum(costs[ON_HUGE]) > 0.5 * sum(costs[ONE_A_PAGE])


def _reach(step: int, edge: Sequence[tuple[Measurement, Measurement]], n: int, page_bytes: int) -> Measurement:
    """The pages that `step` leaves behind: the last size below it; the interval ends with the first above it."""
    last, first = (int(sparse.params["lines"]) for sparse, _ in edge)
    params = {"step": step, "page_bytes": page_bytes, "size_bytes": last * page_bytes}
    name = f"reach {step}, {format_bytes(page_bytes)} pages"
    return Measurement(NAME, name, "reach", "pages", last, last, last, (last, first), n, params, _flags(edge))


def _flags(pairs: Sequence[tuple[Measurement, Measurement]]) -> tuple[str, ...]:
    """What a reader must know of any of the chases that a result was derived from."""
    return tuple(dict.fromkeys(flag for pair in pairs for chase in pair for flag in chase.flags))


def _beyond(step: int, pairs: Sequence[tuple[Measurement, Measurement]], page_bytes: int) -> Measurement:
    """What a load beyond `step` takes longer than one in as many dense lines; the interval is over the sizes."""
    best = [sparse.value - dense.value for sparse, dense in pairs]
    typical = [sparse.median - dense.median for sparse, dense in pairs]
    clock_hz = max(float(sparse.params["clock_hz"]) for sparse, _ in pairs)
    value = statistics.median(best)
    sizes = [int(sparse.params["lines"]) for sparse, _ in pairs]
    where = {"step": step, "page_bytes": page_bytes, "from_lines": sizes[0], "to_lines": sizes[-1]}
    params = {**where, "cycles": value * clock_hz}
    interval = (min(typical), max(typical))
    name = f"beyond {step}, {format_bytes(page_bytes)} pages"
    middle = statistics.median(typical)
    return Measurement(
        NAME, name, "latency", "s", value, min(best), middle, interval, len(pairs), params, _flags(pairs)
    )
