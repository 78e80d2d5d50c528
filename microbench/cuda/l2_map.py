"""How far is the L2 cache from each SM? The latency of single lines, from every SM, and whether there are two kinds.

Method: blocks are launched on all SMs and one of them, on the SM that is asked for (%smid), stays. It loads one line
again and again past its L1 (the line holds its own address), then the next of 32 lines spread over memory. Of several
rounds the least counts. A large GPU has two L2 partitions, and a line is near one of them: then the latencies of all
pairs of SM and line lie in two heaps. They are told apart only where next to nothing lies between them; distances that
grow evenly from SM to SM are no two kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from probe.errors import UnavailableError
from probe.kernels.cuda import chase
from probe.kernels.cuda.memory import Memory
from probe.microbench.cuda import levels
from probe.microbench.cuda.bench import Bench
from probe.microbench.cuda.chain import LINE_BYTES
from probe.microbench.cuda.in_kernel import STAMP, STAMP_BYTES
from probe.results.measurement import Measurement
from probe.stats import summarise

LINES = 32  # of 128 bytes: 4 KiB, and both kinds among them but for one chance in 2^31
BLOCKS_AN_SM = 4  # each SM is given one long before the first have ended; more only make it surer
ITERATIONS, ITERATIONS_QUICK = 32, 8
ROUNDS, ROUNDS_QUICK = 4, 1
LEAST_SHARE = 0.1  # of all pairs that must be of either kind
LEAST_STEP = 1.15  # between the medians of both kinds
LEAST_EXPLAINED = 0.85  # of the variance; cutting an even spread in half explains 0.75, a normal one 0.64
Cycles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Kinds:
    """Two kinds of distance, in cycles: all pairs below `boundary` are near."""

    near: float
    far: float
    boundary: float


def measure(
    bench: Bench, memory: Memory, suite: str, generator: np.random.Generator, budget_s: float
) -> list[Measurement]:
    """The map as one row, and where there are two kinds of distance a row for each; metric `latency`, in seconds.

    Raises UnavailableError where no block found the SM it was meant for.
    """
    with bench.watched():
        cycles, clock_hz, proof = _map(bench, memory, generator, budget_s)
    reached = cycles[~np.isnan(cycles).any(axis=1)]
    if not len(reached):
        raise UnavailableError("no block was run on the SM it was meant for; the GPU is shared with other processes")
    kinds = split(reached)
    per_sm = np.median(cycles, axis=1)
    own: dict[str, object] = {
        "per_sm_cycles": [None if np.isnan(value) else round(float(value), 1) for value in per_sm],
        "near_cycles": kinds.near if kinds else None,
        "far_cycles": kinds.far if kinds else None,
        "level": None,
    }
    rows = [_row(bench, suite, "L2 by SM", np.median(reached, axis=1), clock_hz, own, proof)]
    if kinds:
        for name, level, inside in (
            ("L2, near lines", levels.L2, reached[reached < kinds.boundary]),
            ("L2, far lines", levels.L2_FAR, reached[reached >= kinds.boundary]),
        ):
            rows.append(_row(bench, suite, name, inside, clock_hz, {"level": level}, proof))
    return rows


def split(cycles: Cycles) -> Kinds | None:
    """Two kinds of distance where there clearly are two: the cut that explains most of the variance, if it does."""
    values = np.sort(cycles.ravel())
    n = len(values)
    below = np.arange(1, n)
    if n < 2 or values[0] == values[-1]:
        return None
    sums = np.cumsum(values)[:-1]
    means = sums / below, (values.sum() - sums) / (n - below)
    between = below * (n - below) / n**2 * (means[1] - means[0]) ** 2
    cut = int(np.argmax(between)) + 1
    near, far = float(np.median(values[:cut])), float(np.median(values[cut:]))
    clear = (
        between[cut - 1] >= LEAST_EXPLAINED * values.var()
        and min(cut, n - cut) >= LEAST_SHARE * n
        and far >= LEAST_STEP * near
    )
    return Kinds(near, far, float(values[cut - 1] + values[cut]) / 2) if clear else None


def _map(
    bench: Bench, memory: Memory, generator: np.random.Generator, budget_s: float
) -> tuple[Cycles, float, dict[str, object]]:
    """The least cycles of a load by SM and line (NaN where an SM was not reached), the clock, the kernel's proof."""
    quick, clock = bench.context.quick, bench.context.clock
    visit = _Visit(bench, memory, generator, ITERATIONS_QUICK if quick else ITERATIONS)
    found = np.full((bench.gpu.sm_count, LINES), np.nan)
    clocks: list[float] = []
    ends = clock() + budget_s
    for _ in range(ROUNDS_QUICK if quick else ROUNDS):
        for sm in range(bench.gpu.sm_count):
            cycles, clock_hz = visit(sm)
            found[sm] = np.fmin(found[sm], cycles)
            clocks += [clock_hz] if clock_hz else []
        if clock() >= ends:
            break
    return found, float(np.median(clocks)) if clocks else bench.gpu.clock_hz, visit.proof


