"""What rate does attention reach on a GPU: composed of operators, by each of torch's backends, and in our own Triton?

Method: one batch of 32 heads of 128, bfloat16 (float16 where there is none), no mask, no dropout, random inputs;
sequences double from 128 to 16384. `naive` is matmul, scale, softmax, matmul, and writes the scores of every pair of
positions to memory; `sdpa …` is scaled_dot_product_attention held to one backend; `triton` is probe.kernels.triton.
`forward` runs without autograd, `forward+backward` to the gradients of q, k and v. All are timed in turn on the same
inputs, by events on torch's stream, and their results compared with the first one's. Ways that write scores stop where
these exceed a quarter of the free memory. What a backend refuses costs only that backend, with its reason as a warning.

The count is that of the products (attention_work.py); `bytes` is what the operators of naive read and write, and for
fused ones inputs and results once. A naive row is bound by memory where its `bytes_per_s` is near that of DRAM.
`peak_bytes` is what one call allocates at most. Where enqueuing takes the host as long as the GPU works, a row is
flagged `launch-bound`. `crossover` is the shortest sequence whose scores exceed the L2 cache and from which on the
fastest fused way is faster than naive by more than the intervals of the medians.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from probe.kernels.cuda.gpu import Gpu
from probe.microbench.attention_work import (
    BOTH,
    FORWARD,
    NAIVE,
    NAME,
    Call,
    Pair,
    Point,
    call_of,
    crossover,
    crossover_index,
    described,
    largest_difference,
    why_no_crossover,
)
from probe.microbench.cuda import bench as benches
from probe.microbench.cuda.attention_ways import TRITON, Way, ways
from probe.microbench.cuda.bench import Bench
from probe.microbench.cuda.torch_side import TorchSide
from probe.microbench.harness import Effort, Timing, Variant, paced, repeats_for
from probe.microbench.suite import Context
from probe.results.measurement import Measurement

BATCH, HEADS, HEAD_DIM = 1, 32, 128
SEQUENCES, SEQUENCES_QUICK = (128, 256, 512, 1024, 2048, 4096, 8192, 16384), (512, 2048, 8192)
LEAST_WINDOWS = 6
PREPARING = 5  # calls of each beside the windows: to compare, to see how many fill a window, to warm up
LAUNCH_BOUND = 0.9  # of the time between two calls that the host is busy enqueuing one
TOLERANCE = {"float16": 1e-2, "bfloat16": 5e-2}  # difference over the largest result; rounding stays far below
FIRST_BFLOAT16 = (8, 0)  # compute capability
REASON = "not used because"  # in what torch warns of when a backend refuses, beside the names of disabled ones


@dataclass(frozen=True)
class Prepared:
    """One way that works at one point: what it is timed by, and what is known of it before."""

    way: Way
    variant: Variant
    difference: float
    peak_bytes: int
    launch_bound: bool


def run(context: Context, gpu: Gpu | None = None, side: TorchSide | None = None) -> Iterator[Measurement]:
    """Metric `flops_per_s`, in FLOP/s, for each sequence, direction and way; then each `crossover`, in tokens.

    Raises UnavailableError where there is no CUDA device, or where it is lost; what was measured until then is kept.
    """
    with benches.opened(context, gpu) as bench:
        sweep = Sweep(bench, side or TorchSide(context.index or 0), ways())
        left_out = []
        for point, share_s in paced(points(context), bench.left_s, context.clock, context.report):
            if sweep.seconds(point) > bench.left_s:
                left_out.append(f"{point.sequence} {point.direction}")
                continue
            yield from sweep.measured(point, share_s)
        if left_out and not context.quick:
            few = f"{LEAST_WINDOWS} windows of each take longer than the {context.budget_s:g} s there are"
            bench.warn(f"{NAME}: sequence {', '.join(left_out)} left out: {few}")
        yield from sweep.crossovers()


def points(context: Context) -> list[Point]:
    """What is asked, least work first."""
    capability = tuple(int(part) for part in (context.device.compute_capability or "0.0").split("."))
    dtype = "bfloat16" if capability >= FIRST_BFLOAT16 else "float16"
    sequences = SEQUENCES_QUICK if context.quick else SEQUENCES
    wanted = [Point(s, direction, dtype, BATCH, HEADS, HEAD_DIM) for s in sequences for direction in (FORWARD, BOTH)]
    return sorted(wanted, key=lambda point: point.flops)


@dataclass
class Sweep:
    """All points on one GPU; what a way refused or took is remembered for the points after."""

    bench: Bench
    side: TorchSide
    ways: Sequence[Way]
    found: list[Measurement] = field(default_factory=list)
    refused: set[tuple[str, str]] = field(default_factory=set)  # way and direction
    pace: dict[tuple[str, str], float] = field(default_factory=dict)  # way and direction: seconds a FLOP

    def seconds(self, point: Point) -> float:
        """What the least number of windows of all ways takes at the pace of the points before."""
        known = (self.pace.get((way.name, point.direction), 0.0) for way in self.possible(point))
        return sum(known) * point.flops * (LEAST_WINDOWS + PREPARING)

    def possible(self, point: Point) -> list[Way]:
        """The ways that have not refused and whose scores fit in a quarter of the free memory."""
        return [
            way
            for way in self.ways
            if not {(way.name, FORWARD), (way.name, point.direction)} & self.refused
            and self.bench.affordable((way.score_bytes(point),))
            and not (way.name == TRITON and point.direction == BOTH and self.bench.context.quick)  # compiles for long
        ]

    def measured(self, point: Point, share_s: float) -> list[Measurement]:
        """A row for each way that works at this point."""
        self.side.release()
        prepared = self._prepared(point)
        effort = Effort(share_s, least=LEAST_WINDOWS)
        timings = self.bench.measure([one.variant for one in prepared], effort)
        rows = [self._row(point, one, timing) for one, timing in zip(prepared, timings, strict=True)]
        for one, timing in zip(prepared, timings, strict=True):
            self.pace[one.way.name, point.direction] = timing.seconds.median
        self.found += rows
        return rows

    def _prepared(self, point: Point) -> list[Prepared]:
        call, expected = call_of(point, self.side.where), list[Any]()
        prepared = [
            self._prepare(way, point, functools.partial(call, way.function), expected) for way in self.possible(point)
        ]
        return [one for one in prepared if one is not None]

    def _prepare(self, way: Way, point: Point, call: Call, expected: list[Any]) -> Prepared | None:
        """Runs it for the first time; None, and a warning, where it cannot. The first one's results are `expected`."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                return self._tried(way, point, call, expected)
            except Exception as failed:  # each library has errors of its own; whichever it is costs this way only
                self.side.check(NAME)
                self.refused.add((way.name, point.direction))
                why = reason(failed, [str(warning.message) for warning in said])
        self.bench.warn(f"{NAME}: {way.name} {point.direction} from sequence {point.sequence} on: {why}")
        return None

    def _tried(self, way: Way, point: Point, call: Call, expected: list[Any]) -> Prepared:
        def window(calls: int) -> float:
            with way.chosen():
                return self.side.window(call, calls)

        with way.chosen():
            result, peak_bytes = self.side.peak_bytes(call)
        if not expected:
            expected.extend(result)
        difference = largest_difference(expected, result)
        del result
        times = repeats_for(window, benches.WINDOW_S)
        with way.chosen():
            launch_bound = self.side.enqueuing_s(call, times) > LAUNCH_BOUND * window(times)
        variant = Variant(way.name, lambda: window(times), times * point.flops)
        return Prepared(way, variant, difference, peak_bytes, launch_bound)

    def _row(self, point: Point, one: Prepared, timing: Timing) -> Measurement:
        moved = one.way.bytes_moved(point)
        call_s = timing.seconds.median * point.flops
        params = described(point, timing) | {
            "bytes": moved,
            "bytes_per_s": None if moved is None else moved / call_s,
            "flops_per_byte": None if moved is None else point.flops / moved,
            "peak_bytes": one.peak_bytes,
            "max_difference_fraction": one.difference,
        }
        flags = ("launch-bound",) * one.launch_bound + self._wrong(point, one)
        name = f"{one.way.name} {point.direction}"
        proof = self._proof(point) if one.way.name == TRITON else None
        return self.bench.rate_row(NAME, name, "flops_per_s", "FLOP/s", timing, params, flags=flags, proof=proof)

    def _wrong(self, point: Point, one: Prepared) -> tuple[str, ...]:
        if one.difference <= TOLERANCE[point.dtype]:
            return ()
        said = f"{one.way.name} differs by {one.difference:.2g} of the largest value"
        self.bench.warn(f"{NAME}: {said} at sequence {point.sequence} {point.direction} {point.dtype}")
        return ("wrong-result",)

    def _proof(self, point: Point) -> dict[str, Any] | None:
        """What the machine code of our own kernels holds."""
        found = self.side.triton_proof(point)
        if found and found["local_bytes"]:
            self.bench.warn(f"{NAME}: this Triton spills registers of our own kernel, which makes it slower")
        return found

    def crossovers(self) -> Iterator[Measurement]:
        """One measurement a direction; a warning where there is none."""
        for direction in (FORWARD, BOTH):
            pairs = self._pairs(direction)
            cached = self.bench.gpu.l2_bytes
            first = crossover_index(pairs, cached)
            if first is not None:
                fastest = pairs[first][1].params["implementation"]
                yield crossover(pairs, first, cached, implementation=fastest)
            else:
                why = why_no_crossover(pairs, cached) if pairs else "naive and a fused way were nowhere both measured"
                self.bench.warn(f"{NAME}: no crossover for {direction}: {why}")

    def _pairs(self, direction: str) -> list[Pair]:
        """Naive and the fastest fused way at each sequence where there are both."""
        fused = {way.name for way in self.ways if way.scores == "none"}
        pairs = []
        for sequence in dict.fromkeys(m.params["sequence"] for m in self.found):
            here = [m for m in self.found if (m.params["sequence"], m.params["direction"]) == (sequence, direction)]
            slow = [m for m in here if m.params["implementation"] == NAIVE]
            fast = [m for m in here if m.params["implementation"] in fused]
            if slow and fast:
                pairs.append((slow[0], max(fast, key=lambda m: m.median)))
        return pairs


def reason(failed: Exception, said: Sequence[str]) -> str:
    """One line: why a backend refused, from its error and from what torch warned of."""
    lines = [text.partition("(Triggered internally")[0].strip() for text in said]
    at = next((i for i, text in enumerate(lines) if REASON in text), None)
    named = (
        [text for text in lines[at + 1 :] if REASON not in text and "disabled" not in text] if at is not None else []
    )
    first = (str(failed).strip() or type(failed).__name__).splitlines()[0]
    return f"{first} {' '.join(dict.fromkeys(named))}".strip()
