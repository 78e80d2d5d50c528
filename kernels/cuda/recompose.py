"""How is an arithmetic instruction of Volta and later composed bit by bit, and put in place of a kernel's own?

A compiler allocates registers around bank conflicts, so C++ cannot ask for one. Here every instruction of a kernel's
loop is written anew: operands, `.reuse` flags and stall count are chosen, the rest of the kernel stays as compiled.

Of the 128 bits of a word (little-endian): operation 0–11, predicate 12–15, Rd 16–23, Ra 24–31, Rb 32–39 (or 32 bits of
a constant), Rc 64–71, modifiers 72–104, stall count in cycles 105–108, stay with this warp 109, barriers set 110–115
(7: none), barriers waited for 116–121, `.reuse` of Ra, Rb, Rc 122–124. `.reuse` is only valid with bit 109 set. That
nvdisasm reads the words so for sm_75 to sm_120 is tested; sm_70 has the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from probe.errors import UnavailableError
from probe.kernels.cuda import cubin as elf
from probe.kernels.cuda.proof import innermost_loop
from probe.kernels.cuda.sass import Instruction, of

WORD_BYTES = 16
NO_REGISTER = 255  # RZ
_ALWAYS = 7 << 12  # predicate PT
_NO_BARRIERS = 7 << 110 | 7 << 113  # fixed latency: the stall count alone keeps dependent instructions apart
_STAY = 1 << 109  # as compilers set it with a stall of one cycle
_SLOTS = (24, 32, 64)  # where Ra, Rb, Rc begin
_RD, _STALL, _WAIT, _REUSE = 16, 105, 116, 122


class RecomposeError(UnavailableError):
    """Code cannot be composed, or is not what was composed: the variant is not run."""


@dataclass(frozen=True)
class Operation:
    """One operation on three sources: its bits beside the operands. `constant` stands in the place of Rb."""

    name: str
    bits: int
    constant: int | None = None


FFMA = Operation("FFMA", 0x223)
FFMA_CONSTANT = Operation("FFMA", 0x823, constant=0x3F800000)  # 1.0: an operand that no register holds
IADD3 = Operation("IADD3", 0x210 | 0x07FFE << 76)  # no carry in or out: six predicates PT or !PT
OPERATIONS = (FFMA, FFMA_CONSTANT, IADD3)


@dataclass(frozen=True)
class Word:
    """One instruction: registers by number, `reuse` a bit each for Ra, Rb, Rc, `wait` the barriers waited for."""

    operation: Operation
    rd: int
    ra: int
    rb: int
    rc: int
    stall: int = 1
    reuse: int = 0
    wait: int = 0

    @property
    def encoded(self) -> int:
        """The 128 bits."""
        bits = self.operation.bits | _ALWAYS | _STAY | _NO_BARRIERS | self.rd << _RD
        for at, register in zip(_SLOTS, (self.ra, self.rb, self.rc), strict=True):
            bits |= register << at
        if self.operation.constant is not None:
            bits = bits & ~(0xFF << _SLOTS[1]) | self.operation.constant << _SLOTS[1]
        return bits | self.stall << _STALL | self.reuse << _REUSE | self.wait << _WAIT

    @property
    def sources(self) -> tuple[int | None, int | None, int | None]:
        """The registers read by slot; None for the constant."""
        return self.ra, None if self.operation.constant is not None else self.rb, self.rc

    def __str__(self) -> str:
        """As a disassembler writes it: FFMA R12, R28.reuse, R44, R12."""
        flags = [".reuse" * (self.reuse >> slot & 1) for slot in range(3)]
        words = ["1" if r is None else f"R{r}{flag}" for r, flag in zip(self.sources, flags, strict=True)]
        return f"{self.operation.name} R{self.rd}, {', '.join(words)}"


def parse(bits: int) -> Word:
    """The instruction with exactly these 128 bits; RecomposeError where it is none that can be composed here."""
    for operation in OPERATIONS:
        rd, ra, rb, rc = (bits >> at & 0xFF for at in (_RD, *_SLOTS))
        rb = NO_REGISTER if operation.constant is not None else rb
        word = Word(operation, rd, ra, rb, rc, bits >> _STALL & 0xF, bits >> _REUSE & 0xF, bits >> _WAIT & 0x3F)
        if word.encoded == bits:
            return word
    raise RecomposeError(f"{bits:#034x} is none of {', '.join(sorted({o.name for o in OPERATIONS}))}")


@dataclass(frozen=True)
class Block:
    """The FFMA of a kernel's innermost loop, one after the other as compiled, and the registers they may use.

    `registers` are those that they use and the loop's other instructions do not: whatever is written to them, counter
    and addresses stay as they are. `wait` are the barriers that any of them waited for.
    """

    cubin: bytes
    kernel: str
    offsets: tuple[int, ...]  # of each from the start of the kernel's code, in bytes
    registers: tuple[int, ...]  # ascending
    wait: int

    def with_words(self, words: Sequence[Word]) -> bytes:
        """The cubin with `words`, repeated as often as they fit, in place of the block's.

        The first waits for all that the block waited for; in later passes of the loop that costs nothing.
        """
        if not words or len(self.offsets) % len(words):
            raise RecomposeError(f"{len(words)} words do not fill {len(self.offsets)} places evenly")
        text = bytearray(elf.text(self.cubin, self.kernel))
        encoded = [word.encoded for word in words]
        for i, at in enumerate(self.offsets):
            bits = encoded[i % len(encoded)] | (self.wait << _WAIT if i == 0 else 0)
            text[at : at + WORD_BYTES] = bits.to_bytes(WORD_BYTES, "little")
        return elf.with_text(self.cubin, self.kernel, bytes(text))

    def read(self, cubin: bytes) -> tuple[Word, ...]:
        """The words that `cubin` has in the block's places."""
        text = elf.text(cubin, self.kernel)
        return tuple(parse(int.from_bytes(text[at : at + WORD_BYTES], "little")) for at in self.offsets)


def block(cubin: bytes, kernel: str) -> Block:
    """The block of FFMA in the innermost loop of `kernel`; RecomposeError where the loop has none."""
    loop = innermost_loop(of(cubin, kernel), FFMA.name)
    inside = [i for i in loop if i.mnemonic == FFMA.name and i.opcode == FFMA.bits]
    if not inside:
        raise RecomposeError(f"{kernel} has no FFMA between registers in a loop")
    used = {register for i in inside for register in (i.rd, i.ra, i.rb, i.rc)}
    others = {register for i in loop if i not in inside for register in _perhaps(i)}
    wait = 0
    for instruction in inside:
        wait |= instruction.bits(_WAIT, 6)
    registers = tuple(sorted(used - others - {NO_REGISTER}))
    return Block(cubin, kernel, tuple(i.offset for i in inside), registers, wait)


def _perhaps(instruction: Instruction) -> tuple[int, ...]:
    """The registers that an instruction of the loop may use: what stands in their places, be it registers or not.

    Branches and calls have none, and in their places part of the distance.
    """
    i = instruction
    return () if i.base in ("BRA", "CALL") else (i.rd, i.ra, i.rb, i.rc)
