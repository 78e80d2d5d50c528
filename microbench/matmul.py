"""How many operations per second does a matrix product reach, for each number format?

Method: torch.mm (torch._int_mm, torch._scaled_mm) on random matrices, on a CPU with all threads. Square and rectangular
shapes of growing size are screened until one product takes too long or too much memory; the best few are then measured
in turn, and the shortest window of the best of them is the ceiling: 2 m k n / time. A format without instructions of
its own is flagged `emulated`. On a GPU the second matrix is also laid out by columns, as a linear layer's weight lies
(`params.layout`); the clock and the power that held stand beside the rate, because large products of random numbers
draw so much power that many GPUs lower their clock. float8 is accumulated as fast as the hardware can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from probe.errors import UnavailableError
from probe.kernels.cpu import machine_code
from probe.microbench import harness
from probe.microbench.cuda import matmul_shapes
from probe.microbench.cuda.matmul_shapes import Limits
from probe.microbench.cuda.watch import Conditions, Meter, Watch, meter_of
from probe.microbench.harness import TARGET_FRACTION, Effort, Timing, Variant, measure, paced, repeats_for, timed
from probe.microbench.precisions import ROWS, Precision, Shape, arithmetic, available, product, rounds_to_tf32
from probe.microbench.suite import Context, rate_measurement
from probe.microbench.timers import EnqueueTimer, Timer, timer_for, torch_device
from probe.results.measurement import Measurement

NAME = "matmul"
CPU_SHAPES: tuple[Shape, ...] = (
    (64, 64, 64),
    (128, 128, 128),
    (192, 192, 192),
    (256, 256, 256),
    (384, 384, 384),
    (256, 1024, 256),
    (512, 256, 512),
    (512, 512, 512),
    (640, 320, 640),
    (640, 640, 640),
    (1024, 256, 1024),
    (768, 768, 768),
    (1024, 1024, 1024),
    (1536, 1536, 1536),
    (2048, 2048, 2048),
    (4096, 4096, 4096),
)
LONGEST_S, LONGEST_QUICK_S = 0.25, 0.05  # one product; larger shapes are not tried
SCREENING_SHARE = 0.5
FINALISTS, CUDA_FINALISTS = 4, 3  # on a GPU each is measured in both layouts
CLOSE_FRACTION = 0.75  # of the best rate in the screening: on a busy machine the true best may have looked like that
SHORT_WINDOW_S, SHORT_FRACTION = 2e-3, 0.5
WHOLE_BUDGET = 0.0  # a target never met: threads that share a core with a neighbour are slow as steadily as quiet ones
CLEARLY_BETTER = 1.02  # a screening this much faster than the final: the machine has become busy since
HOST_BOUND = 0.5  # of a product's time that the host needs to enqueue it: from there on the device may have waited
MOST_ENQUEUED = 64  # products to learn that from


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


@dataclass(frozen=True)
class Way:
    """One way to ask for a finalist's product: how the second matrix lies, the call, and what it took."""

    candidate: Candidate
    layout: str
    call: Callable[[], object]


def run(context: Context, timer: Timer | None = None) -> Iterator[Measurement]:
    """One measurement a number format, metric `flops_per_s`, in FLOP/s.

    All formats are screened before the first is measured, so that a bad moment does not meet one format alone.
    Raises UnavailableError where a GPU multiplied nothing.
    """
    timer = timer or timer_for(context)
    found = 0
    try:
        for measurement in _measured(context, timer):
            found += 1
            yield measurement
    finally:
        if context.index is not None:
            matmul_shapes.give_back()
    if context.index is not None and not found:
        raise UnavailableError(f"no matrix product ran on {context.device.name}: {context.warnings[-1]}")


def _measured(context: Context, timer: Timer) -> Iterator[Measurement]:
    """The final of every format whose screening found something."""
    started = context.clock()
    screened = _screened(context, timer)
    left_s = context.budget_s - (context.clock() - started)
    in_order = sorted(
        screened, key=lambda p: (not p.emulated, p.name == "float32")
    )  # what settles soon leaves its time
    with meter_of(context.index if context.device.kind == "cuda" else None) as meter:
        for precision, share_s in paced(in_order, left_s, context.clock, lambda f: context.report((1 + f) / 2)):
            try:
                measurement = final(context, timer, precision, screened[precision], share_s, meter)
            except RuntimeError as failed:  # a GPU on which memory became short, or which was lost
                context.warnings.append(f"matmul: {precision.name} failed: {_first_line(failed)}")
            else:
                yield measurement


