"""How far do a GPU's TLBs reach, and what does a load beyond them cost?

Method: a chase in random order through n lines that lie a stride apart (64 KiB, 2 MiB, 32 MiB), interleaved with one
through as many lines packed densely: both take as much of the caches, so what the first takes longer is the TLB's. The
loads go past L1, because an L1 that is addressed virtually asks no TLB for what it holds, and n stays so small that L2
holds all lines. Each line lies at a random place within its stride, so that no set of a cache gets more than its share.
All threads of the block walk the whole cycle before each window: what the other chases displaced is back then.

A GPU's pages are 2 MiB large in allocations of this size. Where the strides rise at the same number of bytes, that is
the memory a TLB covers; where they rise at the same number of lines, an entry covers no more than the smallest stride.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from probe.errors import UnavailableError
from probe.kernels.cuda import chase
from probe.kernels.cuda.driver import OutOfMemory
from probe.kernels.cuda.gpu import Gpu
from probe.kernels.cuda.memory import Memory
from probe.microbench import plateaus
from probe.microbench.cuda.bench import Bench, opened
from probe.microbench.cuda.chain import LINE_BYTES, Chain, Offsets, linked, random_order, walk
from probe.microbench.cuda.in_kernel import InKernel
from probe.microbench.harness import Effort, Timing, paced
from probe.microbench.suite import Context
from probe.results.measurement import Measurement
from probe.units import format_bytes

NAME = "tlb"
SEED = 20260104  # the same orders in every run
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
STRIDES_BYTES = (64 * KIB, 2 * MIB, 32 * MIB)
MOST_BYTES, MOST_BYTES_QUICK = 64 * GIB, 8 * GIB  # and never more than a quarter of what is free
LEAST_BYTES = 256 * MIB
FEWEST_LINES = 8
L2_SHARE = 8  # the lines of a chase take at most this part of L2, so that none of them leaves it
L2_IF_UNKNOWN = 4 * MIB
LEAST_WINDOWS = 6
Pair = tuple[Measurement, Measurement]  # the same number of lines, a stride apart and dense
Proof = dict[str, object] | None
ONE_A_PAGE, DENSE = "one line a page", "dense"  # the words of the CPU's suite; a page is a stride here


@dataclass(frozen=True)
class Walk:
    """One chase: `lines` of them, a `stride_bytes` apart."""

    layout: str
    lines: int
    stride_bytes: int

    @property
    def params(self) -> dict[str, object]:
        """What a reader must know to repeat it."""
        return {
            "lines": self.lines,
            "layout": self.layout,
            "page_bytes": self.stride_bytes,
            "size_bytes": self.lines * self.stride_bytes,
        }

    @property
    def name(self) -> str:
        """Lines and how they lie."""
        how = "dense" if self.layout == DENSE else f"{format_bytes(self.stride_bytes)} apart"
        return f"{self.lines} lines, {how}"

    def offsets(self, generator: np.random.Generator, used: Offsets) -> Offsets:
        """Where the lines are, in the order of the chase; none of them among the `used`, where other chases go.

        There is always room: a stride has hundreds of lines, and there are no more other chases than strides.
        """
        starts = random_order(self.lines, generator, self.stride_bytes)
        offsets = starts + self._places(self.lines, generator)
        while (taken := np.isin(offsets, used)).any():
            offsets[taken] = starts[taken] + self._places(int(taken.sum()), generator)
        return offsets

    def _places(self, n: int, generator: np.random.Generator) -> Offsets:
        """Random places of lines within a stride."""
        places: Offsets = generator.integers(0, self.stride_bytes // LINE_BYTES, n, dtype=np.uint64)
        return places * np.uint64(LINE_BYTES)


def run(context: Context, gpu: Gpu | None = None) -> Iterator[Measurement]:
    """Metric `latency`, in seconds, for each number of lines and stride; then each step's `reach`, and what is beyond.

    Raises UnavailableError where this is no CUDA device, or too little of its memory is free.
    """
    with opened(context, gpu) as bench:
        function = bench.gpu.load(chase.PAST_L1)
        bench.gpu.load(chase.LINK)
        arena = _arena(bench)
        generator = np.random.default_rng(SEED)
        found: list[Measurement] = []
        counts = line_counts(arena.n_bytes, bench.gpu.l2_bytes or L2_IF_UNKNOWN)
        for count, budget_s in paced(counts, bench.left_s, context.clock, context.report):
            points: list[Measurement] = []
            with bench.sparing(NAME):
                points = _measure_count(bench, arena, generator, count, budget_s)
            found += points
            yield from points
        yield from summary(found, context.warnings, function.proof)


def line_counts(arena_bytes: int, l2_bytes: int) -> tuple[int, ...]:
    """Powers of two, from few lines to as many as L2 surely holds or the smallest stride has room for."""
    most = min(l2_bytes // L2_SHARE // LINE_BYTES, arena_bytes // STRIDES_BYTES[0])
    return tuple(1 << e for e in range(FEWEST_LINES.bit_length() - 1, most.bit_length()))


def walks(lines: int, arena_bytes: int) -> Iterator[Walk]:
    """The chases over as many lines: dense, and a stride apart where there is room."""
    yield Walk(DENSE, lines, LINE_BYTES)
    for stride_bytes in STRIDES_BYTES:
        if lines * stride_bytes <= arena_bytes:
            yield Walk(ONE_A_PAGE, lines, stride_bytes)


def _arena(bench: Bench) -> Memory:
    """As much memory as can be had, a power of two; UnavailableError where that is too little to see a TLB end."""
    size = MOST_BYTES_QUICK if bench.context.quick else MOST_BYTES
    while size >= LEAST_BYTES:
        if bench.affordable([size]):
            try:
                return bench.gpu.allocate(size)
            except OutOfMemory:
                bench.warn(f"{NAME}: {format_bytes(size)} in one piece were refused; measured on less")
        size //= 2
    raise UnavailableError("too little of the GPU's memory is free; end other processes on it")


def _measure_count(
    bench: Bench, arena: Memory, generator: np.random.Generator, count: int, budget_s: float
) -> list[Measurement]:
    """All chases over `count` lines, in turn."""
    clock = bench.context.clock
    started = clock()
    function = bench.gpu.load(chase.PAST_L1)
    chases = list(walks(count, arena.n_bytes))
    with bench.gpu.allocate(count * LINE_BYTES) as block:
        chains = _linked(bench, arena, block, chases, generator)
        runs = [walk(bench, chain, function, one.name) for chain, one in zip(chains, chases, strict=True)]
        effort = Effort(budget_s - (clock() - started), least=LEAST_WINDOWS)
        timings = bench.measure([variant for _, variant in runs], effort)
    for chain in chains:
        chain.close()
    return [
        _row(bench, one, timed, timing, function.proof)
        for one, (timed, _), timing in zip(chases, runs, timings, strict=True)
    ]


def _linked(
    bench: Bench, arena: Memory, block: Memory, chases: Sequence[Walk], generator: np.random.Generator
) -> list[Chain]:
    """The chains of all chases: the dense one in `block`, the others in `arena`, none through a line of another."""
    used = np.empty(0, np.uint64)
    chains = []
    for one in chases:
        if one.layout == DENSE:
            chains.append(linked(bench, block, random_order(one.lines, generator)))
        else:
            offsets = one.offsets(generator, used)
            used = np.concatenate([used, offsets])
            chains.append(linked(bench, arena, offsets))
    return chains


def _row(bench: Bench, one: Walk, timed: InKernel, timing: Timing, proof: dict[str, object]) -> Measurement:
    return bench.time_row(NAME, one.name, "latency", timing, {**one.params, **timed.params}, proof=proof)


def summary(found: Sequence[Measurement], warnings: list[str], proof: Proof = None) -> Iterator[Measurement]:
    """The steps of each stride's chase above the dense one: how far each is, and what a load beyond it costs."""
    dense = {m.params["lines"]: m for m in found if m.params["layout"] == DENSE}
    for stride_bytes in STRIDES_BYTES:
        sparse = [m for m in found if (m.params["layout"], m.params["page_bytes"]) == (ONE_A_PAGE, stride_bytes)]
        pairs = [(m, dense[m.params["lines"]]) for m in sparse if m.params["lines"] in dense]
        steps = _steps(pairs) if len(pairs) > 1 else []
        if pairs and not steps:
            most = format_bytes(pairs[-1][0].params["size_bytes"])
            warnings.append(f"{NAME}: no step was seen with lines {format_bytes(stride_bytes)} apart, up to {most}")
        for number, (before, after) in enumerate(steps, 1):
            edge = [pair for pair in pairs if pair[0].params["lines"] in (before[-1], after[0])]
            yield _reach(number, edge, len(pairs), stride_bytes, proof)
            yield _beyond(number, [pair for pair in pairs if pair[0].params["lines"] in after], stride_bytes, proof)


