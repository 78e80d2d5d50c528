"""How fast do the cores stream through arrays of each size, one core alone and all of them?

Method: read, write and McCalpin's STREAM kernels copy, scale, add, triad over float64 arrays as machine code (widest
vectors the CPU has), repeated inside the code so that small arrays are measured without calls between; write, copy and
triad once more with non-temporal stores, which go past the caches (write_nt, copy_nt, triad_nt). Bytes are counted as
STREAM counts them, 8 an element and array. The read that an ordinary store causes (write-allocate) is not counted; with
it the caches move up to `params.write_allocate_factor` times as much. `params.size_bytes` is the footprint of all
arrays of all threads together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from probe.errors import UnavailableError
from probe.kernels.cpu import machine_code
from probe.kernels.cpu.loops import BANDWIDTHS, COPY, READ, TRIAD, TRIAD_NT, WRITE, Loops, Stream
from probe.microbench import memory, torch_bandwidth
from probe.microbench.cpu.pinning import working_cpus
from probe.microbench.cpu.team import Team
from probe.microbench.harness import WINDOW_S, Effort, Timing, Variant, measure, paced, repeats_for
from probe.microbench.suite import Context, rate_measurement
from probe.results.measurement import Measurement
from probe.units import format_bytes

NAME = "memory_bandwidth"
SCALAR = 3.0  # STREAM's
LEAST_SHARE_BYTES = 1 << 10  # of the footprint, for each thread: less is all loop overhead
LEAST_WINDOWS = 6
QUICK = (READ, WRITE, COPY, TRIAD, TRIAD_NT)
SCRATCH_WORDS = 16  # two cache lines a thread: what `read` stores in the end


def run(context: Context) -> Iterator[Measurement]:
    """A measurement for each size, kernel and number of threads, metric `bandwidth`, in B/s.

    With torch's operators where machine code cannot be run.
    """
    try:
        loops = machine_code.load(context.device.isa)
    except UnavailableError as reason:
        context.warnings.append(f"memory_bandwidth: measured with torch's operators: {reason}")
        yield from torch_bandwidth.run(context)
        return
    if not set(_kernels(context)) <= set(loops.stream):
        context.warnings.append("memory_bandwidth: no stores past the caches: the compiler has none for this processor")
    cpus = working_cpus()
    teams = [cpus[-1:], cpus] if len(cpus) > 1 else [cpus]
    sizes = memory.affordable(memory.sizes(context.device, coarse=context.quick), memory.free_bytes())
    if len(sizes) < len(memory.sizes(context.device, coarse=context.quick)):
        context.warnings.append("memory_bandwidth: the largest sizes are left out, too little memory is free")
    for done, members in enumerate(teams):

        def report(fraction: float, done: int = done) -> None:
            context.report((done + fraction) / len(teams))

        usable = [size for size in sizes if size // len(members) >= LEAST_SHARE_BYTES]
        yield from _with_team(context, loops, members, usable[::-1], context.budget_s / len(teams), report)


def _kernels(context: Context) -> tuple[Stream, ...]:
    """What is measured; a quick run leaves out those that are nearly another's twin."""
    return QUICK if context.quick else BANDWIDTHS


def _with_team(
    context: Context,
    loops: Loops,
    cpus: tuple[int, ...],
    sizes: list[int],
    budget_s: float,
    report: Callable[[float], None],
) -> Iterator[Measurement]:
    """All sizes with one set of threads, whose arrays each thread touches first itself."""
    if not sizes:
        return
    started = context.clock()
    kernels = [kind for kind in _kernels(context) if kind in loops.stream]
    with Team(cpus) as team:
        arrays = Arrays(loops, team, sizes[0])
        left_s = budget_s - (context.clock() - started)
        for size, share_s in paced(sizes, left_s, context.clock, report):
            timings = measure(
                [arrays.variant(kind, size) for kind in kernels],
                Effort(share_s, least=LEAST_WINDOWS),
                context.clock,
            )
            for kind, timing in zip(kernels, timings, strict=True):
                yield _measurement(kind, size, len(cpus), timing, loops)


def _measurement(kind: Stream, size: int, threads: int, timing: Timing, loops: Loops) -> Measurement:
    params = {
        "kernel": kind.label,
        "size_bytes": size,
        "threads": threads,
        "bytes_counted": "STREAM",
        "stores": stores(kind),
        "write_allocate_factor": write_allocate_factor(kind),
    }
    plural = "thread" if threads == 1 else "threads"
    name = f"{kind.label} {format_bytes(size)} {threads} {plural}"
    proof = {"origin": loops.origin, "instruction_set": loops.instruction_set}
    return rate_measurement(NAME, name, "bandwidth", "B/s", timing, params, proof=proof)


def stores(kind: Stream) -> str:
    """How `kind` stores: "none", "ordinary" (the line is read first) or "non-temporal" (past the caches)."""
    if not kind.writes:
        return "none"
    return "non-temporal" if kind.non_temporal else "ordinary"


def write_allocate_factor(kind: Stream) -> float:
    """Bytes moved over bytes counted where an ordinary store first reads its line; some CPUs avoid part of that."""
    return (kind.accesses + (stores(kind) == "ordinary")) / kind.accesses


class Arrays:
    """The arrays of every thread of a team, and the loops over them."""

    def __init__(self, loops: Loops, team: Team, largest_bytes: int) -> None:
        """Room for a footprint of `largest_bytes`, written once by the threads that will use it."""
        self._loops = loops
        self._team = team
        share = largest_bytes // len(team)
        self._scratch = np.zeros((len(team), SCRATCH_WORDS))
        self._buffers = [memory.Buffer(memory.buffer_bytes(share)) for _ in range(len(team))]
        team.run(lambda thread: self._buffers[thread].view(np.float64).fill(1.0))

    def variant(self, kind: Stream, size_bytes: int) -> Variant:
        """Windows of `kind` over a total footprint of `size_bytes`."""
        window_of, work = self.window_of(kind, size_bytes)
        repeats = repeats_for(window_of, WINDOW_S * (1 if len(self._team) == 1 else 2))
        return Variant(kind.label, lambda: window_of(repeats), repeats * work)

    def window_of(self, kind: Stream, size_bytes: int) -> tuple[Callable[[int], float], int]:
        """The seconds of n passes, as a function of n, and the bytes (STREAM's count) of one pass."""
        share = size_bytes // len(self._team)
        elements = share // kind.accesses // kind.element_bytes
        offsets = memory.array_offsets(share, kind.accesses)
        loop, gate = self._loops.stream[kind], self._team.gate_address

        def window(repeats: int) -> float:
            def task(thread: int) -> None:
                at = [self._buffers[thread].address + offset for offset in offsets]
                destination = at[0] if kind.writes else self._scratch[thread].ctypes.data
                x = at[min(1, len(at) - 1)]
                loop(destination, x, at[-1], elements, repeats, gate, SCALAR)

            return self._team.run(task)

        return window, elements * kind.element_bytes * kind.accesses * len(self._team)
