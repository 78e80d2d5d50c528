"""Which kernels access shared memory, by width and kind, and what must their loops hold? Accesses and a counter."""

from __future__ import annotations

from probe.kernels.cuda.kernel import Kernel, source_text
from probe.kernels.cuda.proof import Claim

ACCESSES = 64  # in the loop; one is a whole warp's
WIDTHS = (4, 8, 16)  # bytes a lane
AMPERE = 80
_SUFFIXES = {4: "", 8: ".64", 16: ".128"}


def instruction(access: str, access_bytes: int) -> str:
    """The machine instruction of a "load" or "store" of so many bytes a lane: "LDS.64"."""
    return f"{'LDS' if access == 'load' else 'STS'}{_SUFFIXES[access_bytes]}"


def chain(access_bytes: int) -> Kernel:
    """Loads each of which needs the address that the one before it loaded."""
    return _kernel("shared_load_chain", "load", access_bytes)


def independent(access: str, access_bytes: int) -> Kernel:
    """Loads or stores that do not wait for one another."""
    return _kernel("shared_loads" if access == "load" else "shared_stores", access, access_bytes)


def _kernel(name: str, access: str, access_bytes: int) -> Kernel:
    def claim(architecture: int) -> Claim:
        main, *wider = (_as_written(access, width, architecture) for width in WIDTHS if width >= access_bytes)
        # The kernels that load store their addresses first, by one store outside the loop.
        return Claim(exactly={main: ACCESSES, **dict.fromkeys(wider, 0)}, loop_only=(main,), main=main)

    defines = {"ACCESS_BYTES": access_bytes, "ACCESSES": ACCESSES}
    return Kernel(name, source_text("shared_banks.cu"), claim, defines, label=instruction(access, access_bytes))


def _as_written(access: str, access_bytes: int, architecture: int) -> str:
    """In machine code before Ampere a volatile load is LDS.U."""
    name = instruction(access, access_bytes)
    return name.replace("LDS", "LDS.U") if architecture < AMPERE else name


KERNELS: tuple[Kernel, ...] = tuple(
    kernel for width in WIDTHS for kernel in (chain(width), independent("load", width), independent("store", width))
)