def _steps(pairs: Sequence[Pair]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The numbers of lines before and after each step of what the sparse chase takes longer than the dense one.

    In cycles, which no change of clock moves. A single number between two pieces is the climb from one to the next.
    """
    lines = [int(sparse.params["lines"]) for sparse, _ in pairs]
    hit = min(sparse.params["cycles"] for sparse, _ in pairs)  # without it a cost of nothing would have no logarithm
    costs = [hit + max(0.0, sparse.params["cycles"] - dense.params["cycles"]) for sparse, dense in pairs]
    pieces = [piece.sizes for piece in plateaus.find(lines, costs)]
    lasting = [sizes for sizes in pieces if sizes in (pieces[0], pieces[-1]) or len(sizes) > 1]
    return list(itertools.pairwise(lasting))


def _reach(step: int, edge: Sequence[Pair], n: int, stride_bytes: int, proof: Proof) -> Measurement:
    """The last number of lines below `step`; the interval ends with the first above it."""
    last, first = (int(sparse.params["lines"]) for sparse, _ in edge)
    params = {"step": step, "page_bytes": stride_bytes, "size_bytes": last * stride_bytes}
    name = f"reach {step}, {format_bytes(stride_bytes)} apart"
    return Measurement(
        NAME, name, "reach", "pages", last, last, last, (last, first), n, params, _flags(edge), proof=proof
    )


def _flags(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """What a reader must know of any of the chases that a result was derived from."""
    return tuple(dict.fromkeys(flag for pair in pairs for chase in pair for flag in chase.flags))


def _beyond(step: int, pairs: Sequence[Pair], stride_bytes: int, proof: Proof) -> Measurement:
    """What a load beyond `step` takes longer than one in as many dense lines; the interval is over the numbers."""
    best = [sparse.value - dense.value for sparse, dense in pairs]
    typical = [sparse.median - dense.median for sparse, dense in pairs]
    lines = [int(sparse.params["lines"]) for sparse, _ in pairs]
    params = {
        "step": step,
        "page_bytes": stride_bytes,
        "from_lines": lines[0],
        "to_lines": lines[-1],
        "cycles": statistics.median(sparse.params["cycles"] - dense.params["cycles"] for sparse, dense in pairs),
        "clock_hz": statistics.median(sparse.params["clock_hz"] for sparse, _ in pairs),
    }
    return Measurement(
        suite=NAME,
        name=f"beyond {step}, {format_bytes(stride_bytes)} apart",
        metric="latency",
        unit="s",
        value=statistics.median(best),
        min=min(best),
        median=statistics.median(typical),
        interval=(min(typical), max(typical)),
        n=len(pairs),
        params=params,
        flags=_flags(pairs),
        proof=proof,
    )
