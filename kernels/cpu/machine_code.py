"""How do the measuring loops become callable without a compiler? Bytes in executable memory, called through ctypes.

Where executable memory is refused (hardened kernels, SELinux execmem), the same loops are compiled from cpu_loops.c if
there is a C compiler; where there is none either, UnavailableError says so and the suites are reported as unsupported.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import sys
from collections.abc import Callable

from probe.errors import UnavailableError
from probe.kernels.cpu import aarch64, aarch64_loads, compiled, saxpy_bodies, x86_64, x86_64_loads
from probe.kernels.cpu.loops import (
    ADDS_TYPE,
    ALL_STREAMS,
    CHASE_TYPE,
    READ,
    SAXPY,
    SAXPY_SCALAR,
    Function,
    LoadLoop,
    LoadRun,
    Loops,
    stream_type,
)

X86_64 = ("x86_64", "amd64")
AARCH64 = ("aarch64", "arm64")
_READ_EXECUTE = 1 | 4  # PROT_READ | PROT_EXEC


@functools.cache
def load(isa: tuple[str, ...]) -> Loops:
    """The measuring loops for a CPU with instruction sets `isa` (names as in `Device.isa`).

    Raises UnavailableError where neither executable memory nor a compiler can be had.
    """
    try:
        return assemble(isa)
    except (OSError, UnavailableError) as refused:
        try:
            return compiled.load()
        except UnavailableError as missing:
            raise UnavailableError(f"{refused}; {missing}") from None


def assemble(isa: tuple[str, ...], machine: str | None = None) -> Loops:
    """The loops from instruction bytes; OSError where the system refuses executable memory."""
    machine = (machine or platform.machine()).lower()
    if sys.platform == "win32" or machine not in X86_64 + AARCH64:
        raise UnavailableError(f"there are no measuring loops for {machine} on {sys.platform}")
    if machine in X86_64:
        fma, chains, name = x86_64.fma(isa), x86_64.FMA_CHAINS, x86_64.widest(isa).name
        lanes = x86_64.widest(isa).lanes(4)
    else:
        fma, chains, name, lanes = aarch64.fma(isa), aarch64.FMA_CHAINS, "neon", 4
    code = x86_64 if machine in X86_64 else aarch64
    loads = x86_64_loads if machine in X86_64 else aarch64_loads
    body_of = saxpy_bodies.decode_x86_64 if machine in X86_64 else saxpy_bodies.decode_aarch64
    return Loops(
        origin="machine code",
        instruction_set=name,
        chase=function(code.chase(), CHASE_TYPE),
        adds=function(code.adds(), ADDS_TYPE),
        stream={
            kind: function(loads.read(isa) if kind == READ else code.stream(kind, isa), stream_type(kind))
            for kind in ALL_STREAMS
        },
        fma=function(fma, ADDS_TYPE) if fma else None,
        fma_flops=2 * chains * lanes,
        loads=tuple(_load_loop(width, loads.load(width), loads.decode) for width in loads.widths(isa)),
        bodies={kind: body_of(code.stream(kind, isa)) for kind in (SAXPY, SAXPY_SCALAR)},
    )


def _load_loop(width: int, code: bytes, decode: Callable[[bytes], LoadRun]) -> LoadLoop:
    """The loop of `code`, and what its bytes say it loads with."""
    found = decode(code)
    return LoadLoop(width, function(code, stream_type(READ)), found.instruction, found.encoding.hex())


def function(code: bytes, signature: type[ctypes._CFunctionType]) -> Function:
    """`code` as a callable; the memory is never writable and executable at once, and lives as long as the callable.

    Making the pages executable after writing them also makes the instruction cache coherent where the architecture
    leaves that to software (aarch64 Linux does it when the page is mapped executable; macOS asks for a call).
    """
    memory = mmap.mmap(-1, -(-len(code) // mmap.PAGESIZE) * mmap.PAGESIZE)
    memory.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(len(memory)), _READ_EXECUTE):
        errno = ctypes.get_errno()
        raise OSError(errno, "this system refuses executable memory")
    if (invalidate := getattr(libc, "sys_icache_invalidate", None)) is not None:
        invalidate(ctypes.c_void_p(address), ctypes.c_size_t(len(memory)))
    made = signature(address)
    made._memory = memory  # type: ignore[attr-defined]  # keeps the pages mapped
    return made
