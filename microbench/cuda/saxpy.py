"""What does y = a x + y cost on a GPU by width of access, in Triton, in eager and compiled PyTorch, and in cuBLAS?

Method: float32, one footprint in L2 and two in DRAM; 12 bytes an element (x read, y read, y written). Own kernels with
32-, 64- and 128-bit accesses, one vector a thread at a time, equal in all else; all implementations work in turn on the
same arrays and stream. In DRAM calls follow one another; in L2, where a call is shorter than launching it, a captured
graph of calls is replayed, so that what is compared is kernels and not who dispatches faster (`params.method`).
Compiling lies outside the windows. Each implementation's first result is compared with the definition.

`128-bit against cuBLAS` is the time of cuBLAS over that of the 128-bit kernel, window by window: the question that Jia
et al. asked of Turing (arXiv 1903.07486).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.errors import UnavailableError
from probe.kernels.cuda import streams
from probe.kernels.cuda.function import Function
from probe.kernels.cuda.gpu import Gpu
from probe.kernels.cuda.memory import Memory
from probe.kernels.cuda.streams import THREADS
from probe.microbench import memory
from probe.microbench.compiled_code import WORTH_S, compiled
from probe.microbench.cuda import arrays
from probe.microbench.cuda.bench import Bench, opened
from probe.microbench.cuda.cublas import Cublas
from probe.microbench.cuda.torch_stream import TorchStream
from probe.microbench.harness import Effort, Timing, Variant, paced
from probe.microbench.suite import Context
from probe.results.measurement import Measurement
from probe.stats import summarise
from probe.units import format_bytes

NAME = "saxpy"
OWN, TRITON, EAGER, COMPILED, CUBLAS = "128-bit", "Triton", "torch eager", "torch.compile", "cuBLAS"
ELEMENT_BYTES = 12  # moved: x read, y read, y written
# Each call adds about eight of y's smallest steps: enough to be seen, little enough that y stays near 1 in millions.
SCALAR = 2.0**-20
TOLERANCE = 3e-7  # two such steps: a product and a sum may be rounded apart or together
CHECKED = 4096  # elements at either end of the arrays
LARGEST_FACTOR = 8  # the largest footprint over the smaller one in DRAM
COMPILING_S = 40.0  # for one function, at most
LEAST_WINDOWS = 6
Call = Callable[[], None]


@dataclass(frozen=True)
class Vectors:
    """x and y: `elements` float32 values each, at the beginning of two pieces of memory."""

    x: Memory
    y: Memory
    elements: int

    @property
    def size_bytes(self) -> int:
        """The footprint of both."""
        return 8 * self.elements


@dataclass(frozen=True)
class Way:
    """One way to add a x to y: its name, a call that enqueues it, and what is known of what runs."""

    name: str
    enqueue: Call
    proof: dict[str, Any]


Make = Callable[[Vectors], Call]


@dataclass(frozen=True)
class Implementation:
    """A way for arrays of any size; `make` raises UnavailableError where it cannot be had."""

    name: str
    make: Make
    proof: dict[str, Any]


def run(context: Context, gpu: Gpu | None = None) -> Iterator[Measurement]:
    """One measurement a size and implementation, metric `bandwidth`, in B/s; then, for each size, the speedup.

    UnavailableError where not even one of the own kernels can be compiled and proved.
    """
    with contextlib.ExitStack() as stack:
        bench = stack.enter_context(opened(context, gpu))
        functions = arrays.usable(bench, NAME, {lanes: streams.saxpy(lanes) for lanes in streams.LANES})
        found = [_own(bench.gpu, lanes, function) for lanes, function in functions.items()]
        found += libraries(bench, stack)
        (x, y), fitting = arrays.room(bench, NAME, sizes(bench.gpu, quick=context.quick), 2, shared=True)
        arrays.fill(bench.gpu, bench.gpu.load(streams.NOISE), x, 0)
        wanted = [Vectors(x, y, size // 8) for size in fitting]
        questions = [(vectors, _ways(bench, found, vectors)) for vectors in wanted]
        for (vectors, ways), share_s in paced(questions, bench.left_s, context.clock, context.report):
            with bench.sparing(f"{NAME}: {format_bytes(vectors.size_bytes)}"):
                yield from _at(bench, vectors, ways, share_s)


def sizes(gpu: Gpu, *, quick: bool) -> list[int]:
    """Footprints of x and y together, in bytes, largest first: two in DRAM (quick: one) and one in L2."""
    beyond = max(arrays.LEAST_DRAM_BYTES, 1 << (memory.BEYOND_CACHES * gpu.l2_bytes - 1).bit_length())
    return [*([] if quick else [LARGEST_FACTOR * beyond]), beyond, arrays.in_l2(gpu)]


def _own(gpu: Gpu, lanes: int, function: Function) -> Implementation:
    blocks = max(1, function.blocks_per_sm(THREADS)) * gpu.sm_count

    def make(v: Vectors) -> Call:
        count = np.uint64(v.elements // lanes)
        return lambda: function.launch(blocks, THREADS, v.y, v.x, np.float32(SCALAR), count)

    return Implementation(f"{32 * lanes}-bit", make, function.proof)


def libraries(bench: Bench, stack: contextlib.ExitStack) -> list[Implementation]:
    """Triton, torch and cuBLAS, those that are there; a warning for each that is not."""
    found: list[Implementation] = []
    torch_stream = None
    with bench.sparing(f"{NAME}: torch"):
        torch_stream = TorchStream(bench.gpu, bench.context.index or 0)
    if torch_stream is not None:
        with bench.sparing(f"{NAME}: {TRITON}"):
            found.append(_triton(torch_stream))
        found.append(_eager(torch_stream))
        if not bench.context.quick and bench.context.budget_s >= WORTH_S:
            found.append(_compiled(torch_stream))
    with bench.sparing(f"{NAME}: {CUBLAS}"):
        found.append(_cublas(stack.enter_context(Cublas(bench.gpu))))
    return found


def _triton(on: TorchStream) -> Implementation:
    try:
        import triton

        from probe.kernels.triton.saxpy import saxpy
    except ImportError as missing:
        raise UnavailableError(f"{missing}; pip install 'torch-probe[kernels]'") from None

    def make(v: Vectors) -> Call:
        x, y = on.tensor(v.x.address, v.elements), on.tensor(v.y.address, v.elements)
        return on.enqueuing(lambda: saxpy(x, y, SCALAR))

    return Implementation(TRITON, make, {"origin": f"Triton {triton.__version__}"})


def _eager(on: TorchStream) -> Implementation:
    import torch

    def make(v: Vectors) -> Call:
        x, y = on.tensor(v.x.address, v.elements), on.tensor(v.y.address, v.elements)
        return on.enqueuing(lambda: y.add_(x, alpha=SCALAR))

    return Implementation(EAGER, make, {"origin": f"torch.Tensor.add_, torch {torch.__version__}"})


def _compiled(on: TorchStream) -> Implementation:
    import torch

    def make(v: Vectors) -> Call:
        x, y = on.tensor(v.x.address, v.elements), on.tensor(v.y.address, v.elements)
        made: list[Callable[..., object]] = []
        on.enqueuing(lambda: made.append(compiled(composed, x, y, longest_s=COMPILING_S)))()
        return on.enqueuing(lambda: made[0](x, y))

    return Implementation(COMPILED, make, {"origin": f"torch.compile, torch {torch.__version__}"})


def composed(x: Any, y: Any) -> None:
    """y = a x + y on torch tensors, as one writes it: a product, then a sum."""
    y += SCALAR * x


def _cublas(library: Cublas) -> Implementation:
    def make(v: Vectors) -> Call:
        return lambda: library.saxpy(v.elements, SCALAR, v.x.address, v.y.address)

    return Implementation(CUBLAS, make, {"origin": f"cuBLAS {library.version}, cublasSaxpy"})


def _ways(bench: Bench, found: Sequence[Implementation], vectors: Vectors) -> list[Way]:
    """What each implementation is at this size, called once; a failure costs that one only."""
    ways = []
    for one in found:
        with bench.sparing(f"{NAME}: {one.name}, {format_bytes(vectors.size_bytes)}"):
            enqueue = one.make(vectors)
            enqueue()
            bench.gpu.synchronise()
            ways.append(Way(one.name, enqueue, one.proof))
    return ways


def _at(bench: Bench, vectors: Vectors, ways: Sequence[Way], share_s: float) -> Iterator[Measurement]:
    """All ways in turn at one size, then how the widest of the own ones does against cuBLAS."""
    started = bench.context.clock()
    level = arrays.level_of(vectors.size_bytes, bench.gpu)
    method = "graph" if level == "L2" else "stream"
    arrays.fill(bench.gpu, bench.gpu.load(streams.NOISE), vectors.y, 1)  # near 1 again
    timed: list[tuple[Way, Variant, tuple[str, ...]]] = []
    for way in ways:
        with bench.sparing(f"{NAME}: {way.name}, {format_bytes(vectors.size_bytes)}"):
            flags: tuple[str, ...] = () if right(bench, vectors, way) else ("wrong-result",)
            timed.append((way, _variant(bench, way, vectors, method), flags))
    left_s = share_s - (bench.context.clock() - started)
    timings = bench.measure([variant for _, variant, _ in timed], Effort(left_s, least=LEAST_WINDOWS))
    place = {"size_bytes": vectors.size_bytes, "level": level, "dtype": "float32", "method": method}
    for (way, _, flags), timing in zip(timed, timings, strict=True):
        params = {"implementation": way.name, **place}
        name = f"saxpy {format_bytes(vectors.size_bytes)} {way.name}"
        yield bench.rate_row(NAME, name, "bandwidth", "B/s", timing, params, proof=way.proof, flags=flags)
    by_name = {timing.name: timing for timing in timings}
    if OWN in by_name and CUBLAS in by_name:
        yield speedup(bench, by_name[OWN], by_name[CUBLAS], place)


def _variant(bench: Bench, way: Way, vectors: Vectors, method: str) -> Variant:
    make = bench.graph_variant if method == "graph" else bench.variant
    return make(way.name, way.enqueue, vectors.elements * ELEMENT_BYTES)


def right(bench: Bench, vectors: Vectors, way: Way) -> bool:
    """Whether one call adds a x to y, at both ends of the arrays; a warning where it does not."""
    count = min(CHECKED, vectors.elements)
    difference = 0.0
    for first in dict.fromkeys((0, vectors.elements - count)):
        x, y = (piece.read(np.float32, count, 4 * first) for piece in (vectors.x, vectors.y))
        way.enqueue()
        bench.gpu.synchronise()
        error = np.abs(vectors.y.read(np.float32, count, 4 * first) - (y + np.float32(SCALAR) * x))
        difference = max(difference, float(error.max()))
    if difference <= TOLERANCE:
        return True
    bench.warn(f"{NAME}: {way.name} is off by up to {difference:.2g} at {format_bytes(vectors.size_bytes)}")
    return False


def speedup(bench: Bench, own: Timing, other: Timing, place: dict[str, Any]) -> Measurement:
    """Time of `other` over that of `own`, metric `speedup`: the median over the pairs of windows that ran in turn."""
    pairs = tuple(b / a for a, b in zip(own.samples, other.samples, strict=True))
    ratio = summarise(pairs)
    versus = f"{own.name} against {other.name}"
    return Measurement(
        suite=NAME,
        name=f"{versus} {format_bytes(place['size_bytes'])}",
        metric="speedup",
        unit="ratio",
        value=ratio.median,
        min=ratio.min,
        median=ratio.median,
        interval=ratio.interval,
        n=ratio.n,
        params={**bench.conditions.params, "implementation": versus, **place},
        flags=tuple(dict.fromkeys((*own.flags, *other.flags, *bench.conditions.flags))),
        samples=tuple(float(f"{pair:.5g}") for pair in pairs),
    )
