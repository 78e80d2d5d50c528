"""Do wider loads and stores move more bytes, from L2 and from DRAM, with many warps on an SM and with few?

Method: loops of nothing but loads, or stores, of one width (32, 64, 128 bits, and 256 since sm_100), four under way in
a thread whatever their width. Loads go past L1 (ld.global.cg), so that a footprint in L2 is read from there. Three
occupancies: as many blocks as the SMs hold of every width (`full`), one block of 256 threads on each SM (`low`), where
the bytes that are under way bound the rate, and 64 blocks in all, the point that others have published (`64 blocks`).
`params.instructions_per_byte` is what the loop's machine code issues for each byte of a thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.kernels.cuda import loads, streams
from probe.kernels.cuda.function import Function
from probe.kernels.cuda.gpu import Gpu
from probe.kernels.cuda.kernel import Kernel
from probe.kernels.cuda.loads import DEPTH, THREADS
from probe.kernels.cuda.memory import Memory
from probe.microbench import memory
from probe.microbench.cuda import arrays
from probe.microbench.cuda.bench import Bench, opened
from probe.microbench.harness import Effort, Timing, Variant, paced
from probe.microbench.suite import Context
from probe.results.measurement import Measurement
from probe.units import format_bytes

NAME = "vector_loads"
LOAD, STORE = "load", "store"
FULL, LOW, PUBLISHED = "full", "low", "64 blocks"
PUBLISHED_BLOCKS = 64
LEAST_BYTES = 128 * memory.MIB  # moved by one launch: from 10 µs upwards, several in a window
LEAST_WINDOWS = 6
VALUE = 0x3F800000  # what stores write: words from 1.0 on
Access = tuple[str, int]  # load or store, bytes


@dataclass(frozen=True)
class Place:
    """One point: a footprint and how many blocks go over it."""

    size_bytes: int
    occupancy: str
    blocks: int
    accesses: tuple[str, ...]


def run(context: Context, gpu: Gpu | None = None) -> Iterator[Measurement]:
    """One measurement a place, occupancy, width and direction, metric `bandwidth`, in B/s.

    UnavailableError where none of the kernels can be compiled and proved.
    """
    with opened(context, gpu) as bench:
        functions = arrays.usable(bench, NAME, kernels(bench.gpu, quick=context.quick))
        sizes = [arrays.far_beyond_l2(bench.gpu), arrays.in_l2(bench.gpu)]
        [held], fitting = arrays.room(bench, NAME, sizes)
        arrays.fill(bench.gpu, bench.gpu.load(streams.NOISE), held, 1)
        full = arrays.most_blocks(bench.gpu, list(functions.values()), THREADS)
        sums = bench.gpu.allocate(4 * THREADS * max(full, PUBLISHED_BLOCKS))
        found = list(places(bench.gpu, full, fitting, quick=context.quick))
        for place, share_s in paced(found, bench.left_s, context.clock, context.report):
            with bench.sparing(f"{NAME}: {format_bytes(place.size_bytes)}, {place.occupancy}"):
                yield from _at(bench, functions, held, sums, place, share_s)


def kernels(gpu: Gpu, *, quick: bool) -> dict[Access, Kernel]:
    """Every width the device has; a quick run leaves stores out."""
    widths = loads.widths(10 * gpu.capability[0] + gpu.capability[1])
    found: dict[Access, Kernel] = {(LOAD, width): loads.load(width) for width in widths}
    return found if quick else found | {(STORE, width): loads.store(width) for width in widths}


def places(gpu: Gpu, full: int, sizes: list[int], *, quick: bool) -> Iterator[Place]:
    """What is asked, largest footprint first; `full` blocks fill the GPU."""
    widest = loads.tile_bytes(max(loads.widths(10 * gpu.capability[0] + gpu.capability[1])))
    for size in sizes:
        yield Place(size, FULL, arrays.apart(full, size, widest, gpu), (LOAD, STORE))
        yield Place(size, LOW, gpu.sm_count, (LOAD, STORE))
        if not quick:
            yield Place(size, PUBLISHED, PUBLISHED_BLOCKS, (LOAD,))


def _at(
    bench: Bench, functions: dict[Access, Function], held: Memory, sums: Memory, place: Place, share_s: float
) -> Iterator[Measurement]:
    """All widths in turn at one place."""
    started = bench.context.clock()
    asked = [access for access in functions if access[0] in place.accesses]
    variants = [_variant(bench, access, functions[access], held, sums, place) for access in asked]
    left_s = share_s - (bench.context.clock() - started)
    for access, timing in zip(asked, bench.measure(variants, Effort(left_s, least=LEAST_WINDOWS)), strict=True):
        yield _row(bench, access, functions[access], place, timing)


def _variant(bench: Bench, access: Access, function: Function, held: Memory, sums: Memory, place: Place) -> Variant:
    kind, width = access
    tour = arrays.tour(place.size_bytes, loads.tile_bytes(width), place.blocks, LEAST_BYTES)
    head = (sums, held) if kind == LOAD else (held, np.uint32(VALUE))

    def enqueue() -> None:
        function.launch(tour.blocks, THREADS, *head, *tour.arguments)

    return bench.variant(f"{kind} {width}", enqueue, tour.n_bytes)


def _row(bench: Bench, access: Access, function: Function, place: Place, timing: Timing) -> Measurement:
    kind, width = access
    level = arrays.level_of(place.size_bytes, bench.gpu)
    params: dict[str, Any] = {
        f"{kind}_bytes": width,
        "kernel": kind,
        "level": level,
        "size_bytes": place.size_bytes,
        "occupancy": place.occupancy,
        **arrays.placed(place.blocks, THREADS, bench.gpu),
        "under_way_per_thread": DEPTH,
        "instructions_per_byte": instructions_per_byte(function, width),
    }
    name = f"{8 * width} bit {kind}s {level or format_bytes(place.size_bytes)} {place.occupancy}"
    return bench.rate_row(NAME, name, "bandwidth", "B/s", timing, params, proof=function.proof)


def instructions_per_byte(function: Function, width: int) -> float:
    """Instructions that the loop issues for each byte that a thread loads or stores, as counted in the machine code."""
    loop = function.proof["loop"]
    assert isinstance(loop, dict)
    return float(sum(loop.values())) / (DEPTH * width)
