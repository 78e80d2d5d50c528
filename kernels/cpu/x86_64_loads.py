"""Which bytes make the x86-64 loops that only load, and which instructions are really in them?

`read` loads with the widest vectors and keeps the exclusive or of what it read; `load` loads with one given width and
keeps nothing, so that nothing but the load ports and the memory behind them is used. `decode` reads the instructions
back from a loop's bytes. Registers as in x86_64.py; rax runs over x, r10 and r11 are the ends of vectors and elements.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from probe.kernels.cpu.loops import LoadRun
from probe.kernels.cpu.x86_64 import (
    ALIGNMENT,
    AVX2,
    AVX512,
    BEFORE_BODY,
    LOAD,
    NOP,
    RAX,
    RDI,
    RDX,
    RETURN,
    SSE2,
    STORE,
    XOR,
    Vector,
    evex,
    gate,
    leave,
    registers,
    vex,
    while_below,
    widest,
)

UNROLL = 16  # loads: the two instructions of the loop itself cost less than a tenth of the issue slots
ACCUMULATORS = (1, 2, 3, 4)  # an exclusive or takes one cycle and no core loads more than three vectors a cycle
ELEMENT = 5  # holds one element where the rest is no whole vector
GENERAL = Vector("general", 8, "general")
WIDTHS = {vector.bytes: vector for vector in (GENERAL, SSE2, AVX2, AVX512)}


@dataclass(frozen=True)
class Form:
    """A load as it is named, and its bytes before ModRM with a register below 8 and the address in rax."""

    instruction: str
    prefix: bytes
    displacement_unit: int = 1  # EVEX counts one-byte displacements in vectors


FORMS = (
    Form("mov r64", bytes.fromhex("488b")),
    Form("movups xmm", bytes.fromhex("0f10")),
    Form("vmovups ymm", bytes.fromhex("c4e17c10")),
    Form("vmovups zmm", bytes.fromhex("62f17c4810"), 64),
)


def widths(isa: tuple[str, ...]) -> tuple[int, ...]:
    """The widths in bytes of the loads this CPU has."""
    return tuple(width for width in WIDTHS if width <= widest(isa).bytes)


def load(width: int) -> bytes:
    """Loads of `width` bytes over x, then single elements; arguments as of `x86_64.stream`."""
    vector = WIDTHS[width]
    body = b"".join(_load(vector, i % 8, i * width) for i in range(UNROLL))
    element = _load(GENERAL, 0, 0)
    return _over_x(width, b"", body, element) + _leave(vector) + RETURN


def read(isa: tuple[str, ...]) -> bytes:
    """The exclusive or of all of x, in the widest vectors, stored at rdi in the end; arguments as of `stream`."""
    vector = widest(isa)
    clear = b"".join(_xor(vector, r, r) for r in ACCUMULATORS)
    body = b"".join(_xor_memory(vector, i, i * vector.bytes) for i in range(UNROLL))
    element = _load_element(vector) + _xor(vector, ACCUMULATORS[0], ELEMENT)
    folded = b"".join(_xor(vector, ACCUMULATORS[0], other) for other in ACCUMULATORS[1:])
    stored = _move(vector, STORE, ACCUMULATORS[0]) + bytes([ACCUMULATORS[0] << 3 | RDI])
    return _over_x(vector.bytes, clear, body, element) + folded + stored + leave(vector) + RETURN


def decode(code: bytes) -> LoadRun:
    """The loads in the body of a loop made by `load`; ValueError where they are not UNROLL equal instructions."""
    for at in range(0, len(code), ALIGNMENT):
        for form in FORMS:
            offsets, first = _run(code, at, form)
            if len(offsets) == UNROLL:
                return LoadRun(form.instruction, first, tuple(offsets))
    raise ValueError(f"there is no run of {UNROLL} loads of one form in these {len(code)} bytes")


def _run(code: bytes, at: int, form: Form) -> tuple[list[int], bytes]:
    """The offsets of the loads of `form` that follow one another from `at`, and the first one's bytes."""
    offsets: list[int] = []
    first = b""
    while code.startswith(form.prefix, at):
        modrm = at + len(form.prefix)
        displacement, end = _displacement(code, modrm, form.displacement_unit)
        if displacement is None:
            break
        first = first or code[at:end]
        offsets.append(displacement)
        at = end
    return offsets, first


