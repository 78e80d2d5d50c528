"""How fast do all SMs together stream: from DRAM by kernel, size and occupancy, from L2, L1 and shared memory?

Method: read, write and STREAM's copy, scale, add, triad over float32 arrays, 128 bits an access, four vectors under way
in a thread, as many blocks as the SMs hold of every kernel, each at a place of its own. Bytes are counted as STREAM
counts them. A footprint that lies in L2, or not clearly beyond it, is gone through several times within a launch, by
loads that the L1 caches do not keep (ld.global.cg), so that neither launches nor L1 stand in its result. DRAM is
streamed by ordinary loads.

The curve against occupancy reads DRAM with few to many warps on each SM, the number held down by the shared memory that
each block asks for: how many bytes must be under way. L1 and shared memory: every SM reads the same 16 KiB again and
again, from its own L1 or from each block's shared memory; the rate is of all SMs together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.errors import UnavailableError
from probe.kernels.cuda import loads, streams
from probe.kernels.cuda.driver import DeviceLost
from probe.kernels.cuda.function import Function
from probe.kernels.cuda.gpu import Gpu
from probe.kernels.cuda.memory import Memory
from probe.kernels.cuda.streams import ADD, COPY, FEW_THREADS, READ, SCALE, THREADS, TRIAD, WRITE, Stream
from probe.microbench import memory, torch_bandwidth
from probe.microbench.cuda import arrays
from probe.microbench.cuda.arrays import Tour
from probe.microbench.cuda.bench import Bench, opened
from probe.microbench.harness import Effort, Timing, Variant, paced
from probe.microbench.suite import Context
from probe.results.measurement import Measurement
from probe.units import format_bytes

NAME = "memory_bandwidth"
SCALAR = 3.0  # STREAM's
KERNELS, KERNELS_QUICK = (READ, WRITE, COPY, SCALE, ADD, TRIAD), (READ, WRITE, COPY, TRIAD)
LARGEST_BYTES, LARGEST_QUICK_BYTES = 4 << 30, 1 << 30
LEAST_BYTES = 512 * memory.MIB  # moved by one launch: above 100 µs on any GPU of today, fifty times a launch
CURVE_BYTES = 1 << 30
CURVE_BLOCKS = (1, 2, 3, 4, 6, 8, 12, 16)  # of FEW_THREADS on an SM: 4 to 64 warps
NEAR_ITERATIONS = 2048  # of 16 KiB a block: about a millisecond at 128 bytes a cycle, beside which filling L1 is little
LEAST_WINDOWS = 6
MOST = "most"  # as many blocks as the SMs hold, and as the footprint has tiles
RESERVED_BYTES = 1024  # of shared memory a block, taken by the system since sm_80
Question = Callable[[float], Iterator[Measurement]]  # answers within so many seconds


@dataclass(frozen=True)
class Setup:
    """What is measured with: the kernels that could be proved, by (stream, whether past L1), and how many blocks."""

    bench: Bench
    functions: dict[tuple[Stream, bool], Function]
    noise: Function
    blocks: int

    @property
    def gpu(self) -> Gpu:
        """The device."""
        return self.bench.gpu


@dataclass(frozen=True)
class Arrays:
    """Where arrays are read from and written to, apart, so that what is read stays random."""

    sources: Memory
    destination: Memory


def run(context: Context, gpu: Gpu | None = None) -> Iterator[Measurement]:
    """A measurement for each size and kernel, each occupancy and each level, metric `bandwidth`, in B/s.

    With torch's operators where the kernels cannot be compiled or proved.
    """
    with opened(context, gpu) as bench:
        try:
            setup = prepared(bench)
        except DeviceLost:
            raise
        except UnavailableError as reason:
            bench.warn(f"{NAME}: measured with torch's operators: {reason}")
        else:
            yield from _measured(setup)
            return
    yield from torch_bandwidth.run(context)


def prepared(bench: Bench) -> Setup:
    """Everything loaded; UnavailableError where none of the kernels can be had."""
    kinds = KERNELS_QUICK if bench.context.quick else KERNELS
    wanted = {
        (kind, past_l1): streams.kernel(kind, past_l1=past_l1 and kind.reads > 0)
        for past_l1 in (False, True)
        for kind in kinds
    }
    functions = arrays.usable(bench, NAME, wanted)
    blocks = arrays.most_blocks(bench.gpu, list(functions.values()), THREADS)
    return Setup(bench, functions, bench.gpu.load(streams.NOISE), blocks)


def _measured(setup: Setup) -> Iterator[Measurement]:
    bench, context = setup.bench, setup.bench.context
    pieces, fitting = arrays.room(bench, NAME, sizes(setup.gpu, quick=context.quick), 2)
    for seed, piece in enumerate(pieces):
        arrays.fill(setup.gpu, setup.noise, piece, seed)
    held = Arrays(*pieces)
    questions: list[tuple[str, Question]] = [(format_bytes(s), _sizes_question(setup, held, s)) for s in fitting]
    if not context.quick:
        questions.append(("the curve against occupancy", lambda share_s: _curve(setup, held, share_s)))
    questions += [(level, _near_question(setup, held, level)) for level in ("L1", "shared")]
    for (what, question), share_s in paced(questions, bench.left_s, context.clock, context.report):
        with bench.sparing(f"{NAME}: {what}"):
            yield from question(share_s)


def sizes(gpu: Gpu, *, quick: bool) -> tuple[int, ...]:
    """Footprints in bytes, largest first: from one in L2 by twos until clearly beyond it, then by fours.

    Quick: the one in L2, the first that is clearly in DRAM, and the largest.
    """
    found = [arrays.in_l2(gpu)]
    while arrays.level_of(found[-1], gpu) != "DRAM":
        found.append(2 * found[-1])
    first_in_dram = found[-1]
    while found[-1] < (LARGEST_QUICK_BYTES if quick else LARGEST_BYTES):
        found.append(4 * found[-1])
    return tuple(sorted({found[0], first_in_dram, found[-1]} if quick else found, reverse=True))


def _sizes_question(setup: Setup, held: Arrays, size: int) -> Question:
    return lambda share_s: _at_size(setup, held, size, share_s)


def _near_question(setup: Setup, held: Arrays, level: str) -> Question:
    return lambda share_s: _near(setup, held, level, share_s)


def _at_size(setup: Setup, held: Arrays, size: int, share_s: float) -> Iterator[Measurement]:
    """All kernels in turn over a footprint of `size` bytes."""
    started = setup.bench.context.clock()
    level = arrays.level_of(size, setup.gpu)
    found = {kind: f for (kind, past_l1), f in setup.functions.items() if past_l1 == (level != "DRAM")}
    tours = {kind: tour_of(setup, kind, size) for kind in found}
    variants = [_variant(setup, held, kind, function, tours[kind]) for kind, function in found.items()]
    left_s = share_s - (setup.bench.context.clock() - started)
    timings = setup.bench.measure(variants, Effort(left_s, least=LEAST_WINDOWS))
    for (kind, function), timing in zip(found.items(), timings, strict=True):
        params = {
            "kernel": kind.name,
            "level": level,
            "size_bytes": size,
            "occupancy": MOST,
            **arrays.placed(tours[kind].blocks, THREADS, setup.gpu),
            "bytes_counted": "STREAM",
        }
        yield _row(setup, f"{kind.name} {format_bytes(size)}", timing, params, function)


def tour_of(setup: Setup, kind: Stream, size: int) -> Tour:
    """How blocks go through each array of `kind` where all together have `size` bytes."""
    each, tile = size // kind.arrays, streams.tile_bytes()
    blocks = arrays.apart(setup.blocks, each, tile, setup.gpu)
    return arrays.tour(each, tile, blocks, LEAST_BYTES // kind.arrays)


def _variant(setup: Setup, held: Arrays, kind: Stream, function: Function, tour: Tour) -> Variant:
    arguments = operands(kind, held, tour.tiles * tour.tile_bytes)

    def enqueue() -> None:
        function.launch(tour.blocks, THREADS, *arguments, *tour.arguments)

    return setup.bench.variant(kind.name, enqueue, tour.n_bytes * kind.arrays)


def operands(kind: Stream, held: Arrays, each: int) -> list[np.generic]:
    """A kernel's pointers and its scalar, where each array has `each` bytes; `read` leaves its sums in the other."""
    sources = [np.uint64(held.sources.address + i * each) for i in range(kind.reads)]
    return [np.uint64(held.destination.address), *sources, *([np.float32(SCALAR)] if kind.scaled else [])]