class _Visit:
    """`visit(sm)`: cycles of a load of each line from that SM, and the clock it ran at (0 where it was not reached)."""

    def __init__(self, bench: Bench, memory: Memory, generator: np.random.Generator, iterations: int) -> None:
        self._function = bench.gpu.load(chase.LINE_BY_SM)
        self.proof = self._function.proof
        self._blocks = BLOCKS_AN_SM * bench.gpu.sm_count
        self._iterations = iterations
        self._lines = bench.gpu.allocate(8 * LINES)
        self._claimed = bench.gpu.allocate(4)
        self._out = bench.gpu.allocate(STAMP_BYTES + 8 * LINES)
        self._lines.write(_own_addresses(memory, generator))

    def __call__(self, sm: int) -> tuple[Cycles, float]:
        self._claimed.fill(0)
        self._out.fill(0)
        cycles_of = np.uint64(self._out.address + STAMP_BYTES)
        counts = np.uint32(LINES), np.uint32(sm)
        iterations = np.uint32(self._iterations)
        self._function.launch(self._blocks, 1, self._lines, *counts, self._claimed, cycles_of, self._out, iterations)
        words = self._out.read(np.uint64, len(STAMP) + LINES).astype(np.int64)
        start_cycles, end_cycles, start_ns, end_ns = words[: len(STAMP)]
        if not end_cycles:
            return np.full(LINES, np.nan), 0.0
        clock_hz = (end_cycles - start_cycles) / (end_ns - start_ns) * 1e9 if end_ns > start_ns else 0.0
        return words[len(STAMP) :] / (self._iterations * chase.HOPS), float(clock_hz)


def _own_addresses(memory: Memory, generator: np.random.Generator) -> npt.NDArray[np.uint64]:
    """The addresses of `LINES` random lines of `memory`, each of which now holds its own."""
    places = generator.choice(memory.n_bytes // LINE_BYTES, LINES, replace=False).astype(np.uint64)
    addresses: npt.NDArray[np.uint64] = places * np.uint64(LINE_BYTES) + np.uint64(memory.address)
    for address in addresses:
        memory.write(np.array([address]), int(address) - memory.address)
    return addresses


def _row(
    bench: Bench,
    suite: str,
    name: str,
    cycles: Cycles | Sequence[float],
    clock_hz: float,
    own: dict[str, object],
    proof: dict[str, object],
) -> Measurement:
    """`value` is the median over places, `min` the nearest place: they differ in distance, not by disturbance."""
    seconds = summarise(np.asarray(cycles) / clock_hz)
    params = {"size_bytes": LINES * LINE_BYTES, "load": "ld.global.cg, one line", "cycles": seconds.median * clock_hz}
    return Measurement(
        suite=suite,
        name=name,
        metric="latency",
        unit="s",
        value=seconds.median,
        min=seconds.min,
        median=seconds.median,
        interval=seconds.interval,
        n=seconds.n,
        params={**bench.conditions.params, **params, "clock_hz": clock_hz, **own},
        flags=bench.conditions.flags,
        proof=proof,
    )
