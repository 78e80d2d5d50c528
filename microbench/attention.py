"""What rate does attention reach, composed of operators as people write it, and as one operator?

Method: `naive` is matmul, scale, softmax, matmul, and writes the scores of every pair of positions to memory; `sdpa` is
`F.scaled_dot_product_attention`, which on a CPU need not. One batch, 4 heads of 64, no mask, no dropout, random inputs,
all threads; sequences double from 128. `forward` runs without autograd, `forward+backward` to the gradients of q, k
and v. Both implementations are timed in turn on the same inputs and their results compared.

The count is that of the products, 4·B·H·S²·D forward (two products) and 2.5 times that backward (five: sdpa computes
the scores again), as torch.utils.flop_counter counts sdpa_flop and sdpa_backward_flop. The naive backward is credited
with the same, though it keeps the scores and needs only four: the rates compare as the times do.

`crossover` is the shortest sequence whose scores exceed the last-level caches and from which on sdpa is faster by more
than the intervals of the medians; its interval begins with the sequence before.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from probe.errors import UnavailableError
from probe.measurement import Measurement
from probe.microbench import memory
from probe.microbench.harness import Effort, Timing, Variant, measure, repeats_for
from probe.microbench.precisions import available
from probe.microbench.suite import Context, rate_measurement
from probe.microbench.timers import Timer, timer_for, torch_device
from probe.units import format_bytes

NAME = "attention"
BATCH, HEADS, HEAD_DIM = 1, 4, 64
SEQUENCES, SEQUENCES_QUICK = (128, 256, 512, 1024, 2048, 4096), (128, 512, 1024, 2048)
FORWARD, BOTH = "forward", "forward+backward"
NAIVE, SDPA = "naive", "sdpa"
FORWARD_PRODUCTS, BACKWARD_PRODUCTS = 2, 5
SCORES_ALIVE = {FORWARD: 2, BOTH: 4}  # score matrices that naive holds at once
TRIAL_SEQUENCE, TRIALS = 512, 3  # whose time says what the others will take
LEAST_WINDOWS = 6
WHOLE_BUDGET = 0.0  # a target never met: threads that share a core with a neighbour are slow as steadily as quiet ones
PREPARING = 3  # calls of each beside the windows: to compare, to see how many fill a window, to warm up
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}  # difference over the largest result; rounding stays far below
SEED = 20260103  # the same inputs in every run
Call = Callable[[], tuple[Any, ...]]
Kind = tuple[str, str]  # direction and dtype: what takes the same time a FLOP, more or less
Pair = tuple[Measurement, Measurement]  # naive and sdpa


@dataclass(frozen=True)
class Point:
    """One question of the sweep."""

    sequence: int
    direction: str
    dtype: str

    @property
    def kind(self) -> Kind:
        """Direction and dtype."""
        return (self.direction, self.dtype)

    @property
    def flops(self) -> int:
        """The count of one call, as in the module's docstring."""
        products = FORWARD_PRODUCTS + (BACKWARD_PRODUCTS if self.direction == BOTH else 0)
        return products * 2 * BATCH * HEADS * self.sequence**2 * HEAD_DIM

    @property
    def score_bytes(self) -> int:
        """The matrix of scores that naive writes."""
        return BATCH * HEADS * self.sequence**2 * (4 if self.dtype == "float32" else 2)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of q, k and v."""
        return (BATCH, HEADS, self.sequence, HEAD_DIM)


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
    params = {
        "implementation": timing.name,
        "direction": point.direction,
        "sequence": point.sequence,
        "heads": HEADS,
        "head_dim": HEAD_DIM,
        "batch": BATCH,
        "shape": list(point.shape),
        "dtype": point.dtype,
        "time_s": {"min": timing.seconds.min * point.flops, "median": timing.seconds.median * point.flops},
        "score_bytes": point.score_bytes,
        **more,
    }
    name = f"{timing.name} {point.direction}"
    return rate_measurement(NAME, name, "flops_per_s", "FLOP/s", timing, params, flags=flags)


def calls(point: Point, where: str) -> dict[str, Call]:
    """What is timed at `point` on torch device `where`: each call hands back the output, and then the gradients."""
    import torch

    generator = torch.Generator(where).manual_seed(SEED)
    q, k, v, upstream = (
        torch.randn(point.shape, generator=generator, device=where).to(getattr(torch, point.dtype)) for _ in range(4)
    )
    backward = point.direction == BOTH
    inputs = tuple(tensor.requires_grad_(backward) for tensor in (q, k, v))

    def call(implementation: Callable[..., Any]) -> tuple[Any, ...]:
        with torch.set_grad_enabled(backward):
            output = implementation(*inputs)
        return (output.detach(), *(torch.autograd.grad(output, inputs, upstream) if backward else ()))

    ways: dict[str, Callable[..., Any]] = {NAIVE: naive, SDPA: torch.nn.functional.scaled_dot_product_attention}
    return {name: functools.partial(call, implementation) for name, implementation in ways.items()}


def naive(q: Any, k: Any, v: Any) -> Any:
    """Attention as people write it: softmax(q kᵀ / √d) v."""
    import torch

    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
    return torch.matmul(torch.softmax(scores, dim=-1), v)


def largest_difference(results: Sequence[Any], others: Sequence[Any]) -> float:
    """The largest difference of any element over the largest value of its tensor."""
    pairs = zip(results, others, strict=True)
    return max(float((one - other).abs().max() / one.abs().max()) for one, other in pairs)


def crossovers(context: Context, found: Sequence[Measurement]) -> Iterator[Measurement]:
    """One measurement a direction and dtype, metric `crossover`, in tokens; a warning where there is none."""
    cached = memory.total_cache_bytes(context.device) if context.index is None else context.device.l2_bytes or 0
    for direction, dtype in dict.fromkeys((m.params["direction"], m.params["dtype"]) for m in found):
        of_kind = [m for m in found if (m.params["direction"], m.params["dtype"]) == (direction, dtype)]
        pairs = list(zip(of_kind[::2], of_kind[1::2], strict=True))
        first = crossover_index(pairs, cached)
        if first is None:
            why = _why_none(pairs, cached)
            context.warnings.append(f"{NAME}: no crossover for {direction} {dtype}: {why}")
        else:
            yield _crossover(pairs, first, cached)


def crossover_index(pairs: Sequence[Pair], cached: int) -> int | None:
    """The first of the pairs (naive, sdpa) from which on the scores exceed `cached` bytes and sdpa is faster."""
    first = None
    for index, (slow, fast) in reversed(list(enumerate(pairs))):
        if not (0 < cached < slow.params["score_bytes"] and fast.interval[0] > slow.interval[1]):
            break
        first = index
    return first


def _why_none(pairs: Sequence[Pair], cached: int) -> str:
    if not cached:
        return "the system reports no caches"
    longest = pairs[-1][0].params
    if longest["score_bytes"] <= cached:
        scores = f"the {format_bytes(longest['score_bytes'])} of scores at sequence {longest['sequence']}"
        return f"{scores}, the longest measured, fit the {format_bytes(cached)} of the last-level caches"
    return f"sdpa is not faster by more than the intervals at sequence {longest['sequence']}"


def _crossover(pairs: Sequence[Pair], first: int, cached: int) -> Measurement:
    slow, fast = pairs[first]
    sequence = float(slow.params["sequence"])
    before = float(pairs[first - 1][0].params["sequence"]) if first else sequence
    copied = ("direction", "heads", "head_dim", "batch", "dtype", "score_bytes", "threads")
    params = {key: slow.params[key] for key in copied}
    params |= {"last_level_cache_bytes": cached, "speedup": fast.median / slow.median}
    name, n = f"crossover {slow.params['direction']}", min(slow.n, fast.n)
    return Measurement(NAME, name, "crossover", "tokens", sequence, sequence, sequence, (before, sequence), n, params)
