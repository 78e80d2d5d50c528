"""Which words make the aarch64 loops that only load, and which instructions are really in them?

`read` loads NEON registers and keeps the exclusive or of what it read; `load` loads with one given width and keeps
nothing. `decode` reads the instructions back from a loop's words. Loads take an offset from one pointer that moves on
once in UNROLL of them: a load that moves its own pointer waits a cycle for the one before.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from probe.kernels.cpu.aarch64 import (
    LEFT,
    NE,
    RETURN,
    X,
    branch_if,
    gate,
    move,
    while_at_least,
    words,
)
from probe.kernels.cpu.loops import LoadRun

UNROLL = 16
ACCUMULATORS = (1, 2, 3, 4)
ELEMENT = 9  # general register that holds one element
LOAD_X, LOAD_Q, LOAD_D = 0xF9400000, 0x3DC00000, 0xFD400000  # ldr from [base, #offset in widths]
OFFSET_FIELD = 0x3FFC00
EXCLUSIVE_OR = 0x6E201C00  # eor v.16b


@dataclass(frozen=True)
class Form:
    """A load as it is named, its word without operands, and its width in bytes."""

    instruction: str
    opcode: int
    width: int


FORMS = (Form("ldr x", LOAD_X, 8), Form("ldr q", LOAD_Q, 16))


def widths(isa: tuple[str, ...]) -> tuple[int, ...]:
    """The widths in bytes of the loads this CPU has."""
    return tuple(form.width for form in FORMS)


def load(width: int) -> bytes:
    """Loads of `width` bytes over x, then single elements; arguments as of `aarch64.stream`."""
    opcode = next(form.opcode for form in FORMS if form.width == width)
    registers = [ELEMENT] * UNROLL if width == 8 else [16 + i % 8 for i in range(UNROLL)]
    body = [_at_x(opcode, register, i) for i, register in enumerate(registers)]
    return words([*gate(), *_over_x(width, body, [_at_x(LOAD_X, ELEMENT, 0)]), RETURN])


def read(isa: tuple[str, ...]) -> bytes:
    """The exclusive or of all of x, stored at x0 in the end; arguments as of `aarch64.stream`."""
    clear = [_xor(r, r) for r in ACCUMULATORS]
    body = []
    for i in range(UNROLL):
        body += [_at_x(LOAD_Q, 16 + i % 8, i), _xor(ACCUMULATORS[i % len(ACCUMULATORS)], 16 + i % 8)]
    element = [_at_x(LOAD_D, 16, 0), _xor(ACCUMULATORS[0], 16)]  # ldr d clears the register's other half
    folded = [_xor(ACCUMULATORS[0], other) for other in ACCUMULATORS[1:]]
    stored = 0x3D800000 | 0 << 5 | ACCUMULATORS[0]  # str q, [x0]
    return words([*gate(), *clear, *_over_x(16, body, element), *folded, stored, RETURN])


def decode(code: bytes) -> LoadRun:
    """The loads in the body of a loop made by `load`; ValueError where they are not UNROLL equal instructions."""
    found = struct.unpack(f"<{len(code) // 4}I", code)
    for at in range(len(found)):
        for form in FORMS:
            offsets = _run(found[at:], form)
            if len(offsets) == UNROLL:
                return LoadRun(form.instruction, code[4 * at : 4 * at + 4], tuple(offsets))
    raise ValueError(f"there is no run of {UNROLL} loads of one form in these {len(found)} words")


def _run(found: tuple[int, ...], form: Form) -> list[int]:
    """The offsets of the loads of `form` from x11 at the start of `found`."""
    offsets: list[int] = []
    for word in found:
        if word & ~(OFFSET_FIELD | 31) != form.opcode | X << 5:
            break
        offsets.append(((word & OFFSET_FIELD) >> 10) * form.width)
    return offsets


def _over_x(width: int, body: list[int], element: list[int]) -> list[int]:
    """Run `body` at x11 for each UNROLL × `width` bytes of x, `element` for each 8 of the rest; all x4 times."""
    step = UNROLL * width
    wide = while_at_least(step // 8, [*body, _forward(step)])
    rest = while_at_least(1, [*element, _forward(8)])
    once = [move(X, 1), move(LEFT, 3), *wide, *rest, 0xF1000484]  # subs x4, x4, #1
    return [*once, branch_if(NE, -len(once))]


def _at_x(opcode: int, register: int, index: int) -> int:
    """A load of `register` from [x11, #index widths]."""
    return opcode | index << 10 | X << 5 | register


def _forward(step: int) -> int:
    """add x11, x11, #step."""
    return 0x91000000 | step << 10 | X << 5 | X


def _xor(register: int, other: int) -> int:
    """register = register xor other."""
    return EXCLUSIVE_OR | other << 16 | register << 5 | register
