"""How true are the microbenchmarks? Machine code against the same loops compiled by cc, and matmul against brute force.

Everything that is compared is interleaved in one run, on the same memory. Prints ratios; goals: latency within 3 %, in
DRAM 10 %; triad within 5 %, with ordinary stores and with stores past the caches; the matmul ceiling at least 95 % of
the best shape. Run: python benchmarks/microbench_accuracy.py [--multichase PATH] [--only WORD …]

PATH is a multichase built with samples of 1 ms: in a checkout of github.com/google/multichase,
`sed -i 's/DELAY_USECS 500000/DELAY_USECS 1000/' multichase.c && make multichase`. Its own samples of half a second are
longer than a time slice, so that on a busy machine none of them is undisturbed. It runs between our windows, as a
process of its own that pins itself: on one CPU its sampling thread would wake up between the chase's loads.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Callable

import numpy as np

from probe.kernels.cpu import compiled, machine_code
from probe.kernels.cpu.loops import TRIAD, TRIAD_NT, Loops, Stream
from probe.machine import environment
from probe.machine.device import Device
from probe.microbench import matmul, memory, precisions
from probe.microbench.cpu import cache_latency
from probe.microbench.cpu.pinning import allowed_cpus, pinned
from probe.microbench.harness import Effort, Timing, Variant, measure, repeats_for, timed
from probe.microbench.suite import Context
from probe.microbench.timers import HostTimer
from probe.stats import summarise
from probe.units import format_bytes

BUDGET_S = 4.0
NEVER = 0.0  # a target that is never met: the whole budget is used
LATENCY_SIZES = (16 * memory.KIB, 256 * memory.KIB, 256 * memory.MIB)
TRIAD_SIZES = (16 * memory.KIB, 256 * memory.KIB, 96 * memory.MIB)
PAST_CACHES_SIZES = (96 * memory.MIB, 256 * memory.MIB)
LATENCY_WITHIN, DRAM_WITHIN, TRIAD_WITHIN = 0.03, 0.10, 0.05
DRAM_BYTES = 64 * memory.MIB  # from here on a footprint is DRAM's
ROUNDS = 8  # of multichase, between windows of ours
MULTICHASE_SAMPLES = 300  # of 1 ms
ALL_CPUS = allowed_cpus()


def main() -> None:
    """Print one line a comparison."""
    parser = argparse.ArgumentParser(description="Accuracy of the microbenchmarks, in ratios.")
    parser.add_argument("--multichase", metavar="PATH", help="a multichase built with samples of 1 ms")
    parser.add_argument("--only", nargs="+", default=["latency", "triad", "matmul"], help="latency, triad or matmul")
    options = parser.parse_args()
    device = environment.cpu_device()
    ours, reference = machine_code.assemble(device.isa), compiled.load()
    print(f"{device.name}: {ours.origin} ({ours.instruction_set}) / cc {' '.join(compiled.FLAGS[:2])}")
    with pinned():
        if "latency" in options.only:
            latencies(ours, reference, options.multichase)
        if "triad" in options.only:
            triads(ours, reference)
    if "matmul" in options.only:
        matmuls(device)


def latencies(ours: Loops, reference: Loops, multichase: str | None) -> None:
    """The chase at each size, against cc's and, if there is one, multichase's."""
    for size in LATENCY_SIZES:
        within = DRAM_WITHIN if size >= DRAM_BYTES else LATENCY_WITHIN
        show(f"latency {format_bytes(size)}", latency(ours, reference, size), within)
        if multichase:
            show(f"latency {format_bytes(size)}", against_multichase(ours, multichase, size), within)


def triads(ours: Loops, reference: Loops) -> None:
    """The triad at each size with each kind of stores, against cc's."""
    for size in TRIAD_SIZES:
        show(f"triad {format_bytes(size)}", triad(ours, reference, TRIAD, size), TRIAD_WITHIN)
    for size in PAST_CACHES_SIZES:
        show(f"triad non-temporal {format_bytes(size)}", triad(ours, reference, TRIAD_NT, size), TRIAD_WITHIN)


def matmuls(device: Device) -> None:
    """The matmul ceiling against brute force."""
    ceiling, best, shape = matmul_rates(device)
    verdict = "ok" if ceiling >= 0.95 * best else "MISSED"
    print(
        f"matmul float32   ceiling {ceiling / 1e9:.1f}, best of brute force {best / 1e9:.1f} GFLOP/s {shape}"
        f"   ratio {ceiling / best:.3f}  {verdict}"
    )


def show(name: str, timings: list[Timing], tolerance: float) -> None:
    """Times per hop or byte; the ratio of minima and of medians."""
    ours, theirs = (timing.seconds for timing in timings)
    ratio = ours.min / theirs.min
    verdict = "ok" if abs(ratio - 1) <= tolerance else "MISSED"
    other = timings[1].name
    print(
        f"{name:28} ours {ours.min * 1e9:8.4f} ns, {other:10} {theirs.min * 1e9:8.4f} ns"
        f"   ratio of minima {ratio:.3f}, of medians {ours.median / theirs.median:.3f}  {verdict}",
        flush=True,
    )


