"""What is one question about attention: which tensors, how many operations, by hand how, and where do others win?

Shared by the suites of the CPU and of CUDA devices.

The count is that of the products, 4·B·H·S²·D forward (two products) and 2.5 times that backward (five: sdpa computes
the scores again), as torch.utils.flop_counter counts sdpa_flop and sdpa_backward_flop. The naive backward is credited
with the same, though it keeps the scores and needs only four: the rates compare as the times do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from probe.microbench.harness import Timing
from probe.results.measurement import Measurement
from probe.units import format_bytes

NAME = "attention"
FORWARD, BOTH = "forward", "forward+backward"
NAIVE, SDPA = "naive", "sdpa"
FORWARD_PRODUCTS, BACKWARD_PRODUCTS = 2, 5
SCORES_ALIVE = {FORWARD: 2, BOTH: 4}  # score matrices that naive holds at once
SEED = 20260103  # the same inputs in every run
Call = Callable[[], tuple[Any, ...]]
Pair = tuple[Measurement, Measurement]  # naive and what is held against it


@dataclass(frozen=True)
class Point:
    """One question of a sweep."""

    sequence: int
    direction: str
    dtype: str
    batch: int = 1
    heads: int = 4
    head_dim: int = 64

    @property
    def kind(self) -> tuple[str, str]:
        """Direction and dtype: what takes the same time a FLOP, more or less."""
        return (self.direction, self.dtype)

    @property
    def flops(self) -> int:
        """The count of one call, as in the module's docstring."""
        products = FORWARD_PRODUCTS + (BACKWARD_PRODUCTS if self.direction == BOTH else 0)
        return products * 2 * self.batch * self.heads * self.sequence**2 * self.head_dim

    @property
    def score_bytes(self) -> int:
        """The matrix of scores that naive writes."""
        return self.batch * self.heads * self.sequence**2 * self.element_bytes

    @property
    def element_bytes(self) -> int:
        """Of one number."""
        return 4 if self.dtype == "float32" else 2

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of q, k and v."""
        return (self.batch, self.heads, self.sequence, self.head_dim)


def call_of(point: Point, where: str) -> Callable[[Callable[..., Any]], tuple[Any, ...]]:
    """What calls an implementation on random inputs on torch device `where`: the output, and then the gradients."""
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

    return call


def naive(q: Any, k: Any, v: Any) -> Any:
    """Attention as people write it: softmax(q kᵀ / √d) v."""
    import torch

    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
    return torch.matmul(torch.softmax(scores, dim=-1), v)


def largest_difference(results: Sequence[Any], others: Sequence[Any]) -> float:
    """The largest difference of any element over the largest value of its tensor."""
    pairs = zip(results, others, strict=True)
    return max(float((one - other).abs().max() / one.abs().max()) for one, other in pairs)


def described(point: Point, timing: Timing) -> dict[str, Any]:
    """The params of a row: what was asked, and how long one call took."""
    return {
        "implementation": timing.name,
        "direction": point.direction,
        "sequence": point.sequence,
        "heads": point.heads,
        "head_dim": point.head_dim,
        "batch": point.batch,
        "shape": list(point.shape),
        "dtype": point.dtype,
        "time_s": {"min": timing.seconds.min * point.flops, "median": timing.seconds.median * point.flops},
        "score_bytes": point.score_bytes,
    }


def crossover_index(pairs: Sequence[Pair], cached: int) -> int | None:
    """The first of the pairs (naive, another) from which on scores exceed `cached` bytes and the other is faster."""
    first = None
    for index, (slow, fast) in reversed(list(enumerate(pairs))):
        if not (0 < cached < slow.params["score_bytes"] and fast.interval[0] > slow.interval[1]):
            break
        first = index
    return first


def why_no_crossover(pairs: Sequence[Pair], cached: int) -> str:
    """Why `crossover_index` found none."""
    if not cached:
        return "the system reports no caches"
    longest, other = (m.params for m in pairs[-1])
    if longest["score_bytes"] <= cached:
        scores = f"the {format_bytes(longest['score_bytes'])} of scores at sequence {longest['sequence']}"
        return f"{scores}, the longest measured, fit the {format_bytes(cached)} of the last-level caches"
    return f"{other['implementation']} is not faster by more than the intervals at sequence {longest['sequence']}"


def crossover(pairs: Sequence[Pair], first: int, cached: int, **more: Any) -> Measurement:
    """The row, metric `crossover`, in tokens, for the index that `crossover_index` found."""
    slow, fast = pairs[first]
    sequence = float(slow.params["sequence"])
    before = float(pairs[first - 1][0].params["sequence"]) if first else sequence
    copied = ("direction", "heads", "head_dim", "batch", "dtype", "score_bytes", "threads")
    params = {key: slow.params[key] for key in copied if key in slow.params}
    params |= {"last_level_cache_bytes": cached, "speedup": fast.median / slow.median, **more}
    name, n = f"crossover {slow.params['direction']}", min(slow.n, fast.n)
    return Measurement(NAME, name, "crossover", "tokens", sequence, sequence, sequence, (before, sequence), n, params)
