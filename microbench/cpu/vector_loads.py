"""Do wider loads move more bytes, from each level of the memory hierarchy, on one core?

Method: loops of nothing but loads of one width (8 bytes into a general register, then every vector width the CPU has)
over a footprint that lies clearly in each level; all widths and a chain of dependent additions (one cycle each) are
interleaved. The chain gives the clock, and with it `params.bytes_per_cycle`. Levels are those the system reports. The
`proof` is decoded from the loop's bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from probe.kernels.cpu import machine_code
from probe.kernels.cpu.loops import LoadLoop, Loops
from probe.microbench import memory
from probe.microbench.cpu.pinning import pinned
from probe.microbench.harness import Clock, Effort, Timing, Variant, measure, paced, repeats_for, timed
from probe.microbench.suite import Context, rate_measurement
from probe.results.measurement import Measurement
from probe.units import format_bytes

NAME = "vector_loads"
WORD_BYTES = 8  # the loops count in them
LEAST_WINDOWS = 6
Footprint = tuple[str | None, int]  # level, bytes


def run(context: Context) -> Iterator[Measurement]:
    """One measurement a level and width, metric `bandwidth`, in B/s; the largest footprint first.

    UnavailableError where no machine code can be run.
    """
    loops = machine_code.load(context.device.isa)
    if not context.device.caches:
        context.warnings.append("vector_loads: the system reports no caches, so the sizes are given without a level")
    usable = affordable_footprints(context)
    if not usable:
        return
    with pinned() as cpu:
        buffer = memory.Buffer(usable[-1][1])
        buffer.view(np.float64).fill(1.0)
        for footprint, budget_s in paced(usable[::-1], context.budget_s, context.clock, context.report):
            yield from _measure_level(context, loops, buffer.address, footprint, budget_s, cpu)


def affordable_footprints(context: Context) -> list[Footprint]:
    """The footprints that free memory has room for; what is left out is said in a warning."""
    wanted = memory.footprints(context.device)
    sizes = memory.affordable(tuple(size for _, size in wanted), memory.free_bytes())
    for level, size in wanted:
        if size not in sizes:
            where = f" ({level})" if level else ""
            context.warnings.append(f"vector_loads: {format_bytes(size)}{where} is left out, too little memory is free")
    return [footprint for footprint in wanted if footprint[1] in sizes]


def _measure_level(
    context: Context, loops: Loops, address: int, footprint: Footprint, budget_s: float, cpu: int
) -> Iterator[Measurement]:
    started = context.clock()
    size = footprint[1]
    variants = [_variant(loop, address, size, context.clock) for loop in loops.loads]
    adds_n = repeats_for(lambda n: timed(lambda: loops.adds(0, n), context.clock)())
    variants.append(Variant("adds", timed(lambda: loops.adds(0, adds_n), context.clock), adds_n * loops.unroll))
    left_s = budget_s - (context.clock() - started)
    *timings, cycle = measure(variants, Effort(left_s, least=LEAST_WINDOWS), context.clock)
    for loop, timing in zip(loops.loads, timings, strict=True):
        yield _measurement(loop, footprint, timing, cycle.seconds.min, loops.origin, cpu)


def _variant(loop: LoadLoop, address: int, size: int, clock: Clock) -> Variant:
    def window_of(repeats: int) -> float:
        return timed(lambda: loop.call(None, address, None, size // WORD_BYTES, repeats, None, 0.0), clock)()

    repeats = repeats_for(window_of)
    return Variant(str(loop.width_bytes), lambda: window_of(repeats), repeats * size)


def _measurement(
    loop: LoadLoop, footprint: Footprint, timing: Timing, cycle_s: float, origin: str, cpu: int
) -> Measurement:
    level, size = footprint
    params = {
        "load_bytes": loop.width_bytes,
        "level": level,
        "size_bytes": size,
        "threads": 1,
        "bytes_per_cycle": cycle_s / timing.seconds.min,
        "clock_hz": 1 / cycle_s,
        "cpu": cpu,
    }
    name = f"{loop.width_bytes} B loads {level or format_bytes(size)}"
    return rate_measurement(NAME, name, "bandwidth", "B/s", timing, params, proof=_proof(loop, origin))


def _proof(loop: LoadLoop, origin: str) -> dict[str, Any]:
    """What ran: the instruction and the first one's bytes, or why they are not known."""
    proof = {"origin": origin, "instruction": loop.instruction, "encoding": loop.encoding}
    return proof if loop.instruction else proof | {"reason": "compiled here; the compiler's choice was not read back"}
