"""Which bytes make the measuring loops on x86-64 (System V calling convention)?

A small assembler for the dozen instructions that are needed (Intel SDM volume 2: VEX and EVEX prefixes), and the loops
made of them; those that only load are in x86_64_loads.py. Arguments arrive in rdi, rsi, rdx, rcx, r8, r9 and xmm0;
rax, r10, r11 and the vector registers are free.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from probe.kernels.cpu.loops import Stream

RAX, RCX, RDX, RSI, RDI = 0, 1, 2, 6, 7
LOAD, STORE, ADD, MULTIPLY = 0x10, 0x11, 0x58, 0x59  # opcodes of map 0F: (v)movup, (v)addp, (v)mulp
STORE_PAST_CACHES = 0x2B  # map 0F: (v)movntp; faults unless the address is a multiple of the vector's width
XOR = 0xEF  # map 0F with prefix 66: (v)pxor, vpxord
FMADD213 = 0xA8  # map 0F38: destination = source × destination + memory
CHASE_UNROLL = 32
VECTOR_UNROLL = 1  # on Zen 3 a triad of two or four falls, at times, to two thirds of the rate of one; never above it
FMA_CHAINS = 12  # two ports × a latency of 4 or 5 cycles leave no bubble with 12 independent chains
RETURN, NOP = b"\xc3", b"\x90"
FENCE = bytes.fromhex("0faef8")  # sfence: what went past the caches is in memory
BEFORE_BODY = 3 + 6  # bytes of comparison and jump before a loop's body
ALIGNMENT = 64  # of the loop, so that it takes as few lines of the micro-op cache as it can


@dataclass(frozen=True)
class Vector:
    """One width of vector registers and how its instructions are encoded."""

    name: str
    bytes: int
    encoding: str  # "sse", "vex", "evex"

    def lanes(self, element_bytes: int) -> int:
        """How many elements one register holds."""
        return self.bytes // element_bytes


AVX512 = Vector("avx512", 64, "evex")
AVX2 = Vector("avx2", 32, "vex")
SSE2 = Vector("sse2", 16, "sse")


def widest(isa: tuple[str, ...]) -> Vector:
    """The widest vectors this CPU has; AVX2 only together with FMA, as every CPU with AVX2 has it."""
    if "avx512f" in isa:
        return AVX512
    return AVX2 if "avx2" in isa and "fma" in isa else SSE2


def chase() -> bytes:
    """`pointer = *pointer`, 32 × rsi times; returns the last pointer."""
    return _counted(bytes.fromhex("488b3f") * CHASE_UNROLL)  # mov rdi, [rdi]


def adds() -> bytes:
    """`x = x + 1`, 32 × rsi times, each depending on the last: one cycle each on every x86-64 core there is."""
    return _counted(bytes.fromhex("4883c701") * CHASE_UNROLL)  # add rdi, 1


def fma(isa: tuple[str, ...]) -> bytes | None:
    """12 independent chains of float32 FMA on zeros, rsi times; None without FMA."""
    vector = widest(isa)
    if vector is SSE2:
        return None
    clear = b"".join(registers(vector, XOR, r, r, r, space=1, double=False) for r in range(FMA_CHAINS + 2))
    body = b"".join(registers(vector, FMADD213, r, 0, 1, space=2, double=False) for r in range(2, FMA_CHAINS + 2))
    return clear + _counted(body)[: -len(RETURN)] + leave(vector) + RETURN


def _counted(body: bytes) -> bytes:
    """`body` repeated rsi times, then rdi returned."""
    again = bytes.fromhex("48ffce")  # dec rsi
    back = b"\x0f\x85" + struct.pack("<i", -(len(body) + len(again) + 6))  # jnz body
    return body + again + back + bytes.fromhex("4889f8") + RETURN  # mov rax, rdi


def stream(kind: Stream, isa: tuple[str, ...]) -> bytes:
    """One STREAM loop: rdi destination, rsi x, rdx y, rcx elements, r8 repeats, r9 gate or 0, xmm0 scalar.

    One vector at a time, then single elements, so that any length is right; the whole is repeated r8 times. Before
    stores past the caches single elements come first, until the destination is aligned for them.
    """
    vector = widest(isa)
    if kind.scalar:
        return _element_stream(vector, kind)
    step = VECTOR_UNROLL * vector.lanes(kind.element_bytes)
    forward = b"\x48\x83\xc0" + bytes([step])  # add rax, step
    wide = while_below("4c39c8", _wide_body(vector, kind) + forward)  # cmp rax, r9
    tail = _to_the_end(vector, kind)
    head = _until_aligned(vector, kind) if kind.non_temporal else b""
    clear = bytes.fromhex("31c0")  # rax = 0
    once = clear + head + wide + tail + bytes.fromhex("49ffc8")  # dec r8
    repeat = once + b"\x0f\x85" + struct.pack("<i", -(len(once) + 6))  # jnz
    start = gate() + _vector_end(vector, kind, step) + _broadcast(vector, kind)
    aligned = NOP * (-(len(start) + len(clear) + len(head) + BEFORE_BODY) % ALIGNMENT)  # the wide loop's body
    drained = FENCE if kind.non_temporal else b""
    return start + aligned + repeat + drained + leave(vector) + RETURN


def _element_stream(vector: Vector, kind: Stream) -> bytes:
    """The loop over single elements alone."""
    clear = bytes.fromhex("31c0")  # rax = 0
    once = clear + _to_the_end(vector, kind) + bytes.fromhex("49ffc8")  # dec r8
    start = gate()
    aligned = NOP * (-(len(start) + len(clear) + BEFORE_BODY) % ALIGNMENT)
    return start + aligned + once + b"\x0f\x85" + struct.pack("<i", -(len(once) + 6)) + RETURN  # jnz


def _to_the_end(vector: Vector, kind: Stream) -> bytes:
    """Single elements while rax < rcx."""
    return while_below("4839c8", _element_body(vector, kind) + bytes.fromhex("48ffc0"))  # cmp rax, rcx; inc rax


def _vector_end(vector: Vector, kind: Stream, step: int) -> bytes:
    """r9 = the elements before the last that are not a whole vector; r11 = those before the first aligned vector."""
    if not kind.non_temporal:
        return bytes.fromhex("4989c9") + b"\x49\x83\xe1" + struct.pack("<b", -step)  # r9 = rcx & -step
    misaligned = bytes.fromhex("4989fb49f7db") + b"\x49\x83\xe3" + bytes([vector.bytes - 1])  # r11 = -rdi & (width - 1)
    elements = bytes.fromhex("49c1eb03") + bytes.fromhex("4939cb4c0f47d9")  # r11 >>= 3; r11 = min(r11, rcx)
    whole = bytes.fromhex("4989c94d29d9") + b"\x49\x83\xe1" + struct.pack("<b", -step)  # r9 = (rcx - r11) & -step
    return misaligned + elements + whole + bytes.fromhex("4d01d9")  # r9 += r11


def _until_aligned(vector: Vector, kind: Stream) -> bytes:
    """Single elements while rax < r11."""
    return while_below("4c39d8", _element_body(vector, kind) + bytes.fromhex("48ffc0"))  # cmp rax, r11; inc rax


def gate() -> bytes:
    """Count this thread in at [r9] and spin until [r9 + 8] threads have come; nothing if r9 is 0."""
    spin = bytes.fromhex("f390493901")  # pause; cmp [r9], rax
    arrive = bytes.fromhex("f049ff01498b4108") + spin + b"\x72" + struct.pack("<b", -(len(spin) + 2))
    return bytes.fromhex("4d85c9") + b"\x74" + bytes([len(arrive)]) + arrive  # test r9, r9; jz over


def while_below(compare: str, body: bytes) -> bytes:
    """`while (index < end) body`, the comparison given as its bytes."""
    test = bytes.fromhex(compare)
    loop = body + test + b"\x0f\x82" + struct.pack("<i", -(len(body) + len(test) + 6))  # jb
    return test + b"\x0f\x83" + struct.pack("<i", len(loop)) + loop  # jae over


def _wide_body(vector: Vector, kind: Stream) -> bytes:
    offsets = [i * vector.bytes for i in range(VECTOR_UNROLL)]
    return b"".join(_operate(vector, kind, 1 + i, offset, packed=True) for i, offset in enumerate(offsets))


def _element_body(vector: Vector, kind: Stream) -> bytes:
    return _operate(vector, kind, 1, 0, packed=False)


def _operate(vector: Vector, kind: Stream, register: int, offset: int, *, packed: bool) -> bytes:
    """destination[i] = s, x[i], s × x[i], x[i] + y[i] or x[i] + s × y[i] for one vector or one element."""
    store = STORE_PAST_CACHES if packed and kind.non_temporal else STORE

    def memory(opcode: int, base: int, source: int = 0, space: int = 1, into: int = register) -> bytes:
        return _memory(vector, opcode, into, source, base, offset, kind, space=space, packed=packed)

    if kind.name == "write":
        return memory(store, RDI, into=0)
    if kind.name == "copy":
        work = memory(LOAD, RSI)
    elif kind.name == "scale":
        work = memory(LOAD, RSI) + _in_place(vector, MULTIPLY, register, 0, kind, packed=packed)
    elif kind.name == "add":
        work = _add_memory(vector, memory, register, RDX, kind, packed=packed, first=memory(LOAD, RSI))
    elif vector is SSE2:
        product = memory(LOAD, RDX) + _in_place(vector, MULTIPLY, register, 0, kind, packed=packed)
        work = _add_memory(vector, memory, register, RSI, kind, packed=packed, first=product)
    else:
        fused = FMADD213 if packed else FMADD213 + 1
        work = memory(LOAD, RDX) + memory(fused, RSI, source=0, space=2)
    return work + memory(store, RDI)


def _add_memory(
    vector: Vector,
    memory: Callable[..., bytes],
    register: int,
    base: int,
    kind: Stream,
    *,
    packed: bool,
    first: bytes,
) -> bytes:
    """`first`, then add what lies at `base`; SSE wants aligned memory operands and so loads it first."""
    if vector is not SSE2:
        return first + memory(ADD, base, source=register)
    other = register + 3  # of xmm4 to xmm7: those from xmm8 on would need a REX prefix
    return first + memory(LOAD, base, into=other) + _in_place(vector, ADD, register, other, kind, packed=packed)


def _broadcast(vector: Vector, kind: Stream) -> bytes:
    """Copy the scalar in xmm0 to all its lanes."""
    if vector is SSE2:  # unpcklpd xmm0, xmm0 or shufps xmm0, xmm0, 0
        return bytes.fromhex("660f14c0") if kind.double else bytes.fromhex("0fc6c000")
    if vector is AVX2:  # vbroadcastsd or vbroadcastss ymm0, xmm0
        return bytes.fromhex("c4e27d19c0") if kind.double else bytes.fromhex("c4e27d18c0")
    return bytes.fromhex("62f2fd4819c0") if kind.double else bytes.fromhex("62f27d4818c0")


def leave(vector: Vector) -> bytes:
    """vzeroupper, so that the caller's SSE code is not slowed down."""
    return b"" if vector is SSE2 else bytes.fromhex("c5f877")


