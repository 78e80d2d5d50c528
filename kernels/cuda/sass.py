"""Which instructions are in machine code? A decoder for what the kernels' proofs need, Volta and later, in Python.

Every word's operation is named, or "?0x123" where it is not known; the suffixes (LDG.E.128.CONSTANT) are decoded for
the operations in sass_modifiers, other names are the operation's alone (ISETP).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from probe.kernels.cuda import cubin as cubin_file
from probe.kernels.cuda.sass_modifiers import modifiers
from probe.kernels.cuda.sass_tables import FORMS, OPERATIONS, REUSED

BYTES = 16  # of one instruction
NONE = 255  # the register that reads as zero
# Forms of the operands: which of the second and third is no register.
_REGISTERS, _IMMEDIATE, _CONSTANT = 1, 4, 5
_SECOND_IN_REGISTER = (1, 2, 3)
_NO_SHIFTS = (1 << 16, 1 << 31)  # nvdisasm does not call these shifts
_SPLIT_TARGETS = 90  # since Hopper the low bits of a branch's distance lie apart


@dataclass(frozen=True)
class Instruction:
    """One decoded instruction; the properties are the fields that arithmetic and memory instructions share."""

    offset: int  # bytes from the kernel's first instruction
    word: int  # 128 bits, little-endian
    mnemonic: str  # "LDG.E.128", "FFMA", "?0x123"
    architecture: int = 90

    @property
    def base(self) -> str:
        """The mnemonic without its suffixes."""
        return self.mnemonic.partition(".")[0]

    @property
    def opcode(self) -> int:
        """The operation and the form of its operands, 12 bits."""
        return self.bits(0, 12)

    @property
    def predicate(self) -> int:
        """The predicate register it depends on; 7 is always true."""
        return self.bits(12, 3)

    @property
    def negated(self) -> bool:
        """Whether it runs where the predicate is false."""
        return bool(self.bits(15, 1))

    @property
    def rd(self) -> int:
        """The register written; 255 is none."""
        return self.bits(16, 8)

    @property
    def ra(self) -> int:
        """The first source register."""
        return self.bits(24, 8)

    @property
    def rb(self) -> int:
        """The second source register, in forms that have one there."""
        return self.bits(32, 8)

    @property
    def rc(self) -> int:
        """The third source register."""
        return self.bits(64, 8)

    @property
    def stall(self) -> int:
        """Cycles before the next instruction of the warp may issue."""
        return self.bits(105, 4)

    @property
    def yields(self) -> int:
        """The bit beside the stall count."""
        return self.bits(109, 1)

    @property
    def reuse(self) -> int:
        """Which source operands stay in the operand cache: bit 0 ra, 1 rb, 2 rc."""
        return self.bits(122, 4)

    @property
    def target(self) -> int | None:
        """The offset that a BRA goes to; None for other instructions."""
        if self.base != "BRA":
            return None
        distance = _signed(self.bits(34, 48), 48)
        if self.architecture >= _SPLIT_TARGETS:
            distance = distance * 256 + self.bits(16, 8)
        return self.offset + BYTES + 4 * distance

    def bits(self, low: int, width: int) -> int:
        """A field of the word."""
        return (self.word >> low) & ((1 << width) - 1)


def decode(text: bytes, architecture: int = 90) -> tuple[Instruction, ...]:
    """The instructions of a kernel's machine code for `architecture` (90 for sm_90a)."""
    words = [int.from_bytes(text[at : at + BYTES], "little") for at in range(0, len(text), BYTES)]
    names = {word: mnemonic(word, architecture) for word in set(words)}  # an unrolled loop repeats its words
    return tuple(Instruction(number * BYTES, word, names[word], architecture) for number, word in enumerate(words))


def of(cubin: bytes, kernel: str) -> tuple[Instruction, ...]:
    """The instructions of `kernel` in a cubin, by the cubin's own architecture."""
    return decode(cubin_file.text(cubin, kernel), cubin_file.architecture(cubin))


def encode(instructions: Sequence[Instruction]) -> bytes:
    """The machine code of the instructions' words."""
    return b"".join(instruction.word.to_bytes(BYTES, "little") for instruction in instructions)


def mnemonic(word: int, architecture: int) -> str:
    """The name of an instruction, as nvdisasm writes it."""
    opcode = word & 0xFFF
    name = operation(opcode, architecture)
    if name is None:
        return f"?0x{opcode:03x}"
    if name == "IMAD":
        return _multiply_add(word, opcode)
    fields = modifiers(name, opcode, architecture) or ()
    return "".join((name, *(field.suffix(word) for field in fields)))


def whole(word: int, architecture: int) -> bool:
    """Whether all of the mnemonic is decoded, its suffixes too."""
    opcode = word & 0xFFF
    name = operation(opcode, architecture)
    return name == "IMAD" or (name is not None and modifiers(name, opcode, architecture) is not None)


def _multiply_add(word: int, opcode: int) -> str:
    """IMAD with nvdisasm's words for what it is used for: .MOV of the third operand, .IADD, .SHL."""
    kind = {0x025: ".WIDE", 0x027: ".HI"}.get(opcode & 0x1FF, "")
    carry, unsigned = word >> 74 & 1, not word >> 73 & 1
    if not kind and not carry:
        kind = _use(word, opcode >> 9)
    return f"IMAD{kind}{'.U32' * unsigned}{'.X' * carry}"


def _use(word: int, form: int) -> str:
    """What a plain IMAD is used for: a product that is zero moves, times one adds, times a power of two shifts."""
    ra, rb, rc = word >> 24 & 0xFF, word >> 32 & 0xFF, word >> 64 & 0xFF
    if form == _IMMEDIATE:  # the second operand
        factor = word >> 32 & 0xFFFFFFFF
        if ra == NONE or factor == 0 or (factor == 1 and rc == NONE):
            return ".MOV"
        if factor == 1:
            return ".IADD"
        return ".SHL" if rc == NONE and factor & (factor - 1) == 0 and factor not in _NO_SHIFTS else ""
    if form in _SECOND_IN_REGISTER:
        # with a constant third the second source register lies where the third does otherwise
        return ".MOV" if NONE in (ra, rb if form == _REGISTERS else rc) else ""
    return ".MOV" if ra == NONE and form == _CONSTANT else ""


def operation(opcode: int, architecture: int) -> str | None:
    """The operation of 12 bits; None where it is not known."""
    since = REUSED.get(opcode & 0x1FF)
    if since is not None:
        return next((entry.name for entry in reversed(since) if entry.first <= architecture), None)
    return FORMS.get(opcode) or OPERATIONS.get(opcode & 0x1FF)


def _signed(value: int, width: int) -> int:
    return value - (1 << width) if value >> (width - 1) else value
