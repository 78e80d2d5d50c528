"""Which kernels are launched to see what a launch costs? One that does nothing, a small one, and one that waits."""

from __future__ import annotations

from probe.kernels.cuda.kernel import Kernel, source_text
from probe.kernels.cuda.proof import Claim

SMALL_THREADS = 256
SMALL_BYTES = 64 << 10  # read and written together, the size of gpu-benches' kernels that others' values are of

_MEMORY = ("LD", "LDG", "ST", "STG", "LDS", "STS", "LDL", "STL", "ATOM", "RED")
_SOURCE = source_text("empty.cu")


def _reads_the_clock(architecture: int) -> Claim:
    """At its start and in its loop; consumer Blackwell keeps the clock in registers of the whole warp."""
    clock = "CS2UR" if architecture >= 120 else "CS2R"
    return Claim(at_least={clock: 2, "BRA": 1}, forbidden=_MEMORY, main=clock)


EMPTY = Kernel("empty", _SOURCE, Claim(exactly={"EXIT": 1}, forbidden=(*_MEMORY, "BAR"), main="EXIT"))
SMALL = Kernel("small", _SOURCE, Claim(exactly={"LDG": 1, "STG": 1, "FMUL": 1}, main="LDG"))
HOLD = Kernel("hold", _SOURCE, _reads_the_clock)
KERNELS: tuple[Kernel, ...] = (EMPTY, SMALL, HOLD)
