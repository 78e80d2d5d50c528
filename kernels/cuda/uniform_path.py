"""Which machine code shows what the uniform datapath takes off the vector one? One loop, its indices in either.

Since Turing an SM computes what is the same for all threads of a warp once, in registers of its own (UIADD3, ULEA in
place of IADD3, LEA). The compiler decides; the claims say what it must have decided.
"""

from __future__ import annotations

from probe.kernels.cuda.kernel import Kernel, source_text
from probe.kernels.cuda.proof import Claim
from probe.kernels.cuda.register_banks import LOOP

FFMA = 256  # of each iteration
INDEX_OPERATIONS = 128  # of each iteration, half of them additions and half shifts
NONE, UNIFORM, VECTOR = "none", "uniform", "vector"
DATAPATHS = (NONE, UNIFORM, VECTOR)  # by the value of the macro
FIRST = 75  # the first with uniform registers
_EACH = INDEX_OPERATIONS // 2
_ONE_ADDER = 120  # from here on the sum of two registers is an IADD


def _claim(datapath: str, architecture: int) -> Claim:
    """The index arithmetic in one datapath and nothing of it in the other; a few additions elsewhere in the kernel."""
    found = Claim(at_least={"FFMA": FFMA}, exactly={"LEA": 0, "ULEA": 0}, loop_only=LOOP, main="FFMA")
    if datapath == NONE:
        return found
    shift, add = ("ULEA", "UIADD3") if datapath == UNIFORM else ("LEA", _adder(architecture))
    return found.with_(at_least={"FFMA": FFMA, add: _EACH}, exactly={"LEA": 0, "ULEA": 0, shift: _EACH})


def _adder(architecture: int) -> str:
    return "IADD" if architecture >= _ONE_ADDER else "IADD3"


def _kernel(datapath: str) -> Kernel:
    return Kernel(
        "uniform_path",
        source_text("uniform_path.cu"),
        lambda architecture: _claim(datapath, architecture),
        {"DATAPATH": DATAPATHS.index(datapath)},
        first=FIRST,
        label=datapath,
    )


KERNELS: tuple[Kernel, ...] = tuple(_kernel(datapath) for datapath in DATAPATHS)


def kernel(datapath: str) -> Kernel:
    """The loop with its indices in `datapath`: "none", "uniform" or "vector"."""
    return KERNELS[DATAPATHS.index(datapath)]
