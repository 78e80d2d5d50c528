"""Which instruction words make the measuring loops on aarch64 (AAPCS64)?

Encodings from the Arm Architecture Reference Manual (DDI 0487, C6 and C7). Arguments arrive in x0 to x5 and d0; x9 to
x15 and the vector registers v0 to v7 and v16 to v31 are free. NEON only: two doubles or four floats a register.
The loops that only load are in aarch64_loads.py.
"""

from __future__ import annotations

import struct

from probe.kernels.cpu.loops import Stream

CHASE_UNROLL = 32
VECTOR_UNROLL = 4
FMA_CHAINS = 16  # four 128-bit pipes × a latency of 4 cycles (Neoverse V1) leave no bubble with 16 chains
RETURN = 0xD65F03C0
DRAIN = 0xD5033ABF  # dmb ishst: what went past the caches is visible before what is stored next
LT, LO, HS, NE = 11, 3, 2, 1  # condition codes
DESTINATION, X, Y = 10, 11, 12  # running pointers
LEFT = 13  # elements left


def chase() -> bytes:
    """`pointer = *pointer`, 32 × x1 times; returns the last pointer."""
    return _counted([0xF9400000] * CHASE_UNROLL)  # ldr x0, [x0]


def adds() -> bytes:
    """`x = x + 1`, 32 × x1 times, each depending on the last."""
    return _counted([0x91000400] * CHASE_UNROLL)  # add x0, x0, #1


def fma(isa: tuple[str, ...]) -> bytes:
    """16 independent chains of float32 FMA on zeros, x1 times."""
    registers = [*range(2, 8), *range(16, 26)]
    clear = [0x4F000400 | r for r in (0, 1, *registers)]  # movi v.4s, #0
    body = [0x4E20CC00 | 1 << 16 | r for r in registers]  # fmla v.4s, v0.4s, v1.4s
    assert len(registers) == FMA_CHAINS
    return words(clear) + _counted(body)


def _counted(body: list[int]) -> bytes:
    return words([*body, 0xF1000421, branch_if(NE, -(len(body) + 1)), RETURN])  # subs x1, x1, #1


def stream(kind: Stream, isa: tuple[str, ...]) -> bytes:
    """One STREAM loop: x0 destination, x1 x, x2 y, x3 elements, x4 repeats, x5 gate or 0, d0 scalar.

    Non-temporal stores are pairs of vectors (stnp); they need no alignment.
    """
    lanes = 16 // kind.element_bytes
    step = VECTOR_UNROLL * lanes
    start = [move(DESTINATION, 0), move(X, 1), move(Y, 2), move(LEFT, 3)]
    if kind.scalar:
        wide = []
    elif kind.non_temporal:
        wide = while_at_least(step, _operate_past_caches(kind))
    else:
        wide = while_at_least(step, [word for i in range(VECTOR_UNROLL) for word in _operate(kind, 1 + i, packed=True)])
    tail = while_at_least(1, _operate(kind, 1, packed=False))
    once = [*start, *wide, *tail, 0xF1000484]  # subs x4, x4, #1
    broadcast = 0x4E080400 if kind.double else 0x4E040400  # dup v0.2d, v0.d[0] or v0.4s, v0.s[0]
    drained = [DRAIN] if kind.non_temporal else []
    return words([*gate(), broadcast, *once, branch_if(NE, -len(once)), *drained, RETURN])


def gate() -> list[int]:
    """Count this thread in at [x5] and spin until [x5 + 8] threads have come; nothing if x5 is 0."""
    count_in = [
        0xC85FFCA9,  # ldaxr x9, [x5]
        0x91000529,  # add x9, x9, #1
        0xC80AFCA9,  # stlxr w10, x9, [x5]
        0x35000000 | (-3 & 0x7FFFF) << 5 | 10,  # cbnz w10, back to the load
        0xF94004AA,  # ldr x10, [x5, #8]
    ]
    spin = [0xC8DFFCA9, 0xEB0A013F, branch_if(LO, -2)]  # ldar x9, [x5]; cmp x9, x10
    body = count_in + spin
    return [0xB4000000 | (len(body) + 1) << 5 | 5, *body]  # cbz x5, over