def _curve(setup: Setup, held: Arrays, share_s: float) -> Iterator[Measurement]:
    """Reading DRAM with ever more warps on an SM."""
    bench, started = setup.bench, setup.bench.context.clock()
    function = bench.gpu.load(streams.kernel(READ, threads=FEW_THREADS))
    size = min(CURVE_BYTES, held.sources.n_bytes)
    points = list(occupancies(setup.gpu, function))
    variants = [_curve_variant(setup, held, function, size, blocks, shared) for blocks, shared in points]
    left_s = share_s - (bench.context.clock() - started)
    for (blocks, shared), timing in zip(
        points, bench.measure(variants, Effort(left_s, least=LEAST_WINDOWS)), strict=True
    ):
        params = {
            "kernel": READ.name,
            "level": arrays.level_of(size, setup.gpu),
            "size_bytes": size,
            "occupancy": f"{blocks * FEW_THREADS // 32} warps",
            **arrays.placed(blocks * setup.gpu.sm_count, FEW_THREADS, setup.gpu),
            "bytes_under_way_per_sm": blocks * streams.tile_bytes(FEW_THREADS),
            "shared_bytes_per_block": shared,
        }
        name = f"{READ.name} {format_bytes(size)} {params['occupancy']} an SM"
        yield _row(setup, name, timing, params, function)