def _screened(context: Context, timer: Timer) -> dict[Precision, list[Candidate]]:
    """What the screening found for each format; a warning for each that failed."""
    shapes = CPU_SHAPES if context.index is None else matmul_shapes.shapes(context)
    found: dict[Precision, list[Candidate]] = {}
    formats = available(context.device)
    budget_s = context.budget_s * SCREENING_SHARE
    for precision, share_s in paced(formats, budget_s, context.clock, lambda f: context.report(f / 2)):
        try:
            _require_arithmetic(context, precision)
            found[precision] = screen(context, timer, precision, shapes, share_s)
        except (RuntimeError, NotImplementedError, UnavailableError) as failed:  # torch has no such product here
            context.warnings.append(f"matmul: {precision.name} failed: {_first_line(failed)}")
    return found


def _first_line(failed: BaseException) -> str:
    return next(iter(str(failed).splitlines()), type(failed).__name__)


def _require_arithmetic(context: Context, precision: Precision) -> None:
    """Raise UnavailableError where a GPU's float32 products are not in the arithmetic that is to be measured."""
    if context.index is None or precision.name not in ("float32", "tf32"):
        return
    with arithmetic(precision):
        rounded = rounds_to_tf32(torch_device(context))
    if rounded != (precision.name == "tf32"):
        does = "rounds to TF32" if rounded else "does not use TF32"
        raise UnavailableError(f"torch.mm {does} whatever torch is told; unset NVIDIA_TF32_OVERRIDE")


def limits_of(context: Context) -> Limits:
    """The bounds of the search on the context's device, with its memory as it is now."""
    longest_s = LONGEST_QUICK_S if context.quick else LONGEST_S
    if context.index is None:
        return Limits(harness.WINDOW_S, longest_s)
    window_s = matmul_shapes.QUICK_WINDOW_S if context.quick else matmul_shapes.WINDOW_S
    return Limits(window_s, longest_s, matmul_shapes.room_bytes(context.index), foreseen=True)


def screen(
    context: Context, timer: Timer, precision: Precision, shapes: tuple[Shape, ...], budget_s: float
) -> list[Candidate]:
    """A first look at each shape, smallest product first, until one takes too long."""
    limits, best = limits_of(context), 0.0
    found: list[Candidate] = []
    for shape, share_s in paced(shapes, budget_s, context.clock):
        if limits.too_large(precision, shape):
            continue
        if limits.too_long(shape, best):
            break
        try:
            candidate = _screen_one(context, timer, precision, shape, share_s, limits)
        except RuntimeError:  # out of memory: what fits has been tried; a format torch lacks fails at the first shape
            if not found:
                raise
            break
        found.append(candidate)
        best = max(best, candidate.flops_per_s)
        took_s = 2 * math.prod(shape) / candidate.flops_per_s
        if took_s > limits.longest_s:  # its own time: small shapes say little when busy
            break
    if not found:
        raise UnavailableError("too little memory is free for the smallest shape; end other processes on the device")
    return found


def _screen_one(
    context: Context, timer: Timer, precision: Precision, shape: Shape, share_s: float, limits: Limits
) -> Candidate:
    with arithmetic(precision):
        call = product(precision, shape, torch_device(context), _layouts(context, precision)[0])
        if context.index is not None:  # the first loads the kernel, which may take longer than a hundred windows
            timer.window(call, 1)
        calls = repeats_for(lambda n: timer.window(call, n), limits.window_s)
        variant = _variant(timer, call, shape, calls)
        effort = Effort(share_s, least=2, target=0.02)
        [timing] = measure([variant], effort, context.clock, on_host=context.index is None)
    return Candidate(shape, calls, timing)


def _layouts(context: Context, precision: Precision) -> tuple[str, ...]:
    return (ROWS,) if context.index is None else precision.layouts


