"""Which machine code shows the banks of the register file? One loop whose operands lie where a variant wants them.

Register r lies in bank r mod k of k banks. A variant fixes the residues of its three source registers modulo 8, which
fixes their banks for k = 1, 2, 4 and 8. What else a variant chooses: the instruction, which sources name the same
register every time (`held`), which of those carry `.reuse`, and the stall count.

Dependent instructions lie `CHAINS` = 8 apart: 8 cycles or more with a stall of 1. FFMA and IADD3 have a fixed latency
of 4 cycles on sm_70 to sm_120 (the stall that ptxas puts between dependent ones, which is tested), so that no result is
read too early. The other sources are never written in the loop and were not loaded from memory: nothing is waited for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from probe.kernels.cuda import recompose
from probe.kernels.cuda.kernel import Kernel, source_text
from probe.kernels.cuda.proof import Claim
from probe.kernels.cuda.recompose import FFMA, Block, Operation, RecomposeError, Word

NAME = "register_banks"
INSTRUCTIONS = 512  # of the timed loop
CHAINS = 8
LEAST_CHAINS = 4  # still the latency, with a stall of 1
POOLS = (98, 64)  # the second where a compiler cannot keep the first in 128 registers
MODULUS = 8
THREADS = 512  # at most, in a block
A, B, C = 1, 2, 4  # the sources as bits of `held` and `reuse`
SLOTS = (A, B, C)
# A loop leaves by a CALL on sm_80 to sm_89, and begins with a SHFL that no thread runs (@!PT) on sm_70.
LOOP = ("FFMA", "CALL", "SHFL")
CLAIM = Claim(exactly={"FFMA": INSTRUCTIONS}, loop_only=LOOP, main="FFMA")
_SOURCE = source_text("register_banks.cu")

KERNELS: tuple[Kernel, ...] = tuple(
    Kernel(NAME, _SOURCE, CLAIM, {"POOL": pool}, label=f"pool of {pool}") for pool in POOLS
)


@dataclass(frozen=True)
class Variant:
    """What the loop consists of; `residues` are the numbers of the source registers modulo 8."""

    residues: tuple[int, int, int]
    operation: Operation = FFMA
    held: int = 0
    reuse: int = 0
    stall: int = 1

    def __post_init__(self) -> None:
        if self.reuse & ~self.held:
            raise RecomposeError(f"{self}: only a register that the next instruction names again can be reused")

    @property
    def pattern(self) -> str:
        """The sources by residue, as a reader writes registers: R0 R1 R0.reuse; 1 for a constant."""
        sources = [
            f"R{residue}" + ".reuse" * bool(self.reuse & bit) for bit, residue in zip(SLOTS, self.residues, strict=True)
        ]
        if self.operation.constant is not None:
            sources[1] = "1"
        return " ".join(sources)

    @property
    def reads(self) -> tuple[int, ...]:
        """The residues of the registers that each instruction has to fetch: all but constants and those reused."""
        constant = B if self.operation.constant is not None else 0
        return tuple(r for bit, r in zip(SLOTS, self.residues, strict=True) if not bit & (self.reuse | constant))


def kernel(pool: int = POOLS[0]) -> Kernel:
    """The kernel with `pool` live registers beside the chains."""
    return next(k for k in KERNELS if k.defines["POOL"] == pool)


def residues() -> Iterator[tuple[int, int, int]]:
    """The 64 patterns modulo 4, the three that tell 8 banks from 4 last."""
    yield from itertools.product(range(4), repeat=3)
    yield from ((0, 0, 4), (0, 4, 0), (4, 0, 0))


def words(block: Block, variant: Variant) -> tuple[Word, ...]:
    """One period of the variant's loop; RecomposeError where the block has too few registers of a residue.

    Where the third source is not held it is also the destination (an accumulator, as in a matrix product); where it is,
    results go to other registers of its residue.
    """
    a, b, c = variant.residues
    free = {r: [n for n in block.registers if n % MODULUS == r] for r in {a, b, c}}
    third = _taken(free[c], 1) if variant.held & C else []
    first = _taken(free[a], 1 if variant.held & A else 2)
    second = _taken(free[b], 1 if variant.held & B else 2)
    results = _taken(free[c], CHAINS if len(free[c]) >= CHAINS else LEAST_CHAINS)
    chosen = (Word(variant.operation, d, *sources) for d, *sources in _cycled(results, first, second, third or results))
    return tuple(_controlled(word, variant) for word in chosen)


def _taken(free: list[int], count: int) -> list[int]:
    """The next `count` of the free registers, which are then no longer free."""
    if len(free) < count:
        raise RecomposeError(f"the loop has too few registers for the pattern: {len(free)} left instead of {count}")
    taken = free[:count]
    del free[:count]
    return taken


def _cycled(*registers: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """For each instruction of a period the register of each operand, each list repeated."""
    for i in range(CHAINS):
        yield tuple(each[i % len(each)] for each in registers)


def _controlled(word: Word, variant: Variant) -> Word:
    rb = recompose.NO_REGISTER if word.operation.constant is not None else word.rb
    return replace(word, rb=rb, stall=variant.stall, reuse=variant.reuse)


def recomposed(block: Block, variant: Variant) -> bytes:
    """The cubin with the variant's instructions, each of the 512 read back and compared with what was asked for."""
    period = words(block, variant)
    code = block.with_words(period)
    found = [replace(word, wait=0) for word in block.read(code)]
    if len(found) != INSTRUCTIONS or found != list(period) * (INSTRUCTIONS // len(period)):
        raise RecomposeError(f"{variant.pattern}: the code reads back other than it was composed")
    return code


def proof(block: Block, variant: Variant, compiled: dict[str, object]) -> dict[str, object]:
    """What stands behind a measurement of the variant; `compiled` is the proof of the kernel before."""
    period = words(block, variant)
    return {
        **{key: value for key, value in compiled.items() if key != "loop"},
        "instruction": variant.operation.name,
        "count": INSTRUCTIONS,
        "recomposed": True,
        "operands": [str(word) for word in period[:2]],
        "stall": variant.stall,
    }
