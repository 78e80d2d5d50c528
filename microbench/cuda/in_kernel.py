"""How long does a kernel take by its own count? Clock cycles of its SM, and the nanoseconds of the GPU's timer.

Each block writes four 64-bit words: clock64 and globaltimer at its start, clock64 and globaltimer at its end, in the
order of `STAMP`. Cycles divided by nanoseconds are the SM's clock in that very window, so that a change of clock
between windows spoils nothing, and a latency in cycles needs no clock at all. Neither launch nor the kernel's other
code is in the time. The timer ticks in steps of up to a microsecond, hence windows of about a millisecond.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from probe.kernels.cuda.memory import Memory
from probe.microbench import harness
from probe.microbench.cuda.bench import WINDOW_S, Bench
from probe.microbench.harness import Variant

STAMP = ("start_cycles", "end_cycles", "start_ns", "end_ns")  # uint64 each, one such row a block
STAMP_BYTES = 8 * len(STAMP)
MOST_ITERATIONS = 1 << 30  # the kernels count in 32 bits
Launch = Callable[[int, Memory], None]


@dataclass(frozen=True)
class Stamp:
    """One launch: the median over its blocks."""

    cycles: float
    ns: float


class InKernel:
    """One variant that times itself, and what it counted: per unit of work, in cycles, and the clock in Hz."""

    def __init__(self, bench: Bench, blocks: int = 1, *, differenced: bool = False, window_s: float = WINDOW_S) -> None:
        """`differenced`: a window is the difference of two launches, one of twice the iterations of the other.

        What starting the loop and leaving it cost drops out.
        """
        self._bench, self._differenced, self._window_s = bench, differenced, window_s
        self._stamps = bench.gpu.allocate(STAMP_BYTES * blocks)
        self._blocks = blocks
        self._windows: list[tuple[float, float]] = []  # cycles per unit of work, Hz

    def variant(self, name: str, launch: Launch, work_per_iteration: float) -> Variant:
        """Windows of `launch(iterations, stamps)`, which enqueues the kernel and has every block write its stamp.

        How many iterations a window has follows from `window_s`.
        """
        iterations = self._iterations(launch)
        work = work_per_iteration * iterations
        self._windows.clear()

        def window() -> float:
            cycles, clock_hz = self._timed(launch, iterations)
            self._windows.append((cycles / work, clock_hz))
            return cycles / clock_hz

        return Variant(name, window, work)

    @property
    def cycles(self) -> float:
        """The least cycles per unit of work."""
        return min(cycles for cycles, _ in self._recorded)

    @property
    def median_cycles(self) -> float:
        """The median cycles per unit of work."""
        return statistics.median(cycles for cycles, _ in self._recorded)

    @property
    def clock_hz(self) -> float:
        """The median of the SM's clock over the windows."""
        return statistics.median(clock_hz for _, clock_hz in self._recorded)

    @property
    def params(self) -> dict[str, float]:
        """What stands beside the time: cycles and the clock they were counted at."""
        return {"cycles": self.cycles, "median_cycles": self.median_cycles, "clock_hz": self.clock_hz}

    @property
    def _recorded(self) -> list[tuple[float, float]]:
        """Without the first window, which the harness does not record either."""
        return self._windows[1:] or self._windows

    def _iterations(self, launch: Launch) -> int:
        """So many that a window takes about `window_s`, by cycles, which do not come in steps as the timer does.

        Never more than the kernels can count.
        """

        def window_of(n: int) -> float:
            return self._stamp(launch, n).cycles / self._bench.gpu.clock_hz if n <= MOST_ITERATIONS else self._window_s

        return min(MOST_ITERATIONS, harness.repeats_for(window_of, self._window_s))

    def _timed(self, launch: Launch, iterations: int) -> tuple[float, float]:
        """Cycles of `iterations`, and the clock."""
        if not self._differenced:
            once = self._stamp(launch, iterations)
            return once.cycles, self._clock_hz(once)
        once, twice = self._stamp(launch, iterations), self._stamp(launch, 2 * iterations)
        return max(1.0, twice.cycles - once.cycles), self._clock_hz(twice)

    def _clock_hz(self, stamp: Stamp) -> float:
        """Cycles by time; the highest clock, with a warning, where the timer stands still."""
        if stamp.ns > 0 and stamp.cycles > 0:
            return stamp.cycles / stamp.ns * 1e9
        self._bench.warn("the GPU's timer does not run: seconds are cycles at the highest clock")
        return self._bench.gpu.clock_hz

    def _stamp(self, launch: Launch, iterations: int) -> Stamp:
        """Launch once, wait, and read what the blocks wrote."""
        launch(iterations, self._stamps)
        self._bench.gpu.synchronise()
        rows = self._stamps.read(np.uint64, len(STAMP) * self._blocks).reshape(self._blocks, len(STAMP))
        start_cycles, end_cycles, start_ns, end_ns = rows.T
        cycles = (end_cycles - start_cycles).astype(np.int64)  # both counters only ever grow
        ns = (end_ns - start_ns).astype(np.int64)
        return Stamp(float(statistics.median(cycles.tolist())), float(statistics.median(ns.tolist())))
