"""What rate does attention reach, composed of operators as people write it, and as one operator?

Method: `naive` is matmul, scale, softmax, matmul, and writes the scores of every pair of positions to memory; `sdpa` is
`F.scaled_dot_product_attention`, which on a CPU need not. One batch, 4 heads of 64, no mask, no dropout, random inputs,
all threads; sequences double from 128. `forward` runs without autograd, `forward+backward` to the gradients of q, k
and v. Both implementations are timed in turn on the same inputs and their results compared.

The count is that of the products (attention_work.py).

`crossover` is the shortest sequence whose scores exceed the last-level caches and from which on sdpa is faster by more
than the intervals of the medians; its interval begins with the sequence before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from probe.errors import UnavailableError
from probe.microbench import memory
from probe.microbench.attention_work import BOTH as BOTH  # one import gives a caller all that points are made of
from probe.microbench.attention_work import FORWARD as FORWARD
from probe.microbench.attention_work import (
    NAIVE,
    NAME,
    SCORES_ALIVE,
    SDPA,
    Call,
    Point,
    call_of,
    crossover,
    crossover_index,
    described,
    largest_difference,
    naive,
    why_no_crossover,
)
from probe.microbench.attention_work import SEED as SEED
from probe.microbench.harness import Effort, Timing, Variant, measure, repeats_for
from probe.microbench.precisions import available
from probe.microbench.suite import Context, rate_measurement
from probe.microbench.timers import Timer, timer_for, torch_device
from probe.results.measurement import Measurement
from probe.units import format_bytes

SEQUENCES, SEQUENCES_QUICK = (128, 256, 512, 1024, 2048, 4096), (128, 512, 1024, 2048)
TRIAL_SEQUENCE, TRIALS = 512, 3  # whose time says what the others will take
LEAST_WINDOWS = 6
WHOLE_BUDGET = 0.0  # a target never met: threads that share a core with a neighbour are slow as steadily as quiet ones
PREPARING = 3  # calls of each beside the windows: to compare, to see how many fill a window, to warm up
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}  # difference over the largest result; rounding stays far below
Kind = tuple[str, str]  # direction and dtype: what takes the same time a FLOP, more or less


def run(context: Context, timer: Timer | None = None) -> Iterator[Measurement]:
    """Metric `flops_per_s`, in FLOP/s, for each sequence, direction and implementation; then each `crossover`.

    Raises UnavailableError where not even the shortest sequence fits in memory.
    """
    import torch  # noqa: F401  # its import takes longer than a quick run; it is no part of the budget

    timer = timer or timer_for(context)
    started = context.clock()
    remaining, found = points(context), list[Measurement]()
    pace = {kind: _trial(context, timer, kind) for kind in dict.fromkeys(p.kind for p in remaining)}
    while remaining:
        left_s = context.budget_s - (context.clock() - started)
        shares = planned(remaining, pace, left_s)
        if not shares and found:
            break
        context.report(len(found) / (len(found) + 2 * max(1, len(shares))))
        point = remaining.pop(0)
        pair = _measured(context, timer, point, shares.get(point, left_s))
        pace[point.kind] = sum(1 / m.value for m in pair)  # the best: a disturbed median would rule out too much
        yield from pair
        found += pair
    _warn(context, remaining, f"{LEAST_WINDOWS} windows of each take longer than the {context.budget_s:g} s there are")
    yield from crossovers(context, found)
    context.report(1.0)


def points(context: Context) -> list[Point]:
    """What is asked, least work first; what does not fit in the free memory is left out with a warning."""
    dtypes = [p.name for p in available(context.device) if p.name in TOLERANCE and not p.emulated]
    sequences = SEQUENCES_QUICK if context.quick else SEQUENCES
    wanted = [Point(s, direction, dtype) for s in sequences for direction in SCORES_ALIVE for dtype in dtypes]
    free = memory.free_bytes()
    fitting = [p for p in wanted if memory.affordable((SCORES_ALIVE[p.direction] * p.score_bytes,), free)]
    if not fitting:
        raise UnavailableError(f"too little memory is free: {format_bytes(wanted[0].score_bytes)} of scores do not fit")
    _warn(context, [p for p in wanted if p not in fitting], "too little memory is free")
    return sorted(fitting, key=lambda p: p.flops)


def planned(remaining: Sequence[Point], pace: Mapping[Kind, float], left_s: float) -> dict[Point, float]:
    """The points, from the first on, that can be measured in `left_s`, each with its share in seconds.

    A share is what the least number of windows takes at the `pace` (seconds a FLOP, both implementations together),
    and an equal part of what is left over; points beyond have their part too, for the pace may turn out better.
    """
    needed: dict[Point, float] = {}
    spare_s = left_s
    for point in remaining:
        least_s = pace[point.kind] * point.flops * (LEAST_WINDOWS + PREPARING)
        if least_s > spare_s:
            break
        needed[point] = least_s
        spare_s -= least_s
    return {point: least_s + spare_s / len(remaining) for point, least_s in needed.items()}


def _warn(context: Context, left_out: Sequence[Point], reason: str) -> None:
    """Say what is left out; a quick run is expected to leave out what takes long."""
    names = ", ".join(f"{p.sequence} {p.direction} {p.dtype}" for p in left_out)
    if names and not (context.quick and "windows" in reason):
        context.warnings.append(f"{NAME}: sequence {names} left out: {reason}")


def _trial(context: Context, timer: Timer, kind: Kind) -> float:
    """Seconds a FLOP of a point of this kind, both implementations together: the shortest of a few calls each."""
    point = Point(TRIAL_SEQUENCE, *kind)
    both = calls(point, torch_device(context)).values()
    return sum(min(timer.window(call, 1) for _ in range(TRIALS)) for call in both) / point.flops


def _measured(context: Context, timer: Timer, point: Point, share_s: float) -> list[Measurement]:
    """Both implementations in turn, naive first."""
    import torch

    both = calls(point, torch_device(context))
    difference = largest_difference(*(call() for call in both.values()))
    variants = [_variant(timer, name, call, point) for name, call in both.items()]
    timings = measure(variants, Effort(share_s, target=WHOLE_BUDGET, least=LEAST_WINDOWS), context.clock)
    right = difference <= TOLERANCE[point.dtype]
    if not right:
        said = f"sequence {point.sequence} {point.direction} {point.dtype}"
        context.warnings.append(f"{NAME}: naive and sdpa differ by {difference:.2g} of the largest value at {said}")
    params = {
        "max_difference_fraction": difference,
        "threads": torch.get_num_threads() if context.index is None else None,
    }
    flags = () if right else ("wrong-result",)
    return [_rate(point, timing, params, flags) for timing in timings]


def _variant(timer: Timer, name: str, call: Call, point: Point) -> Variant:
    count = repeats_for(lambda n: timer.window(call, n))
    return Variant(name, lambda: timer.window(call, count), count * point.flops)


def _rate(point: Point, timing: Timing, more: dict[str, Any], flags: tuple[str, ...]) -> Measurement:
    name = f"{timing.name} {point.direction}"
    return rate_measurement(NAME, name, "flops_per_s", "FLOP/s", timing, described(point, timing) | more, flags=flags)


def calls(point: Point, where: str) -> dict[str, Call]:
    """What is timed at `point` on torch device `where`: each call hands back the output, and then the gradients."""
    import torch

    call = call_of(point, where)
    ways: dict[str, Callable[..., Any]] = {NAIVE: naive, SDPA: torch.nn.functional.scaled_dot_product_attention}
    return {name: functools.partial(call, implementation) for name, implementation in ways.items()}


def crossovers(context: Context, found: Sequence[Measurement]) -> Iterator[Measurement]:
    """One measurement a direction and dtype, metric `crossover`, in tokens; a warning where there is none."""
    cached = memory.total_cache_bytes(context.device) if context.index is None else context.device.l2_bytes or 0
    for direction, dtype in dict.fromkeys((m.params["direction"], m.params["dtype"]) for m in found):
        of_kind = [m for m in found if (m.params["direction"], m.params["dtype"]) == (direction, dtype)]
        pairs = list(zip(of_kind[::2], of_kind[1::2], strict=True))
        first = crossover_index(pairs, cached)
        if first is None:
            why = why_no_crossover(pairs, cached)
            context.warnings.append(f"{NAME}: no crossover for {direction} {dtype}: {why}")
        else:
            yield crossover(pairs, first, cached)
