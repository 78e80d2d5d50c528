"""What are the measuring loops called, and how are they called? Names and types shared by all ways to make them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

Function = Callable[..., int]


@dataclass(frozen=True)
class Stream:
    """One STREAM-like loop over arrays (McCalpin's copy, scale, add, triad); `accesses` arrays touched per element."""

    name: str
    accesses: int
    element_bytes: int = 8

    @property
    def double(self) -> bool:
        """Whether the elements are float64 rather than float32."""
        return self.element_bytes == 8

    @property
    def symbol(self) -> str:
        """The function's name in cpu_loops.c."""
        return f"probe_{self.name}_{'f64' if self.double else 'f32'}"


COPY = Stream("copy", 2)
SCALE = Stream("scale", 2)
ADD = Stream("add", 3)
TRIAD = Stream("triad", 3)
STREAMS = (COPY, SCALE, ADD, TRIAD)
SAXPY = Stream("triad", 3, element_bytes=4)  # with the destination as x: y = y + a × x

CHASE_TYPE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)
ADDS_TYPE = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)


def stream_type(kind: Stream) -> type[ctypes._CFunctionType]:
    """void (destination, x, y, elements, repeats, gate, scalar); see `Loops.stream`."""
    scalar = ctypes.c_double if kind.double else ctypes.c_float
    pointer, count = ctypes.c_void_p, ctypes.c_uint64
    return ctypes.CFUNCTYPE(None, pointer, pointer, pointer, count, count, pointer, scalar)


@dataclass(frozen=True)
class Loops:
    """The measuring loops as callables; ctypes releases the GIL around each call, so threads run side by side.

    chase(pointer, n) follows pointers n × `unroll` times and returns the last one. adds(x, n) does n × `unroll`
    dependent additions. stream[kind](destination, x, y, elements, repeats, gate, scalar) runs one STREAM loop
    `repeats` times; a gate is the address of two 64-bit words (arrived, expected) at which threads wait for one
    another, or None. fma(0, n) does n × `fma_flops` float32 operations; None where there is no FMA.
    """

    origin: str  # "machine code" or "compiled"
    instruction_set: str  # "avx512", "avx2", "sse2", "neon", or "compiler"
    chase: Function
    adds: Function
    stream: dict[Stream, Function]
    fma: Function | None = None
    fma_flops: int = 0
    unroll: int = 32
