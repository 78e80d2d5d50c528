"""Which kernels load, or store, words of one width, and what must their loops hold? No other access to memory."""

from __future__ import annotations

from collections.abc import Callable

from probe.kernels.cuda.kernel import Kernel, source_text
from probe.kernels.cuda.proof import Claim
from probe.kernels.cuda.streams import WRAP

THREADS = 256  # of a block
DEPTH = 4  # loads or stores of a thread in one iteration
FIRST_256_BITS = 100  # sm_100: ptxas refuses 256-bit loads and stores for what came before
_SOURCE = source_text("loads.cu")
_SUFFIXES = {4: "E", 8: "E.64", 16: "E.128", 32: "E.ENL2.256"}
WIDTHS = tuple(_SUFFIXES)  # bytes


def widths(architecture: int) -> tuple[int, ...]:
    """Bytes that one instruction can load on sm_<architecture>."""
    return tuple(width for width in WIDTHS if width <= 16 or architecture >= FIRST_256_BITS)


def tile_bytes(width: int) -> int:
    """Bytes that a block goes through in one iteration."""
    return THREADS * DEPTH * width


def load(width: int, *, past_l1: bool = True) -> Kernel:
    """Loads of `width` bytes; `past_l1`: that the L1 cache does not keep."""
    name, strong = f"LDG.{_SUFFIXES[width]}", f"LDG.{_SUFFIXES[width]}.STRONG.GPU"
    exactly = {"LDG": DEPTH, name: DEPTH, **_none_wider("LDG", width), strong: DEPTH if past_l1 else 0, "STG": 1}
    return _kernel("load", width, Claim(exactly=exactly, loop_only=(name, *WRAP), main=name), past_l1)


def store(width: int) -> Kernel:
    """Stores of `width` bytes."""
    name = f"STG.{_SUFFIXES[width]}"
    exactly = {"STG": DEPTH, name: DEPTH, **_none_wider("STG", width), "LDG": 0}
    return _kernel("store", width, Claim(exactly=exactly, loop_only=(name, *WRAP), main=name), True)


def _none_wider(kind: str, width: int) -> dict[str, int]:
    """ "LDG.E" covers the wider ones too, so that they are excluded by name."""
    return {f"{kind}.{_SUFFIXES[wider]}": 0 for wider in WIDTHS if wider > width}


def _kernel(name: str, width: int, claim: Claim | Callable[[int], Claim], past_l1: bool) -> Kernel:
    defines = {"THREADS": THREADS, "DEPTH": DEPTH, "WIDTH": width, "PAST_L1": int(past_l1)}
    label = f"{8 * width} bits{'' if past_l1 else ', through L1'}"
    return Kernel(name, _SOURCE, claim, defines, first=FIRST_256_BITS if width > 16 else 70, label=label)


def _shared(architecture: int) -> Claim:
    """128-bit loads from shared memory, which Volta and Turing call LDS.U.128."""
    name = "LDS.128" if architecture >= 80 else "LDS.U.128"
    return Claim(exactly={"LDS": DEPTH, name: DEPTH}, loop_only=(name,), main=name)


SHARED = _kernel("load_shared", 16, _shared, True)
SHARED_BYTES = tile_bytes(16)  # that each block reads again and again
KERNELS: tuple[Kernel, ...] = (
    *(kernel(width) for width in WIDTHS for kernel in (load, store)),
    load(16, past_l1=False),
    SHARED,
)