def _displacement(code: bytes, modrm: int, unit: int) -> tuple[int | None, int]:
    """The displacement of an operand [rax + displacement] and where the instruction ends; None for other operands."""
    mode, base = code[modrm] >> 6, code[modrm] & 7
    if mode == 3 or base != RAX:
        return None, modrm
    size, kind = ((0, ""), (1, "<b"), (4, "<i"))[mode]
    end = modrm + 1 + size
    value = struct.unpack_from(kind, code, modrm + 1)[0] if size else 0
    return value * (unit if size == 1 else 1), end


def _over_x(width: int, prepare: bytes, body: bytes, element: bytes) -> bytes:
    """Run `body` at rax for each UNROLL × `width` bytes of x, `element` for each 8 of the rest; all r8 times."""
    step = UNROLL * width
    whole = bytes.fromhex("4989c9") + b"\x49\x83\xe1" + struct.pack("<b", -(step // 8))  # r9 = rcx & -elements
    ends = whole + bytes.fromhex("4e8d14ce") + bytes.fromhex("4c8d1cce")  # lea r10, [rsi+r9*8]; lea r11, [rsi+rcx*8]
    first = bytes.fromhex("4889f0")  # mov rax, rsi
    wide = while_below("4c39d0", body + b"\x48\x05" + struct.pack("<i", step))  # cmp rax, r10; add rax, step
    rest = while_below("4c39d8", element + bytes.fromhex("4883c008"))  # cmp rax, r11; add rax, 8
    once = first + wide + rest + bytes.fromhex("49ffc8")  # dec r8
    start = gate() + prepare + ends
    aligned = NOP * (-(len(start) + len(first) + BEFORE_BODY) % ALIGNMENT)  # the wide loop's body
    return start + aligned + once + b"\x0f\x85" + struct.pack("<i", -(len(once) + 6))  # jnz


def _load(vector: Vector, register: int, offset: int) -> bytes:
    """One load from [rax + offset]; a general one goes to rdx."""
    if vector is GENERAL:
        return bytes.fromhex("488b") + _operand(RDX, offset)
    return _move(vector, LOAD, register) + _operand(register, offset, vector)


def _move(vector: Vector, opcode: int, register: int) -> bytes:
    """(v)movups up to its opcode."""
    if vector is SSE2:
        return bytes([0x0F, opcode])
    if vector is AVX512:
        return evex(1, 0, register, 0, double=False) + bytes([opcode])
    return vex(1, 0, register, 0, wide=True, double=False) + bytes([opcode])


def _operand(register: int, offset: int, vector: Vector = GENERAL) -> bytes:
    """ModRM and displacement of [rax + offset] with `register`, in the shortest form."""
    unit = vector.bytes if vector is AVX512 else 1
    if not offset:
        return bytes([register << 3 | RAX])
    if offset % unit == 0 and offset // unit < 128:
        return bytes([0x40 | register << 3 | RAX, offset // unit])
    return bytes([0x80 | register << 3 | RAX]) + struct.pack("<i", offset)


def _xor(vector: Vector, register: int, other: int) -> bytes:
    """register = register xor other."""
    if vector is SSE2:
        return bytes([0x66, 0x0F, XOR, 0xC0 | register << 3 | other])
    return registers(vector, XOR, register, register, other, space=1, double=False)


def _xor_memory(vector: Vector, index: int, offset: int) -> bytes:
    """An accumulator xor [rax + offset]; SSE wants aligned memory operands and so loads first."""
    register = ACCUMULATORS[index % len(ACCUMULATORS)]
    if vector is SSE2:
        other = ELEMENT + index % 3
        return _load(vector, other, offset) + _xor(vector, register, other)
    if vector is AVX512:
        prefix = evex(1, 1, register, register, double=False)
    else:
        prefix = vex(1, 1, register, register, wide=True, double=False)
    return prefix + bytes([XOR]) + _operand(register, offset, vector)


def _load_element(vector: Vector) -> bytes:
    """(v)movsd from [rax], which clears the register's other lanes."""
    prefix = bytes.fromhex("f20f10") if vector is SSE2 else bytes.fromhex("c5fb10")
    return prefix + _operand(ELEMENT, 0)


def _leave(vector: Vector) -> bytes:
    return b"" if vector is GENERAL else leave(vector)
