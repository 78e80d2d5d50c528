"""Which kernels run chains of one instruction, and what must their loops hold? That instruction and a counter alone.

There is no MUFU.RCP: the compiler takes the reciprocal of a reciprocal for what it was made of, and the loop is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from probe.kernels.cuda.kernel import Kernel, source_text
from probe.kernels.cuda.proof import Claim

CHAINS = (1, 2, 4, 8)  # of one thread, side by side
IN_LOOP = 192  # from 256 on, ptxas leaves the loop by a CALL on Ampere and Ada
VOLTA = 70  # where the compiler puts a SHFL that never runs before a loop


@dataclass(frozen=True)
class Operation:
    """One instruction, or the few that do one operation of PTX, whose time is measured.

    `macs` is how many multiply-adds one does for a whole warp (or group of warps); 0 for other arithmetic.
    """

    name: str  # "FFMA", "mma.sync m16n8k16 bfloat16"
    define: str  # what selects it in the source
    main: str  # its mnemonic
    kind: str  # the row of the limits: "FFMA", "MMA bfloat16"
    first: int = 70  # the least architecture that has it
    only: frozenset[int] = frozenset()  # the architectures whose own instruction it is; empty: all from `first` on
    dtype: str = ""
    shape: str = ""
    macs: int = 0
    per_operation: int = 1  # machine instructions of one operation
    operations: int = IN_LOOP
    most_threads: int = 1024
    elsewhere: bool = False  # whether the kernel has the mnemonic outside the loop too
    extra: tuple[str, ...] = ()  # what else the loop must hold

    def native(self, architecture: int) -> bool:
        """Whether the architecture (90 for sm_90a) has an instruction of its own for it."""
        return architecture >= self.first and (not self.only or architecture in self.only)

    @property
    def counted(self) -> int:
        """Machine instructions of the operation in the loop."""
        return self.operations * self.per_operation

    @property
    def matrix(self) -> bool:
        """Whether it runs on the tensor cores."""
        return self.macs > 0

    def kernel(self, chains: int) -> Kernel:
        """The kernel with so many chains a thread."""
        return self._kernel(chains, f"{self.name} × {chains}", {})

    def _kernel(self, number: int, label: str, more: Mapping[str, object]) -> Kernel:
        name = self.define.lower()
        macros = {self.define: 1, "NAME": name, "OPERATIONS": self.operations, "MOST_THREADS": self.most_threads}
        macros |= {"MATRIX": 1} if self.matrix else {}
        return Kernel(f"{name}_{number}", self.source, self.claim, {**macros, **more}, self.first, label)

    @property
    def source(self) -> str:
        """CUDA C++."""
        return source_text("instructions.cu") + (source_text("mma.cu") if self.matrix else "")

    def claim(self, architecture: int) -> Claim:
        """What the machine code must show."""
        number = {self.main: self.counted}
        only = (self.main, *self.extra, *(("SHFL",) if architecture == VOLTA else ()))
        if self.elsewhere:
            return Claim(at_least=number, loop_only=only, main=self.main)
        return Claim(exactly=number, loop_only=only, main=self.main)

    def wrong_in_loop(self, proof: Mapping[str, object]) -> str | None:
        """Why the loop does not hold the instruction as often as it is counted; None where it does."""
        loop = proof.get("loop")
        held = loop if isinstance(loop, Mapping) else {}
        found = sum(n for mnemonic, n in held.items() if mnemonic.partition(".")[0] == self.main)
        own = 1 if self.main in ("IADD3", "SHFL") else 0  # the counter of the loop; Volta's SHFL that never runs
        if self.counted <= found <= self.counted + own:
            return None
        return f"the loop holds {found} {self.main} instead of {self.counted}"


def _arithmetic(name: str, main: str = "", define: str = "", **more: object) -> Operation:
    """An instruction that every lane runs for itself, named as it stands in machine code."""
    chosen = {"kind": name.partition(".")[0], **more}
    return Operation(name, define or name, main or name, **chosen)  # type: ignore[arg-type]  # by name, as given below


OPERATIONS: tuple[Operation, ...] = (
    _arithmetic("FFMA", dtype="float32"),
    _arithmetic("DFMA", dtype="float64"),
    _arithmetic("HFMA2", dtype="float16", elsewhere=True),
    _arithmetic("HFMA2.BF16", "HFMA2", "HFMA2_BF16", dtype="bfloat16", first=80, elsewhere=True),
    _arithmetic("IMAD", dtype="int32", elsewhere=True),
    _arithmetic("IADD3", dtype="int32", elsewhere=True),
    _arithmetic("MUFU.EX2", "MUFU", "MUFU_EX2", dtype="float32"),
    _arithmetic("MUFU.RSQ", "MUFU", "MUFU_RSQ", dtype="float32"),
    _arithmetic("SHFL.BFLY", "SHFL", "SHFL", elsewhere=True),
)
KERNELS: tuple[Kernel, ...] = tuple(operation.kernel(chains) for operation in OPERATIONS for chains in CHAINS)
