"""What are the measuring loops called, and how are they called? Names and types shared by all ways to make them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field

Function = Callable[..., int]


@dataclass(frozen=True)
class Stream:
    """One loop over arrays (McCalpin's four, read and write); `accesses` arrays touched per element, each once.

    `non_temporal`: its stores go past the caches, so that no line is read before it is written. `scalar`: one element
    at a time, whatever vectors the processor has.
    """

    name: str
    accesses: int
    element_bytes: int = 8
    non_temporal: bool = False
    scalar: bool = False

    @property
    def double(self) -> bool:
        """Whether the elements are float64 rather than float32."""
        return self.element_bytes == 8

    @property
    def writes(self) -> bool:
        """Whether it stores an array."""
        return self.name != "read"

    @property
    def label(self) -> str:
        """What it is called in results: its name, with "_nt" for non-temporal stores."""
        return f"{self.name}_nt" if self.non_temporal else self.name

    @property
    def symbol(self) -> str:
        """The function's name in cpu_loops.c."""
        return f"probe_{self.label}_{'scalar_' if self.scalar else ''}{'f64' if self.double else 'f32'}"


READ = Stream("read", 1)
WRITE = Stream("write", 1)
COPY = Stream("copy", 2)
SCALE = Stream("scale", 2)
ADD = Stream("add", 3)
TRIAD = Stream("triad", 3)
STREAMS = (COPY, SCALE, ADD, TRIAD)
WRITE_NT = Stream("write", 1, non_temporal=True)
COPY_NT = Stream("copy", 2, non_temporal=True)
TRIAD_NT = Stream("triad", 3, non_temporal=True)
NON_TEMPORAL = (WRITE_NT, COPY_NT, TRIAD_NT)
BANDWIDTHS = (READ, WRITE, *STREAMS, *NON_TEMPORAL)
SAXPY = Stream("triad", 3, element_bytes=4)  # with the destination as x: y = y + a × x
SAXPY_SCALAR = Stream("triad", 3, element_bytes=4, scalar=True)  # what code costs that is not vectorised
ALL_STREAMS = (*BANDWIDTHS, SAXPY, SAXPY_SCALAR)
LOAD_WIDTHS = (8, 16, 32, 64)  # bytes a load: of a general register, SSE or NEON, AVX, AVX-512

CHASE_TYPE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)
ADDS_TYPE = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)


def stream_type(kind: Stream) -> type[ctypes._CFunctionType]:
    """void (destination, x, y, elements, repeats, gate, scalar); see `Loops.stream`."""
    scalar = ctypes.c_double if kind.double else ctypes.c_float
    pointer, count = ctypes.c_void_p, ctypes.c_uint64
    return ctypes.CFUNCTYPE(None, pointer, pointer, pointer, count, count, pointer, scalar)


def load_symbol(width_bytes: int) -> str:
    """The name in cpu_loops.c of the loop that loads `width_bytes` at a time."""
    return f"probe_load_{width_bytes}"


@dataclass(frozen=True)
class LoadRun:
    """A run of equal loads, decoded from a loop's bytes: the instruction, the first one's bytes, all offsets."""

    instruction: str
    encoding: bytes
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class LoadLoop:
    """A loop of nothing but loads of one width: called as `Loops.stream` are, reads `elements` × 8 bytes at x.

    `instruction` and `encoding` (of the body's first, hexadecimal) are decoded from the bytes that run; None for
    compiled loops, whose bytes are not read.
    """

    width_bytes: int
    call: Function
    instruction: str | None = None
    encoding: str | None = None


@dataclass(frozen=True)
class Loops:
    """The measuring loops as callables; ctypes releases the GIL around each call, so threads run side by side.

    chase(pointer, n) follows pointers n × `unroll` times and returns the last one. adds(x, n) does n × `unroll`
    dependent additions. stream[kind](destination, x, y, elements, repeats, gate, scalar) runs one loop over arrays
    `repeats` times; a gate is the address of two 64-bit words (arrived, expected) at which threads wait for one
    another, or None. `write` stores the scalar. `read` only loads, and at its end stores at the destination 64 bytes
    whose 64-bit words, combined by exclusive or, are the exclusive or of all words read. Non-temporal kinds may be
    missing. fma(0, n) does n × `fma_flops` float32 operations; None where there is no FMA. bodies[kind] are the
    instructions of a stream's inner loop, decoded from the bytes that run; those of compiled loops are not read.
    """

    origin: str  # "machine code" or "compiled"
    instruction_set: str  # "avx512", "avx2", "sse2", "neon", or "compiler"
    chase: Function
    adds: Function
    stream: dict[Stream, Function]
    fma: Function | None = None
    fma_flops: int = 0
    unroll: int = 32
    loads: tuple[LoadLoop, ...] = ()  # by width
    bodies: dict[Stream, tuple[str, ...]] = field(default_factory=dict)