def latency(ours: Loops, reference: Loops, size: int) -> list[Timing]:
    """Seconds a hop over the same linked lines, half a cycle apart and equally far in each window.

    So neither comes where the other has just been, whose lines would be in a cache still.
    """
    buffer = linked(size)
    opposite = ours.chase(buffer.address, size // memory.LINE_BYTES // 2 // ours.unroll)
    mine, theirs = (cache_latency.Chase(*at, size) for at in ((ours, buffer.address), (reference, opposite)))
    n = repeats_for(mine.window)
    variants = [
        Variant(name, lambda chase=chase: chase.window(n), n * ours.unroll)
        for name, chase in (("ours", mine), ("cc", theirs))
    ]
    return measure(variants, Effort(BUDGET_S, target=NEVER))


def linked(size: int) -> memory.Buffer:
    """Small pages with a random cycle through all lines."""
    buffer = memory.Buffer(size, small_pages=True)
    cache_latency.link(buffer, size, np.random.default_rng(1))
    return buffer


def against_multichase(ours: Loops, program: str, size: int) -> list[Timing]:
    """Seconds a hop of ours and of multichase's best sample, in turns, each on other memory in each round.

    Which sets of a cache small pages fall into is chance, and decides some percent where the cache is half full.
    """
    buffers: list[memory.Buffer] = []  # small ones are kept, so that the next lies elsewhere
    mine: list[float] = []
    theirs: list[float] = []
    for _ in range(ROUNDS):
        if size >= DRAM_BYTES:
            buffers.clear()
        buffers.append(linked(size))
        chase = cache_latency.Chase(ours, buffers[-1].address, size)
        n = repeats_for(chase.window)  # for windows of half a millisecond, as the suite has them
        variant = Variant("ours", lambda chase=chase, n=n: chase.window(n), n * ours.unroll)
        [timing] = measure([variant], Effort(MULTICHASE_SAMPLES * 1e-3, target=NEVER))
        mine.append(timing.seconds.min)
        theirs.append(multichase_s(program, size))
    return [Timing("ours", summarise(mine)), Timing("multichase", summarise(theirs))]


def multichase_s(program: str, size: int) -> float:
    """The best sample of one run of multichase over all of `size` in random order, one hop a line; seconds a hop."""
    kib = f"{size // memory.KIB}k"
    command = [program, "-m", kib, "-s", str(memory.LINE_BYTES), "-T", kib, "-n", str(MULTICHASE_SAMPLES)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=120, preexec_fn=lambda: pin_to(ALL_CPUS)
    )
    return float(done.stdout.split()[-1]) * 1e-9


def pin_to(cpus: tuple[int, ...]) -> None:
    """Let this process run on `cpus`, where the system has such a call."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def triad(ours: Loops, reference: Loops, kind: Stream, size: int) -> list[Timing]:
    """Seconds a byte (STREAM's count) over the same arrays, one thread."""
    buffer = memory.Buffer(memory.buffer_bytes(size))
    buffer.view(np.float64).fill(1.0)
    elements = size // 24
    at = [buffer.address + offset for offset in memory.array_offsets(size, 3)]
    variants = []
    for name, loops in (("ours", ours), ("cc", reference)):
        window_of = triad_window(loops, kind, at, elements)
        n = repeats_for(window_of)
        variants.append(Variant(name, lambda window_of=window_of, n=n: window_of(n), n * elements * 24))
    return measure(variants, Effort(BUDGET_S, target=NEVER))


def triad_window(loops: Loops, kind: Stream, at: list[int], elements: int) -> Callable[[int], float]:
    """The seconds of n passes, as a function of n."""
    return lambda n: timed(lambda: loops.stream[kind](*at, elements, n, None, 3.0))()


def ceiling_of(context: Context, precision: precisions.Precision) -> float:
    """FLOP/s in about half the time a full run takes for it."""
    candidates = matmul.screen(context, HostTimer(), precision, matmul.CPU_SHAPES, 3.0)
    return matmul.final(context, HostTimer(), precision, candidates, 6.0).value


def matmul_rates(device: Device) -> tuple[float, float, tuple[int, int, int]]:
    """The ceiling, the best rate of a long look at every shape, and that shape."""
    import torch

    context = Context(device, 9.0)
    float32 = precisions.Precision("float32")
    first = ceiling_of(context, float32)
    best, best_shape = 0.0, (0, 0, 0)
    sides = (96, 128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 2048)
    shapes = [(n, n, n) for n in sides] + [(n, 4 * n, n) for n in sides[:10]] + [(2 * n, n, 2 * n) for n in sides[:12]]
    for m, k, n in shapes:
        call = precisions.product(float32, (m, k, n), "cpu")
        [timing] = measure([Variant("mm", timed(call), 2 * m * k * n)], Effort(0.4, target=NEVER, most=5000))
        if 1 / timing.seconds.min > best:
            best, best_shape = 1 / timing.seconds.min, (m, k, n)
    again = ceiling_of(context, float32)
    print(f"({torch.get_num_threads()} threads; ceilings of two looks: {first / 1e9:.1f}, {again / 1e9:.1f})")
    return min(first, again), best, best_shape


if __name__ == "__main__":
    main()
