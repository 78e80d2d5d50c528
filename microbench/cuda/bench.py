"""How does a CUDA suite time its kernels? By events on the GPU's own stream, under a watch, through the harness.

Launches return at once and the GPU works them off in turn, so a window is the time between two events with the calls
between them; event resolution is about half a microsecond. Kernels that run shorter than it takes to launch one are
replayed from a graph. A `cold` call is timed alone, after all of the L2 cache has been overwritten.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from probe.errors import UnavailableError
from probe.kernels.cuda.driver import DeviceLost
from probe.kernels.cuda.gpu import Gpu
from probe.kernels.cuda.memory import Memory
from probe.kernels.cuda.nvrtc import CompileError
from probe.kernels.cuda.queues import Event, Graph
from probe.microbench import harness
from probe.microbench.cuda.watch import Conditions, Meter, Watch, meter_of
from probe.microbench.harness import Effort, Timing, Variant
from probe.microbench.suite import Context, rate_measurement, time_measurement
from probe.results.measurement import Measurement

WINDOW_S = 1e-3  # no time slices here as on a CPU; a thousand times the resolution of an event
GRAPH_CALLS = 64  # in one graph: starting the graph costs about as much as a few of its kernels
FLUSH_FACTOR = 2  # times the L2 cache that is written, so that nothing of what was there remains
SAFE_SHARE = 0.25  # of the free memory; the rest belongs to whoever else is on the GPU
CLOCKS_AGREE = 0.05  # NVML's clock and the kernels' own, relative
LEAST_READINGS = 3  # of NVML, to be compared with anything
Call = Callable[[], None]


@contextmanager
def opened(context: Context, gpu: Gpu | None = None, meter: Meter | None = None) -> Iterator[Bench]:
    """A bench on the context's device; a `gpu` that is passed is used as it is, watched by `meter`, and stays open.

    Raises UnavailableError where the device is none of CUDA's or the driver's library does not load.
    """
    if gpu is not None:
        with contextlib.closing(Bench(context, gpu, meter)) as bench:
            yield bench
        return
    if context.device.kind != "cuda":
        raise UnavailableError(f"its kernels are CUDA's, and {context.device.name} is no CUDA device")
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(meter_of(context.index))
        own = stack.enter_context(Gpu(context.index or 0))
        yield stack.enter_context(contextlib.closing(Bench(context, own, found)))


class Bench:
    """One suite's GPU and how it is timed; `conditions` are those of the last group that was measured."""

    def __init__(self, context: Context, gpu: Gpu, meter: Meter | None = None) -> None:
        """Nothing is allocated until it is needed."""
        self.gpu = gpu
        self.context = context
        self.conditions = Conditions()
        self._meter = meter
        self._started = context.clock()
        self._events: tuple[Event, Event] | None = None
        self._flushed: Memory | None = None

    @property
    def left_s(self) -> float:
        """What is left of the suite's budget."""
        return max(0.0, self.context.budget_s - (self.context.clock() - self._started))

    def window(self, enqueue: Call, times: int) -> float:
        """Seconds between an event before and one after `times` calls of `enqueue`."""
        if self._events is None:
            self._events = (self.gpu.event(), self.gpu.event())
        before, after = self._events
        before.record()
        for _ in range(times):
            enqueue()
        after.record()
        after.synchronise()
        return after.seconds_since(before)

    def cold_window(self, enqueue: Call) -> float:
        """Seconds of one call after the L2 cache has been filled with other data.

        Its dirty lines are written back while the call runs, as those of the kernel before are in a program.
        """
        self.flush()
        return self.window(enqueue, 1)

    def flush(self) -> None:
        """Write twice the L2 cache, so that nothing else is left in it."""
        if self._flushed is None:
            self._flushed = self.gpu.allocate(FLUSH_FACTOR * max(self.gpu.l2_bytes, 1 << 20))
        self._flushed.fill(1)

    def graph_window(self, graph: Graph, times: int) -> float:
        """Seconds for `times` replays of a captured graph."""
        return self.window(graph.launch, times)

    def variant(
        self, name: str, enqueue: Call, work: float, *, cold: bool = False, window_s: float = WINDOW_S
    ) -> Variant:
        """Windows of as many calls as take `window_s`, each call doing `work`; one call where they are `cold`."""
        if cold:
            return Variant(name, lambda: self.cold_window(enqueue), work)
        times = harness.repeats_for(lambda n: self.window(enqueue, n), window_s)
        return Variant(name, lambda: self.window(enqueue, times), work * times)

    def graph_variant(
        self, name: str, enqueue: Call, work: float, *, calls: int = GRAPH_CALLS, window_s: float = WINDOW_S
    ) -> Variant:
        """Windows of replays of a graph of `calls` calls, each doing `work`: for kernels below about 20 µs."""

        def all_calls() -> None:
            for _ in range(calls):
                enqueue()

        graph = self.gpu.capture(all_calls)
        times = harness.repeats_for(lambda n: self.graph_window(graph, n), window_s)
        return Variant(name, lambda: self.graph_window(graph, times), work * calls * times)

    def measure(self, variants: Sequence[Variant], effort: Effort) -> list[Timing]:
        """Time the variants in turn, under a watch whose conditions are remembered for the rows."""
        if not variants:
            return []
        with self.watched():
            return harness.measure(variants, effort, self.context.clock, on_host=False)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Remembers the conditions of what is measured within the block, for a suite that times it by itself."""
        with Watch(self._meter) as watch:
            yield
        self.conditions = watch.conditions

    def time_row(
        self, suite: str, name: str, metric: str, timing: Timing, params: dict[str, Any], **more: Any
    ) -> Measurement:
        """A duration in seconds, with the conditions of the last group."""
        described = self._described(suite, timing, params, more)
        return time_measurement(suite, name, metric, timing, described, **more)

    def rate_row(
        self, suite: str, name: str, metric: str, unit: str, timing: Timing, params: dict[str, Any], **more: Any
    ) -> Measurement:
        """Work per second, with the conditions of the last group."""
        described = self._described(suite, timing, params, more)
        return rate_measurement(suite, name, metric, unit, timing, described, **more)

    def _described(self, suite: str, timing: Timing, params: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
        """The params with the conditions; puts flags that the timing does not have yet into `more`."""
        flags = (*more.pop("flags", ()), *self.conditions.flags)
        more["flags"] = tuple(flag for flag in dict.fromkeys(flags) if flag not in timing.flags)
        self._compare_clocks(suite, params.get("clock_hz"))
        return {**self.conditions.params, **params}

    def _compare_clocks(self, suite: str, clock_hz: float | None) -> None:
        """Warn where the kernels' own clock (cycles by nanoseconds) is not the one that NVML shows."""
        shown = self.conditions.sm_clock_hz
        if clock_hz and shown and self.conditions.readings >= LEAST_READINGS:
            off = abs(clock_hz / shown - 1)
            if off > CLOCKS_AGREE:
                self.warn(
                    f"{suite}: the kernels' own clock and NVML's differ by more than {CLOCKS_AGREE:.0%}; "
                    "where the clock moved meanwhile, cycles are right and seconds are those of that clock"
                )

    @contextmanager
    def sparing(self, what: str) -> Iterator[None]:
        """Within the block a failure costs only `what`, with a warning; a lost device ends the suite all the same."""
        try:
            yield
        except DeviceLost:
            raise
        except (UnavailableError, CompileError) as reason:
            self.warn(f"{what}: {reason}")

    def affordable(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Those of `sizes`, in bytes, that are at most a quarter of the GPU's free memory."""
        most = SAFE_SHARE * self.gpu.free_bytes()
        return tuple(size for size in sizes if size <= most)

    def warn(self, sentence: str) -> None:
        """Leave a warning, once."""
        if sentence not in self.context.warnings:
            self.context.warnings.append(sentence)

    def close(self) -> None:
        """Give back what the bench itself allocated."""
        if self._flushed is not None:
            with contextlib.suppress(UnavailableError):  # a lost device has nothing to give back
                self._flushed.close()
            self._flushed = None
