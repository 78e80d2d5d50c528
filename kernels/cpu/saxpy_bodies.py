"""Which instructions are really in the inner loop of a saxpy? Read back from the bytes that run.

Only what the assemblers of x86_64.py and aarch64.py put there is known; anything else ends the body, and a body that
does not end where its index moves on is an error.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from probe.kernels.cpu import aarch64
from probe.kernels.cpu.x86_64 import ALIGNMENT

INC_RAX, ADD_RAX = bytes.fromhex("48ffc0"), bytes.fromhex("4883c0")  # the second with a byte: how many elements
ARITHMETIC = ("mul", "add", "vfmadd", "fmla", "fmadd")  # what their names begin with


@dataclass(frozen=True)
class Form:
    """An instruction as it is named, its bytes up to the opcode, and how many operand bytes follow."""

    text: str
    prefix: bytes
    operands: int


def _forms(load: str, opcode_prefix: str, register: str, fused: tuple[str, str] | None) -> tuple[Form, ...]:
    """Load and store of one width, and its multiply-add from memory where there is one (name and prefix)."""
    moves = bytes.fromhex(opcode_prefix)
    found = (Form(f"{load} {register}, [m]", moves + b"\x10", 3), Form(f"{load} [m], {register}", moves + b"\x11", 3))
    if fused is None:
        return found
    name, prefix = fused
    return (*found, Form(f"{name} {register}, {register}, [m]", bytes.fromhex(prefix), 3))


X86_FORMS = (
    *_forms("movups", "0f", "xmm", None),
    Form("mulps xmm, xmm", bytes.fromhex("0f59"), 1),
    Form("addps xmm, xmm", bytes.fromhex("0f58"), 1),
    *_forms("movss", "f30f", "xmm", None),
    Form("mulss xmm, xmm", bytes.fromhex("f30f59"), 1),
    Form("addss xmm, xmm", bytes.fromhex("f30f58"), 1),
    *_forms("vmovss", "c4e17a", "xmm", ("vfmadd213ss", "c4e279a9")),
    *_forms("vmovups", "c4e17c", "ymm", ("vfmadd213ps", "c4e27da8")),
    *_forms("vmovups", "62f17c48", "zmm", ("vfmadd213ps", "62f27d48a8")),
)
# Name, bits that are no operand, their value.
AARCH64_FORMS = (
    ("ldr q", 0xFFE00C00, 0x3CC00400),
    ("str q", 0xFFE00C00, 0x3C800400),
    ("fmla v.4s", 0xFFE0FC00, 0x4E20CC00),
    ("ldr s", 0xFFE00C00, 0xBC400400),
    ("str s", 0xFFE00C00, 0xBC000400),
    ("fmadd s", 0xFFE08000, 0x1F000000),
)
STEP_FIELD, BRANCH_FIELD = 0x3FFC00, 0x7FFFF << 5
TAKE_LEFT = 0xD1000000 | aarch64.LEFT << 5 | aarch64.LEFT  # sub x13, x13, #step


def arithmetic(body: Sequence[str]) -> str:
    """The instructions of `body` that compute, each once: "vfmadd213ss xmm" or "mulss xmm + addss xmm"."""
    return " + ".join(dict.fromkeys(text.split(",")[0] for text in body if text.startswith(ARITHMETIC)))


def decode_x86_64(code: bytes) -> tuple[str, ...]:
    """The first aligned loop's body; ValueError where no body of known instructions ends where the index moves on."""
    for start in range(0, len(code), ALIGNMENT):
        body, end = _known(code, start)
        if body and code.startswith((INC_RAX, ADD_RAX), end):
            return body
    raise ValueError(f"there is no loop of known instructions in these {len(code)} bytes")


def _known(code: bytes, at: int) -> tuple[tuple[str, ...], int]:
    """The known instructions that follow one another from `at`, and where they end."""
    found: list[str] = []
    while (form := next((f for f in X86_FORMS if code.startswith(f.prefix, at)), None)) is not None:
        found.append(form.text)
        at += len(form.prefix) + form.operands
    return tuple(found), at


def decode_aarch64(code: bytes) -> tuple[str, ...]:
    """The first loop's body: all from the branch over it to where the elements left are counted.

    ValueError where there is none of known instructions alone.
    """
    found: list[str] | None = None
    for word in struct.unpack(f"<{len(code) // 4}I", code):
        name = next((name for name, mask, value in AARCH64_FORMS if word & mask == value), None)
        if found and word & ~STEP_FIELD == TAKE_LEFT:
            return tuple(found)
        if name is None:
            found = [] if word & ~BRANCH_FIELD == aarch64.branch_if(aarch64.LO, 0) else None
        elif found is not None:
            found.append(name)
    raise ValueError(f"there is no loop of known instructions in these {len(code) // 4} words")