def occupancies(gpu: Gpu, function: Function) -> Iterator[tuple[int, int]]:
    """(blocks on an SM, bytes of shared memory a block that allow no more), where that can be brought about.

    Each SM is given as many blocks as it holds at once, so that none waits and none has more than another.
    """
    function.allow_shared(gpu.shared_bytes_per_block, carveout=100)
    for blocks in CURVE_BLOCKS:
        shared = min(gpu.shared_bytes_per_sm // blocks - RESERVED_BYTES, gpu.shared_bytes_per_block) // 256 * 256
        if function.blocks_per_sm(FEW_THREADS, shared) == blocks:
            yield blocks, shared


def _curve_variant(
    setup: Setup, held: Arrays, function: Function, size: int, blocks_per_sm: int, shared: int
) -> Variant:
    blocks = blocks_per_sm * setup.gpu.sm_count
    tour = arrays.tour(size, streams.tile_bytes(FEW_THREADS), blocks)
    arguments = operands(READ, held, size)

    def enqueue() -> None:
        function.launch(tour.blocks, FEW_THREADS, *arguments, *tour.arguments, shared=shared)

    return setup.bench.variant(f"{blocks_per_sm} blocks", enqueue, tour.n_bytes)


def _near(setup: Setup, held: Arrays, level: str, share_s: float) -> Iterator[Measurement]:
    """What all SMs together read from their L1 caches, or from shared memory."""
    bench, started = setup.bench, setup.bench.context.clock()
    function = bench.gpu.load(loads.SHARED if level == "shared" else loads.load(16, past_l1=False))
    function.allow_shared(0, carveout=100 if level == "shared" else 0)
    blocks = arrays.most_blocks(setup.gpu, [function], loads.THREADS)
    turns = Tour(blocks, 1, loads.SHARED_BYTES, NEAR_ITERATIONS)
    which = turns.arguments[2:] if level == "shared" else turns.arguments

    def enqueue() -> None:
        function.launch(blocks, loads.THREADS, held.destination, held.sources, *which)

    variant = bench.variant(level, enqueue, turns.n_bytes)
    left_s = share_s - (bench.context.clock() - started)
    for timing in bench.measure([variant], Effort(left_s, least=LEAST_WINDOWS)):
        params = {
            "kernel": READ.name,
            "level": level,
            "size_bytes": loads.SHARED_BYTES,
            "occupancy": MOST,
            **arrays.placed(blocks, loads.THREADS, setup.gpu),
            "bytes_under_way_per_sm": blocks // setup.gpu.sm_count * loads.tile_bytes(16),
        }
        yield _row(setup, f"{READ.name} {level}", timing, params, function)


def _row(setup: Setup, name: str, timing: Timing, params: dict[str, Any], function: Function) -> Measurement:
    return setup.bench.rate_row(NAME, name, "bandwidth", "B/s", timing, params, proof=function.proof)