def _in_place(vector: Vector, opcode: int, register: int, source: int, kind: Stream, *, packed: bool) -> bytes:
    """register = register op source."""
    if vector is SSE2:
        return _legacy_prefix(opcode, kind, packed) + bytes([0x0F, opcode, 0xC0 | register << 3 | source])
    if not packed:
        prefix = vex(1, _scalar_pp(kind), register, register, wide=False, double=kind.double)
        return prefix + bytes([opcode, 0xC0 | register << 3 | source])
    return registers(vector, opcode, register, register, source, space=1, double=kind.double)


def registers(
    vector: Vector, opcode: int, register: int, first: int, second: int, *, space: int, double: bool
) -> bytes:
    """A packed three-register instruction of opcode map `space` (1: 0F, 2: 0F38)."""
    pp = 1 if double or space == 2 or opcode == XOR else 0
    modrm = bytes([opcode, 0xC0 | (register & 7) << 3 | (second & 7)])
    if vector is AVX512:
        return evex(space, pp, register, first, double=double, high_source=second >> 3) + modrm
    return vex(space, pp, register, first, wide=True, double=double, high_source=second >> 3) + modrm


def _memory(
    vector: Vector,
    opcode: int,
    register: int,
    source: int,
    base: int,
    offset: int,
    kind: Stream,
    *,
    space: int,
    packed: bool,
) -> bytes:
    """An instruction with the memory operand [base + rax × element + offset]; `source` is the second register."""
    scale = {4: 2, 8: 3}[kind.element_bytes]
    compressed = offset // vector.bytes if packed and vector is AVX512 else offset  # EVEX counts disp8 in vectors
    sib = bytes([0x44 | register << 3, scale << 6 | RAX << 3 | base, compressed])
    if vector is SSE2:
        return _legacy_prefix(opcode, kind, packed) + bytes([0x0F, opcode]) + sib
    moves = opcode in (LOAD, STORE, STORE_PAST_CACHES)
    first = 0 if moves else source
    if packed and vector is AVX512:
        pp = 1 if kind.double or space == 2 else 0
        return evex(space, pp, register, first, double=kind.double) + bytes([opcode]) + sib
    pp = (1 if kind.double or space == 2 else 0) if packed else (1 if space == 2 else _scalar_pp(kind))
    return vex(space, pp, register, first, wide=packed, double=kind.double) + bytes([opcode]) + sib


def _legacy_prefix(opcode: int, kind: Stream, packed: bool) -> bytes:
    if packed:
        return b"\x66" if kind.double else b""
    return b"\xf2" if kind.double else b"\xf3"


def _scalar_pp(kind: Stream) -> int:
    """The prefix bits of a scalar instruction: F2 (double) or F3 (single)."""
    return 3 if kind.double else 2


def vex(space: int, pp: int, register: int, first: int, *, wide: bool, double: bool, high_source: int = 0) -> bytes:
    """Three-byte VEX prefix; base and index registers below r8."""
    not_r = 0 if register & 8 else 0x80
    not_b = 0 if high_source else 0x20
    w = 0x80 if double and space == 2 else 0
    return bytes([0xC4, not_r | 0x40 | not_b | space, w | (~first & 15) << 3 | wide << 2 | pp])


def evex(space: int, pp: int, register: int, first: int, *, double: bool, high_source: int = 0) -> bytes:
    """EVEX prefix for 512 bits without mask; registers below 16."""
    not_r = 0 if register & 8 else 0x80
    not_b = 0 if high_source else 0x20
    return bytes([0x62, not_r | 0x40 | not_b | 0x10 | space, double << 7 | (~first & 15) << 3 | 4 | pp, 0x48])