def while_at_least(step: int, body: list[int]) -> list[int]:
    """`while (left >= step) { body; left -= step }`."""
    compare = 0xF1000000 | step << 10 | LEFT << 5 | 31  # cmp x13, #step
    take = 0xD1000000 | step << 10 | LEFT << 5 | LEFT  # sub x13, x13, #step
    loop = [*body, take, compare]
    return [compare, branch_if(LO, len(loop) + 2), *loop, branch_if(HS, -len(loop))]


def _operate(kind: Stream, register: int, *, packed: bool) -> list[int]:
    """destination[i] = s, x[i], s × x[i], x[i] + y[i] or x[i] + s × y[i], one vector or element; pointers move on."""
    value = 0 if kind.name == "write" else register
    return [*_compute(kind, register, packed=packed), _store(kind, value, packed)]


def _operate_past_caches(kind: Stream) -> list[int]:
    """The same for VECTOR_UNROLL vectors, stored by pairs past the caches."""
    computed = [word for i in range(VECTOR_UNROLL) for word in _compute(kind, 1 + i, packed=True)]
    stores = []
    for first in range(0, VECTOR_UNROLL, 2):
        one, other = (0, 0) if kind.name == "write" else (1 + first, 2 + first)
        stores.append(0xAC000000 | first << 15 | other << 10 | DESTINATION << 5 | one)  # stnp q, q, [x10, #16 first]
    forward = 0x91000000 | 16 * VECTOR_UNROLL << 10 | DESTINATION << 5 | DESTINATION  # add x10, x10, #bytes
    return [*computed, *stores, forward]


def _compute(kind: Stream, register: int, *, packed: bool) -> list[int]:
    """What is to be stored, in `register`; nothing for `write`, which stores the scalar itself."""
    if kind.name == "write":
        return []
    other = register + 15
    load = [_load(kind, register, X, packed)]
    if kind.name == "scale":
        load.append(_multiply(kind, register, packed))
    elif kind.name == "add":
        load += [_load(kind, other, Y, packed), _add(kind, register, other, packed)]
    elif kind.name == "triad":
        load += [_load(kind, other, Y, packed), _multiply_add(kind, register, other, packed)]
    return load


def _load(kind: Stream, register: int, pointer: int, packed: bool) -> int:
    """ldr q, d or s, [pointer], #size."""
    opcode = 0x3CC00400 if packed else (0xFC400400 if kind.double else 0xBC400400)
    return opcode | _size(kind, packed) << 12 | pointer << 5 | register


def _store(kind: Stream, register: int, packed: bool) -> int:
    """str q, d or s, [x10], #size."""
    opcode = 0x3C800400 if packed else (0xFC000400 if kind.double else 0xBC000400)
    return opcode | _size(kind, packed) << 12 | DESTINATION << 5 | register


def _size(kind: Stream, packed: bool) -> int:
    return 16 if packed else kind.element_bytes


def _multiply(kind: Stream, register: int, packed: bool) -> int:
    """fmul register, register, v0."""
    vector = 0x6E60DC00 if kind.double else 0x6E20DC00
    scalar = 0x1E600800 if kind.double else 0x1E200800
    return (vector if packed else scalar) | 0 << 16 | register << 5 | register


def _add(kind: Stream, register: int, other: int, packed: bool) -> int:
    """fadd register, register, other."""
    vector = 0x4E60D400 if kind.double else 0x4E20D400
    scalar = 0x1E602800 if kind.double else 0x1E202800
    return (vector if packed else scalar) | other << 16 | register << 5 | register


def _multiply_add(kind: Stream, register: int, other: int, packed: bool) -> int:
    """register = register + other × v0: fmla (vector) or fmadd (scalar)."""
    if packed:
        return (0x4E60CC00 if kind.double else 0x4E20CC00) | 0 << 16 | other << 5 | register
    return (0x1F400000 if kind.double else 0x1F000000) | 0 << 16 | register << 10 | other << 5 | register


def move(register: int, source: int) -> int:
    """mov register, source."""
    return 0xAA0003E0 | source << 16 | register


def branch_if(condition: int, words: int) -> int:
    """b.condition by `words` instructions from here."""
    return 0x54000000 | (words & 0x7FFFF) << 5 | condition


def words(instructions: list[int]) -> bytes:
    """The instructions as bytes."""
    return struct.pack(f"<{len(instructions)}I", *instructions)
