"""Which ways of copying between host and GPU are timed, in which buffers, and how is a window of each run?

Buffers are page-locked (pinned) and ordinary (pageable) memory of the host, and two pieces of the GPU's. Copies of few
bytes are repeated by machine code (kernels/cuda/driver_calls.py): Python between them would take longer than they do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from probe.kernels.cuda import driver_calls
from probe.kernels.cuda.driver_calls import DriverCall, DriverCalls
from probe.kernels.cuda.gpu import Gpu
from probe.microbench.cuda.bench import WINDOW_S, Bench
from probe.microbench.harness import Variant, repeats_for

H2D, D2H, D2D, BOTH = "H2D", "D2H", "D2D", "H2D and D2H"
PINNED, PAGEABLE, DEVICE = "pinned", "pageable", "device"
SMALL_BYTES, A_CALL = 1 << 20, 32  # up to that size so many copies between two looks at Python
BOTH_FROM_BYTES = 1 << 20  # below, starting two streams takes longer than the copies
PATTERN_BYTES = 1 << 20  # of random bytes, repeated: as incompressible as any data
SEED = 20260103


@dataclass(frozen=True)
class Way:
    """A direction, the host's memory in it, whose clock times it, and bytes moved in the GPU's memory for each copied.

    `traffic_factor` is 2 within the GPU's memory, where each byte is read and written.
    """

    direction: str
    memory: str
    clock: str = "device"
    traffic_factor: int = 1

    @property
    def name(self) -> str:
        """Direction and memory: "H2D pinned"; within the GPU the direction alone."""
        return self.direction if self.memory == DEVICE else f"{self.direction} {self.memory}"

    @property
    def params(self) -> dict[str, Any]:
        """What a row says of it."""
        pageable = f"cuMemcpy{self.direction.replace('2', 'to')}Async, cuStreamSynchronize"
        return {
            "direction": self.direction,
            "memory": self.memory,
            "api": pageable if self.memory == PAGEABLE else "cuMemcpyAsync",
            "clock": self.clock,
            "bytes_counted": "copied",
            "traffic_factor": self.traffic_factor,
        }


PINNED_H2D, PINNED_D2H, PINNED_BOTH = Way(H2D, PINNED), Way(D2H, PINNED), Way(BOTH, PINNED)
PAGEABLE_H2D, PAGEABLE_D2H = Way(H2D, PAGEABLE, "host"), Way(D2H, PAGEABLE, "host")
WITHIN = Way(D2D, DEVICE, traffic_factor=2)
WAYS = (PINNED_H2D, PINNED_D2H, WITHIN, PAGEABLE_H2D, PAGEABLE_D2H, PINNED_BOTH)


class Buffers:
    """Memory for copies of up to `n_bytes` in every direction; a context manager, freed at its end."""

    def __init__(self, gpu: Gpu, n_bytes: int) -> None:
        """Raises OutOfMemory, of the GPU or of memory that can be page-locked, with nothing left allocated."""
        self.n_bytes = n_bytes
        self._gpu = gpu
        self.second = gpu.stream()
        with contextlib.ExitStack() as freed:
            self.device, self.other = (freed.enter_context(gpu.allocate(n_bytes)) for _ in range(2))
            self.pinned, self.target = (freed.enter_context(gpu.allocate_host(n_bytes)) for _ in range(2))
            self.pageable: npt.NDArray[np.uint8] = np.empty(n_bytes, np.uint8)
            self._freed = freed.pop_all()
        for array in (self.pinned.array(np.uint8), self.target.array(np.uint8), self.pageable):
            _fill(array)
        self.device.write(self.pageable)
        self.other.write(self.pageable)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._freed.__exit__(kind, error, at)

    def calls(self, way: Way, n_bytes: int) -> Iterator[DriverCall]:
        """What one copy of `n_bytes` is; with pageable memory until it is done, in both directions two at once."""
        stream, host = self._gpu.own_stream, self.pageable.ctypes.data
        device, other = self.device.address, self.other.address
        if way.memory == PAGEABLE:
            ends = (device, host) if way.direction == H2D else (host, other)
            yield driver_calls.copy_pageable(way.direction, *ends, n_bytes, stream)
            yield driver_calls.synchronise(stream)
            return
        if way.direction in (H2D, BOTH):
            yield driver_calls.copy(device, self.pinned.address, n_bytes, stream)
        if way.direction in (D2H, BOTH):
            beside = self.second if way.direction == BOTH else stream
            yield driver_calls.copy(self.target.address, other, n_bytes, beside)
        if way.direction == D2D:
            yield driver_calls.copy(other, device, n_bytes, stream)

    def waited(self, way: Way, n_bytes: int) -> DriverCalls:
        """One copy and the wait until it is done."""
        calls = list(self.calls(way, n_bytes))
        if way.memory != PAGEABLE:
            calls.append(driver_calls.synchronise(self._gpu.own_stream))
        return DriverCalls(self._gpu, *calls)

    def copies_right(self) -> bool:
        """Whether bytes sent through the GPU come back as they were, by every way that is not two at once."""
        n_bytes = min(self.n_bytes, PATTERN_BYTES)
        sent, came = self.pinned.array(np.uint8)[:n_bytes], self.target.array(np.uint8)[:n_bytes]
        ordinary = self.pageable[:n_bytes]
        sent ^= 0xFF  # other than what lies anywhere
        self._through(n_bytes, PINNED_H2D, WITHIN, PINNED_D2H, PAGEABLE_D2H)
        right = np.array_equal(sent, came) and np.array_equal(sent, ordinary)
        ordinary ^= 0x55
        self._through(n_bytes, PAGEABLE_H2D, WITHIN, PINNED_D2H)
        return right and np.array_equal(ordinary, came)

    def _through(self, n_bytes: int, *ways: Way) -> None:
        for way in ways:
            self.waited(way, n_bytes).run()


def _fill(array: npt.NDArray[np.uint8]) -> None:
    """Write random bytes, the same again and again."""
    pattern = np.random.default_rng(SEED).integers(0, 256, PATTERN_BYTES, np.uint8)
    for start in range(0, len(array), PATTERN_BYTES):
        part = array[start : start + PATTERN_BYTES]
        part[:] = pattern[: len(part)]


def variant(bench: Bench, buffers: Buffers, way: Way, n_bytes: int) -> Variant:
    """Windows of as many copies of `n_bytes` as take a millisecond; work in bytes, both directions' together."""
    calls = DriverCalls(bench.gpu, *buffers.calls(way, n_bytes))
    rounds = A_CALL if n_bytes <= SMALL_BYTES else 1
    if way.clock == "host":
        return host_variant(bench, way.name, calls, n_bytes)
    if way.direction == BOTH:
        return _two_streams(bench, buffers, way.name, calls, n_bytes)
    return bench.variant(way.name, lambda: calls.run(rounds), rounds * n_bytes)


def host_variant(bench: Bench, name: str, calls: DriverCalls, work: float) -> Variant:
    """Windows by the host's clock of calls that end when their work is done."""
    clock = bench.context.clock

    def window_of(rounds: int) -> float:
        bench.gpu.synchronise()
        start = clock()
        calls.run(rounds)
        return clock() - start

    rounds = repeats_for(window_of, WINDOW_S)
    return Variant(name, lambda: window_of(rounds), work * rounds)


def _two_streams(bench: Bench, buffers: Buffers, name: str, calls: DriverCalls, n_bytes: int) -> Variant:
    """Windows from before the first copy of either stream until the last of both is done."""
    gpu, second = bench.gpu, buffers.second
    begun, done = gpu.event(), gpu.event()

    def enqueue(rounds: int) -> None:
        begun.record()
        second.wait(begun)
        calls.run(rounds)
        done.record(second)
        gpu.own_stream.wait(done)

    def window_of(rounds: int) -> float:
        return bench.window(lambda: enqueue(rounds), 1)

    rounds = repeats_for(window_of, WINDOW_S)
    return Variant(name, lambda: window_of(rounds), 2 * n_bytes * rounds)
