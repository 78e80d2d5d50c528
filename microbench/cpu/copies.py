"""How fast is memory copied, by size, with libc's memcpy, NumPy and PyTorch?

Method: from one array to another, both pageable and touched before, windows of many copies where they are short. Bytes
are counted once, as nvbandwidth does: a copy of n bytes counts n, though it reads n and writes n
(`params.traffic_factor`); STREAM's copy counts both and so has twice the rate at the same speed. The call from Python
is part of the time, as it is in a program: `params.call_s` is what a copy of four bytes takes. PyTorch may use its
threads for large arrays.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from probe.microbench import memory
from probe.microbench.harness import Clock, Effort, Variant, measure, paced, repeats_for, timed
from probe.microbench.suite import Context, rate_measurement
from probe.results.measurement import Measurement
from probe.units import format_bytes

NAME = "copies"
TRAFFIC_FACTOR = 2  # bytes read and written for each byte copied; a store that reads its line first makes it three
ELEMENT_BYTES = 4  # float32
LEAST_WINDOWS = 6
CALL_SHARE = 0.05  # of the budget, for the copies of one element
QUICK = slice(2, None, 4)  # of the sizes: 16 KiB, 256 KiB, 4 MiB, 64 MiB
Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Copy:
    """A way to copy `source` to `destination`: its name, the threads it may use, one copy."""

    name: str
    threads: int
    call: Callable[[], object]

    def variant(self, size_bytes: int, clock: Clock) -> Variant:
        """Windows of as many copies of `size_bytes` as make about half a millisecond."""

        def several(n: int) -> None:
            for _ in range(n):
                self.call()

        repeats = repeats_for(lambda n: timed(lambda: several(n), clock)())
        return Variant(self.name, timed(lambda: several(repeats), clock), repeats * size_bytes)


def run(context: Context) -> Iterator[Measurement]:
    """One measurement a size and implementation, metric `bandwidth`, in B/s of bytes copied; the largest size first."""
    wanted = sizes(quick=context.quick)
    usable = [size for size in wanted if memory.affordable((2 * size,), memory.free_bytes())]
    if len(usable) < len(wanted):
        left_out = format_bytes(wanted[len(usable)])
        context.warnings.append(f"copies: sizes from {left_out} up are left out, too little memory is free")
    if not usable:
        return
    arrays = Arrays(usable[-1])
    call_s = _call_times(context, arrays)
    budget_s = context.budget_s * (1 - CALL_SHARE)
    for size, share_s in paced(usable[::-1], budget_s, context.clock, context.report):
        yield from _measure_size(context, arrays, size, share_s, call_s)


def sizes(*, quick: bool) -> tuple[int, ...]:
    """Bytes copied at a time: powers of two from 4 KiB to 256 MiB; quick: each fourth of them."""
    exponents = range(memory.SMALLEST_BYTES.bit_length() - 1, memory.LARGEST_BYTES.bit_length())
    return tuple(1 << e for e in (exponents[QUICK] if quick else exponents))


class Arrays:
    """Two arrays, touched, that do not start at the same place of a page."""

    def __init__(self, largest_bytes: int) -> None:
        """Room for copies of up to `largest_bytes`."""
        self._buffer = memory.Buffer(memory.buffer_bytes(2 * largest_bytes))
        words = self._buffer.view(np.float32)
        words.fill(1.0)
        at = [offset // ELEMENT_BYTES for offset in memory.array_offsets(2 * largest_bytes, 2)]
        self._destination, self._source = (words[first : first + largest_bytes // ELEMENT_BYTES] for first in at)

    def copy_of(self, size_bytes: int) -> tuple[Vector, Vector]:
        """The first `size_bytes` of the destination and of the source."""
        elements = size_bytes // ELEMENT_BYTES
        return self._destination[:elements], self._source[:elements]


def implementations(context: Context, destination: Vector, source: Vector) -> list[Copy]:
    """Each way to copy all of `source`; a warning for libc's where it cannot be called."""
    import torch

    target, origin = torch.from_numpy(destination), torch.from_numpy(source)
    found = [
        Copy("numpy copyto", 1, lambda: np.copyto(destination, source)),
        Copy("torch copy_", torch.get_num_threads(), lambda: target.copy_(origin)),
    ]
    try:
        memcpy = libc_memcpy()
    except (OSError, AttributeError, TypeError) as missing:  # TypeError: Windows has no library without a name
        if not any("libc" in warning for warning in context.warnings):
            context.warnings.append(f"copies: libc's memcpy is left out, it cannot be called here: {missing}")
        return found
    at, start, n = destination.ctypes.data, source.ctypes.data, source.nbytes
    return [Copy("libc memcpy", 1, lambda: memcpy(at, start, n)), *found]


def libc_memcpy() -> Callable[[int, int, int], object]:
    """memcpy(destination, source, bytes) of the C library this process runs with."""
    memcpy = ctypes.CDLL(None).memcpy
    memcpy.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    memcpy.restype = ctypes.c_void_p
    return memcpy


def _call_times(context: Context, arrays: Arrays) -> dict[str, float]:
    """The shortest time of a copy of one element, in seconds, by implementation."""
    variants = [copy.variant(1, context.clock) for copy in implementations(context, *arrays.copy_of(ELEMENT_BYTES))]
    effort = Effort(context.budget_s * CALL_SHARE, least=LEAST_WINDOWS)
    return {timing.name: timing.seconds.min for timing in measure(variants, effort, context.clock)}


def _measure_size(
    context: Context, arrays: Arrays, size: int, budget_s: float, call_s: dict[str, float]
) -> Iterator[Measurement]:
    copies = implementations(context, *arrays.copy_of(size))
    variants = [copy.variant(size, context.clock) for copy in copies]
    timings = measure(variants, Effort(budget_s, least=LEAST_WINDOWS), context.clock)
    for copy, timing in zip(copies, timings, strict=True):
        params = {
            "implementation": copy.name,
            "direction": "host to host",
            "memory": "pageable",
            "size_bytes": size,
            "threads": copy.threads,
            "bytes_counted": "copied",
            "traffic_factor": TRAFFIC_FACTOR,
            "call_s": call_s[copy.name],
        }
        name = f"{copy.name} {format_bytes(size)}"
        yield rate_measurement(NAME, name, "bandwidth", "B/s", timing, params)