def _may_be_best(context: Context, candidate: Candidate, rank: int, best: float) -> bool:
    """Close to the best, or short: on a busy machine a short window is the likelier to be left alone."""
    if context.index is not None:
        return rank < CUDA_FINALISTS and candidate.flops_per_s >= CLOSE_FRACTION * best
    window_s = candidate.calls * 2 * math.prod(candidate.shape) / candidate.flops_per_s
    close = rank < FINALISTS and candidate.flops_per_s >= CLOSE_FRACTION * best
    return close or (window_s <= SHORT_WINDOW_S and candidate.flops_per_s >= SHORT_FRACTION * best)


def _variant(timer: Timer, call: Callable[[], object], shape: Shape, calls: int) -> Variant:
    return Variant(str(shape), lambda: timer.window(call, calls), 2 * math.prod(shape) * calls)


def final(
    context: Context,
    timer: Timer,
    precision: Precision,
    candidates: list[Candidate],
    budget_s: float,
    meter: Meter | None = None,
) -> Measurement:
    """The best rate of the best few shapes, measured in turn; on a CPU the screening's own where that was better still.

    A GPU's screening is no result: it is shorter than the time after which power lowers the clock.
    """
    ranked = sorted(candidates, key=lambda candidate: -candidate.flops_per_s)
    finalists = [c for i, c in enumerate(ranked) if _may_be_best(context, c, i, ranked[0].flops_per_s)]
    with arithmetic(precision):
        ways = _ways(context, precision, finalists)
        variants = [_variant(timer, way.call, way.candidate.shape, way.candidate.calls) for way in ways]
        target = TARGET_FRACTION if precision.emulated else WHOLE_BUDGET
        with Watch(meter) as watch:
            effort = Effort(budget_s, target=target, least=6)
            timings = measure(variants, effort, context.clock, on_host=context.index is None)
        way, timing = min(zip(ways, timings, strict=True), key=lambda pair: pair[1].seconds.min)
        late = _is_launch_bound(context, way, timing)
    if context.index is None and ranked[0].flops_per_s * timing.seconds.min > CLEARLY_BETTER:
        way, timing = Way(ranked[0], ROWS, way.call), ranked[0].timing
    flags = ("emulated",) * precision.emulated + ("launch-bound",) * late
    return _row(context, precision, way, timing, len(candidates), watch.conditions, flags)


def _ways(context: Context, precision: Precision, finalists: list[Candidate]) -> list[Way]:
    """The calls of the finalists, the best first, in all layouts; as many as fit in memory together, one at least."""
    room, taken = limits_of(context).room_bytes, 0
    found: list[Way] = []
    for layout in _layouts(context, precision):
        for candidate in finalists:
            taken += precision.memory_bytes(candidate.shape)
            if found and room is not None and taken > room:
                return found
            found.append(Way(candidate, layout, product(precision, candidate.shape, torch_device(context), layout)))
    return found


def _is_launch_bound(context: Context, way: Way, timing: Timing) -> bool:
    """Whether enqueuing a product takes the host so long that a GPU may have waited for it."""
    if context.index is None:
        return False
    calls = max(1, min(way.candidate.calls, MOST_ENQUEUED))
    each_s = EnqueueTimer(context.index).window(way.call, calls) / calls
    return each_s > HOST_BOUND * timing.seconds.median * 2 * math.prod(way.candidate.shape)


def _row(
    context: Context,
    precision: Precision,
    way: Way,
    timing: Timing,
    tried: int,
    conditions: Conditions,
    flags: tuple[str, ...],
) -> Measurement:
    import torch

    params: dict[str, Any] = {
        "dtype": precision.name,
        "shape": list(way.candidate.shape),
        "api": precision.api,
        "threads": torch.get_num_threads() if context.index is None else None,
        "shapes_tried": tried,
    }
    proof = fma_peak(context) if precision.name == "float32" and context.index is None else None
    if context.index is not None:
        params |= {"layout": way.layout, "products_a_window": way.candidate.calls, **conditions.params}
    name = f"matmul {precision.name}"
    flags = (*flags, *(flag for flag in conditions.flags if flag not in timing.flags))
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
