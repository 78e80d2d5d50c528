"""Which ways of getting work onto a GPU are timed, and how is a window of each run?

The driver's functions are repeated by machine code (kernels/cuda/driver_calls.py): from Python each call would take
longer than what is measured. Windows begin with a call of the Gpu, which makes its context current.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from probe.kernels.cuda import driver_calls, empty
from probe.kernels.cuda.driver_calls import DriverCall, DriverCalls
from probe.kernels.cuda.gpu import Gpu
from probe.kernels.cuda.kernel import Kernel
from probe.microbench.cuda.bench import Bench
from probe.microbench.harness import Variant

WINDOW_S = 2e-3  # the first launch of a window reaches the GPU some microseconds after the window began
A_CALL = 64  # launches or copies between two looks at Python
QUEUED_CALLS = 256  # a quarter of what a stream takes before the host must wait
ROUND_TRIPS = 32
GRAPH_KERNELS = 100
COPIED_BYTES = 4
HOLD_S, HOLD_TRIES = 1e-3, 8  # at first; doubled until all is enqueued before the stream goes on
BETWEEN_HOLD_S = 100e-6
ASSUMED_HZ = 2e9  # where the driver does not tell the highest clock: a hold is then about as long
DIRECTIONS = ("H2D", "D2H", "D2D")


@dataclass(frozen=True)
class Way:
    """A variant, what its row says beside the time, and what it says that is known only after the measurement."""

    variant: Variant
    params: dict[str, Any]
    proof: dict[str, object] | None = None
    afterwards: Callable[[], dict[str, Any]] = field(default=dict)


class Ways:
    """The ways on one GPU; what they launch is compiled, loaded and allocated on first use."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._gpu: Gpu = bench.gpu
        self._stream = bench.gpu.own_stream

    # ---- by the device's clock

    def stream(self, name: str, kernel: Kernel) -> Way:
        """Launched one by one, as fast as the host can."""
        calls = self._calls(self._launch(kernel))
        variant = self._bench.variant(name, lambda: calls.run(A_CALL), A_CALL, window_s=WINDOW_S)
        return Way(variant, self._params("stream", calls, kernel), self._proof(kernel))

    def graph(self, name: str, kernel: Kernel) -> Way:
        """Replayed from a graph of many kernels in a row, for each of them."""
        calls = self._calls(self._launch(kernel))
        variant = self._bench.graph_variant(name, calls.run, 1, calls=GRAPH_KERNELS)
        params = {**self._params("graph", calls, kernel), "kernels_a_graph": GRAPH_KERNELS}
        return Way(variant, params, self._proof(kernel))

    def one_kernel_graph(self, name: str) -> Way:
        """Graphs of one kernel each, launched one by one, for each of them."""
        calls = self._calls(self._replay_of_one())
        variant = self._bench.variant(name, lambda: calls.run(A_CALL), A_CALL, window_s=WINDOW_S)
        return Way(variant, self._params("one-kernel graph", calls, empty.EMPTY), self._proof(empty.EMPTY))

    def queued(self, name: str) -> Way:
        """Launched while a kernel holds the stream: then nothing but the device sets the pace."""
        calls = self._calls(self._launch(empty.EMPTY))
        held = _Held(self._bench, calls)
        variant = Variant(name, held.window, QUEUED_CALLS)
        return Way(variant, self._params("queued", calls, empty.EMPTY), self._proof(empty.EMPTY))

    def between_events(self, name: str) -> Way:
        """One empty kernel between two events that were enqueued before the first was reached."""
        gpu, kernel = self._gpu, self._gpu.load(empty.EMPTY)
        hold, cycles = gpu.load(empty.HOLD), np.uint64(BETWEEN_HOLD_S * (gpu.clock_hz or ASSUMED_HZ))
        first, second, third = (gpu.event() for _ in range(3))
        alone: list[float] = []

        def window() -> float:
            hold.launch(1, 1, cycles)
            first.record()
            second.record()
            kernel.launch(1, 1)
            third.record()
            third.synchronise()
            alone.append(second.seconds_since(first))
            return third.seconds_since(second)

        params = {"method": "events", "kernel": empty.EMPTY.name, "in_a_row": 1}
        return Way(Variant(name, window, 1), params, self._proof(empty.EMPTY), lambda: {"events_s": min(alone)})

    def copies(self, name: str, direction: str) -> Way:
        """Copies of four bytes, one after the other."""
        calls = self._calls(self._copy(direction))
        variant = self._bench.variant(name, lambda: calls.run(A_CALL), A_CALL, window_s=WINDOW_S)
        return Way(variant, {**self._params("stream copies", calls), **_copied(direction)})

    # ---- by the host's clock

    def launch_call(self, name: str) -> Way:
        """What cuLaunchKernel takes."""
        return self._on_host(name, self._launch(empty.EMPTY))

    def replay_call(self, name: str) -> Way:
        """What cuGraphLaunch takes, for a graph of one kernel."""
        return self._on_host(name, self._replay_of_one())

    def copy_call(self, name: str, direction: str) -> Way:
        """What cuMemcpyAsync of four bytes takes."""
        way = self._on_host(name, self._copy(direction))
        return Way(way.variant, {**way.params, **_copied(direction)})

    def record_call(self, name: str) -> Way:
        """What cuEventRecord takes."""
        return self._on_host(name, driver_calls.record(self._gpu.event(), self._stream))

    def query_call(self, name: str) -> Way:
        """What cuEventQuery takes, for an event that was reached."""
        event = self._gpu.event()
        event.record()
        event.synchronise()
        return self._on_host(name, driver_calls.query(event))

    def synchronise_call(self, name: str) -> Way:
        """What cuStreamSynchronize takes, with nothing to wait for."""
        return self._on_host(name, driver_calls.synchronise(self._stream))

    def round_trip(self, name: str) -> Way:
        """From the launch of an empty kernel until the host knows that it is done."""
        calls = (self._launch(empty.EMPTY), driver_calls.synchronise(self._stream))
        return self._on_host(name, *calls, rounds=ROUND_TRIPS)

    def _on_host(self, name: str, *calls: DriverCall, rounds: int = QUEUED_CALLS) -> Way:
        """Windows of `rounds` calls into a queue that is empty before and never becomes full."""
        made, clock = self._calls(*calls), self._bench.context.clock

        def window() -> float:
            self._gpu.synchronise()
            start = clock()
            made.run(rounds)
            return clock() - start

        params = {"method": "host", "in_a_row": rounds, "repeated_by": made.origin}
        return Way(Variant(name, window, rounds), params)

    # ---- what is called

    def _calls(self, *calls: DriverCall) -> DriverCalls:
        return DriverCalls(self._gpu, *calls)

    def _launch(self, kernel: Kernel) -> DriverCall:
        function = self._gpu.load(kernel)
        if kernel is empty.EMPTY:
            return driver_calls.launch(function, self._stream, 1, 1)
        threads = empty.SMALL_BYTES // 2 // 4  # a float each, read and written
        memory = self._gpu.allocate(empty.SMALL_BYTES)
        memory.fill(1)
        halves = (np.uint64(memory.address), np.uint64(memory.address + empty.SMALL_BYTES // 2))
        return driver_calls.launch(function, self._stream, threads // empty.SMALL_THREADS, empty.SMALL_THREADS, *halves)

    def _replay_of_one(self) -> DriverCall:
        function = self._gpu.load(empty.EMPTY)
        return driver_calls.replay(self._gpu.capture(lambda: function.launch(1, 1)), self._stream)

    def _copy(self, direction: str) -> DriverCall:
        gpu = self._gpu
        device = gpu.allocate(COPIED_BYTES).address
        other = (gpu.allocate if direction == "D2D" else gpu.allocate_host)(COPIED_BYTES).address
        destination, source = (other, device) if direction == "D2H" else (device, other)
        return driver_calls.copy(destination, source, COPIED_BYTES, self._stream)

    def _params(self, method: str, calls: DriverCalls, kernel: Kernel | None = None) -> dict[str, Any]:
        """How it was launched; in a row stand as many as fill a window."""
        params: dict[str, Any] = {"method": method, "repeated_by": calls.origin}
        return params if kernel is None else {**params, "kernel": kernel.name}

    def _proof(self, kernel: Kernel) -> dict[str, object]:
        return self._gpu.load(kernel).proof


def _copied(direction: str) -> dict[str, Any]:
    memory = "device" if direction == "D2D" else "pinned"
    return {"direction": direction, "memory": memory, "copied_bytes": COPIED_BYTES}


class _Held:
    """Windows whose launches are all enqueued before the first of them may begin."""

    def __init__(self, bench: Bench, calls: DriverCalls) -> None:
        self._bench, self._calls = bench, calls
        self._hold = bench.gpu.load(empty.HOLD)
        self._hold_s = HOLD_S
        self._clock_hz = bench.gpu.clock_hz or ASSUMED_HZ
        self._before, self._after = bench.gpu.event(), bench.gpu.event()

    def window(self) -> float:
        """Seconds between the events; with a longer hold where enqueuing took longer than that."""
        clock = self._bench.context.clock
        for _ in range(HOLD_TRIES):
            start = clock()
            self._hold.launch(1, 1, np.uint64(self._hold_s * self._clock_hz))
            self._before.record()
            self._calls.run(QUEUED_CALLS)
            self._after.record()
            in_time = clock() - start < self._hold_s
            self._after.synchronise()
            if in_time:
                return self._after.seconds_since(self._before)
            self._hold_s *= 2
        self._bench.warn(
            "launch: the host did not enqueue in time: the time of queued kernels has some of the host's in it"
        )
        return self._after.seconds_since(self._before)
