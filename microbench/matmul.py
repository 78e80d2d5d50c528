"""How many operations per second does a matrix product reach, for each number format?

Method: torch.mm (torch._int_mm, torch._scaled_mm) with all threads on random matrices. Square and rectangular shapes
of growing size are screened until one product takes too long; the best few are then measured in turn, and the
shortest window of the best of them is the ceiling: 2 m k n / time. A format without instructions of its own is
flagged `emulated`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from probe.errors import UnavailableError
from probe.kernels.cpu import machine_code
from probe.measurement import Measurement
from probe.microbench.harness import TARGET_FRACTION, Effort, Timing, Variant, measure, paced, repeats_for, timed
from probe.microbench.precisions import Precision, Shape, arithmetic, available, product
from probe.microbench.suite import Context, rate_measurement
from probe.microbench.timers import Timer, timer_for, torch_device

NAME = "matmul"
CPU_SHAPES: tuple[Shape, ...] = (
    (64, 64, 64),
    (128, 128, 128),
    (192, 192, 192),
    (256, 256, 256),
    (384, 384, 384),
    (256, 1024, 256),
    (512, 512, 512),
    (1024, 256, 1024),
    (768, 768, 768),
    (1024, 1024, 1024),
    (1536, 1536, 1536),
    (2048, 2048, 2048),
    (4096, 4096, 4096),
)
CUDA_SHAPES: tuple[Shape, ...] = (
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (3072, 3072, 3072),
    (4096, 4096, 4096),
    (4096, 8192, 4096),
    (8192, 4096, 8192),
    (6144, 6144, 6144),
    (8192, 8192, 8192),
    (10240, 10240, 10240),
    (16384, 16384, 16384),
)
LONGEST_S, LONGEST_QUICK_S = 0.25, 0.05  # one product; larger shapes are not tried
SCREENING_SHARE = 0.5
FINALISTS = 4
CLOSE_FRACTION = 0.75  # of the best rate in the screening: on a busy machine the true best may have looked like that
SHORT_WINDOW_S, SHORT_FRACTION = 2e-3, 0.5
WHOLE_BUDGET = 0.0  # a target never met: threads that share a core with a neighbour are slow as steadily as quiet ones
CLEARLY_BETTER = 1.02  # a screening this much faster than the final: the machine has become busy since


@dataclass(frozen=True)
class Candidate:
    """A shape, how many products fill a window, and what the screening saw (seconds per operation)."""

    shape: Shape
    calls: int
    timing: Timing

    @property
    def flops_per_s(self) -> float:
        """The best rate the screening saw."""
        return 1 / self.timing.seconds.min


def run(context: Context, timer: Timer | None = None) -> Iterator[Measurement]:
    """One measurement a number format, metric `flops_per_s`, in FLOP/s.

    All formats are screened before the first is measured, so that a bad moment does not meet one format alone.
    """
    timer = timer or timer_for(context)
    started = context.clock()
    shapes = CPU_SHAPES if context.index is None else CUDA_SHAPES
    screened: dict[Precision, list[Candidate]] = {}
    formats = available(context.device)
    screening_s = context.budget_s * SCREENING_SHARE
    for precision, share_s in paced(formats, screening_s, context.clock, lambda f: context.report(f / 2)):
        try:
            screened[precision] = screen(context, timer, precision, shapes, share_s)
        except (RuntimeError, NotImplementedError) as failed:  # torch has no such product for this device
            context.warnings.append(f"matmul: {precision.name} failed: {str(failed).splitlines()[0]}")
    left_s = context.budget_s - (context.clock() - started)
    in_order = sorted(
        screened, key=lambda p: (not p.emulated, p.name == "float32")
    )  # what settles soon leaves its time
    for precision, share_s in paced(in_order, left_s, context.clock, lambda f: context.report((1 + f) / 2)):
        yield final(context, timer, precision, screened[precision], share_s)


def screen(
    context: Context, timer: Timer, precision: Precision, shapes: tuple[Shape, ...], budget_s: float
) -> list[Candidate]:
    """A first look at each shape, smallest product first, until one takes too long."""
    longest_s = LONGEST_QUICK_S if context.quick else LONGEST_S
    found: list[Candidate] = []
    for shape, share_s in paced(shapes, budget_s, context.clock):
        try:
            candidate = _screen_one(context, timer, precision, shape, share_s)
        except RuntimeError:  # out of memory: what fits has been tried; a format torch lacks fails at the first shape
            if not found:
                raise
            break
        found.append(candidate)
        if 2 * math.prod(shape) / candidate.flops_per_s > longest_s:  # its own time: small shapes say little when busy
            break
    return found


def _screen_one(context: Context, timer: Timer, precision: Precision, shape: Shape, share_s: float) -> Candidate:
    with arithmetic(precision):
        call = product(precision, shape, torch_device(context))
        calls = repeats_for(lambda n: timer.window(call, n))
        variant = _variant(timer, call, shape, calls)
        [timing] = measure([variant], Effort(share_s, least=2, target=0.02), context.clock)
    return Candidate(shape, calls, timing)


def _may_be_best(candidate: Candidate, rank: int, best: float) -> bool:
    """Close to the best, or short: on a busy machine a short window is the likelier to be left alone."""
    window_s = candidate.calls * 2 * math.prod(candidate.shape) / candidate.flops_per_s
    close = rank < FINALISTS and candidate.flops_per_s >= CLOSE_FRACTION * best
    return close or (window_s <= SHORT_WINDOW_S and candidate.flops_per_s >= SHORT_FRACTION * best)


def _variant(timer: Timer, call: Callable[[], object], shape: Shape, calls: int) -> Variant:
    return Variant(str(shape), lambda: timer.window(call, calls), 2 * math.prod(shape) * calls)


def final(
    context: Context, timer: Timer, precision: Precision, candidates: list[Candidate], budget_s: float
) -> Measurement:
    """The best rate of the best few shapes, measured in turn; the screening's own where that was better still."""
    import torch

    ranked = sorted(candidates, key=lambda candidate: -candidate.flops_per_s)
    finalists = [c for i, c in enumerate(ranked) if _may_be_best(c, i, ranked[0].flops_per_s)]
    with arithmetic(precision):
        calls = [product(precision, c.shape, torch_device(context)) for c in finalists]
        variants = [_variant(timer, call, c.shape, c.calls) for call, c in zip(calls, finalists, strict=True)]
        target = TARGET_FRACTION if precision.emulated else WHOLE_BUDGET
        timings = measure(variants, Effort(budget_s, target=target, least=6), context.clock)
    pairs = [(c.shape, timing) for c, timing in zip(finalists, timings, strict=True)]
    shape, timing = min(pairs, key=lambda pair: pair[1].seconds.min)
    if ranked[0].flops_per_s * timing.seconds.min > CLEARLY_BETTER:
        shape, timing = ranked[0].shape, ranked[0].timing
    params = {
        "dtype": precision.name,
        "shape": list(shape),
        "api": precision.api,
        "threads": torch.get_num_threads() if context.index is None else None,
        "shapes_tried": len(candidates),
    }
    proof = fma_peak(context) if precision.name == "float32" and context.index is None else None
    flags = ("emulated",) if precision.emulated else ()
    name = f"matmul {precision.name}"
    return rate_measurement(NAME, name, "flops_per_s", "FLOP/s", timing, params, flags=flags, proof=proof)


def fma_peak(context: Context) -> dict[str, Any] | None:
    """What one core's FMA units reach in a loop of nothing else (float32), beside which to read the product's rate."""
    try:
        loops = machine_code.load(context.device.isa)
    except UnavailableError:
        return None
    if loops.fma is None:
        return None
    fma = loops.fma
    n = repeats_for(lambda n: timed(lambda: fma(0, n))())
    variant = Variant("fma", timed(lambda: fma(0, n)), n * loops.fma_flops)
    [timing] = measure([variant], Effort(0.1), context.clock)
    return {
        "fma_loop_flops_per_s_per_core": 1 / timing.seconds.min,
        "instruction_set": loops.instruction_set,
        "origin": loops.origin,
    }
