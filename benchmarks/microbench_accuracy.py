"""How true are the microbenchmarks? Machine code against the same loops compiled by cc, and matmul against brute force.

Everything that is compared is interleaved in one run, on the same memory. Prints ratios; goals: latency within 5 %,
triad within 10 %, the matmul ceiling at least 95 % of the best shape. Run: python benchmarks/microbench_accuracy.py
"""

from __future__ import annotations

import numpy as np

from probe import environment
from probe.kernels import compiled, machine_code
from probe.kernels.loops import TRIAD, Loops
from probe.microbench import cache_latency, matmul, memory, precisions
from probe.microbench.harness import Effort, Timing, Variant, measure, repeats_for, timed
from probe.microbench.pinning import pinned
from probe.microbench.suite import Context
from probe.microbench.timers import HostTimer
from probe.units import format_bytes

BUDGET_S = 4.0
NEVER = 0.0  # a target that is never met: the whole budget is used
LATENCY_SIZES = (16 * memory.KIB, 256 * memory.KIB)
TRIAD_SIZES = (16 * memory.KIB, 256 * memory.KIB, 96 * memory.MIB)


def main() -> None:
    """Print one line a comparison."""
    device = environment.cpu_device()
    ours, reference = machine_code.assemble(device.isa), compiled.load()
    print(f"{device.name}: {ours.origin} ({ours.instruction_set}) / cc {' '.join(compiled.FLAGS[:2])}")
    with pinned():
        for size in LATENCY_SIZES:
            show(f"latency {format_bytes(size)}", latency(ours, reference, size), 0.05)
        for size in TRIAD_SIZES:
            show(f"triad {format_bytes(size)}", triad(ours, reference, size), 0.10)
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
    print(
        f"{name:16} ours {ours.min * 1e9:8.4f} ns, cc {theirs.min * 1e9:8.4f} ns"
        f"   ratio of minima {ratio:.3f}, of medians {ours.median / theirs.median:.3f}  {verdict}"
    )


def latency(ours: Loops, reference: Loops, size: int) -> list[Timing]:
    """Nanoseconds a hop over the same linked lines."""
    buffer = memory.Buffer(size, small_pages=True)
    cache_latency.link(buffer, size, np.random.default_rng(1))
    variants = []
    for name, loops in (("ours", ours), ("cc", reference)):
        chase = cache_latency.Chase(loops, buffer.address, size)
        n = repeats_for(chase.window)
        variants.append(Variant(name, lambda chase=chase, n=n: chase.window(n), n * loops.unroll))
    return measure(variants, Effort(BUDGET_S, target=NEVER))


def triad(ours: Loops, reference: Loops, size: int) -> list[Timing]:
    """Nanoseconds a byte (STREAM's count) over the same arrays, one thread."""
    buffer = memory.Buffer(memory.buffer_bytes(size))
    buffer.view(np.float64).fill(1.0)
    elements = size // 24
    a, b, c = (buffer.address + offset for offset in memory.array_offsets(size, 3))
    variants = []
    for name, loops in (("ours", ours), ("cc", reference)):
        loop = loops.stream[TRIAD]

        def window(n: int, loop=loop) -> float:
            return timed(lambda: loop(a, b, c, elements, n, None, 3.0))()

        n = repeats_for(window)
        variants.append(Variant(name, lambda window=window, n=n: window(n), n * elements * 24))
    return measure(variants, Effort(BUDGET_S, target=NEVER))


def ceiling_of(context: Context, precision: precisions.Precision) -> float:
    """FLOP/s in about half the time a full run takes for it."""
    candidates = matmul.screen(context, HostTimer(), precision, matmul.CPU_SHAPES, 3.0)
    return matmul.final(context, HostTimer(), precision, candidates, 6.0).value


def matmul_rates(device: environment.Device) -> tuple[float, float, tuple[int, int, int]]:
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
