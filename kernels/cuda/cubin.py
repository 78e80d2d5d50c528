"""Where in a cubin is a kernel's machine code, and what does the file say about its registers and local memory?

A cubin is a 64-bit ELF file: the code of kernel k is the section .text.k, its resources are attributes in .nv.info.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_SECTION = struct.Struct("<IIQQQQIIQQ")  # Elf64_Shdr
_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym
_SYMTAB = 2  # SHT_SYMTAB
_MAGIC = b"\x7fELF\x02"  # 64 bits
_NEW_ABI = 8  # EI_ABIVERSION from which the architecture is in the second byte of e_flags
# Attributes in .nv.info: (form, attribute) and what follows; form 4 has a length and a value behind it.
_SIZED = 4
_PARAMETER = (
    0x17  # EIATTR_KPARAM_INFO: (index, ordinal, offset, flags), 32, 16, 16 and 32 bits; the size from bit 18 on
)
_REGISTERS, _FRAME = 0x2F, 0x11  # EIATTR_REGCOUNT, EIATTR_FRAME_SIZE: (symbol, value), 32 bits each


class CubinError(ValueError):
    """The bytes are not a cubin, or the kernel is not in it: a defect of probe's."""


@dataclass(frozen=True)
class Section:
    """One section of the ELF file: where its bytes are."""

    name: str
    kind: int
    offset: int
    size: int
    link: int
    info: int


def kernels(cubin: bytes) -> tuple[str, ...]:
    """The names of the kernels in it, in the order of their sections."""
    return tuple(name.removeprefix(".text.") for name in _sections(cubin) if name.startswith(".text."))


def text(cubin: bytes, kernel: str) -> bytes:
    """The machine code of `kernel`."""
    section = _section(cubin, f".text.{kernel}")
    return cubin[section.offset : section.offset + section.size]


def with_text(cubin: bytes, kernel: str, text: bytes) -> bytes:
    """The cubin with other machine code of the same length in place of `kernel`'s."""
    section = _section(cubin, f".text.{kernel}")
    if len(text) != section.size:
        raise CubinError(f"{kernel} has {section.size} bytes of code, not {len(text)}")
    return cubin[: section.offset] + text + cubin[section.offset + section.size :]


def architecture(cubin: bytes) -> int:
    """What it was compiled for: 90 of sm_90a."""
    if cubin[:5] != _MAGIC:
        raise CubinError("not a 64-bit ELF file")
    (flags,) = struct.unpack_from("<I", cubin, 0x30)  # e_flags
    return int(flags >> 8 & 0xFF if cubin[8] >= _NEW_ABI else flags & 0xFF)


def registers(cubin: bytes, kernel: str) -> int:
    """How many registers a thread of `kernel` has."""
    count = _attribute(cubin, kernel, _REGISTERS)
    return count if count is not None else _section(cubin, f".text.{kernel}").info >> 24  # before CUDA 12.8 there


def local_bytes(cubin: bytes, kernel: str) -> int:
    """A thread's stack frame in local memory: spilled registers, and arrays indexed by what is not known in advance."""
    return _attribute(cubin, kernel, _FRAME) or 0


def shared_bytes(cubin: bytes, kernel: str) -> int:
    """The static shared memory of a block."""
    section = _sections(cubin).get(f".nv.shared.{kernel}")
    return section.size if section else 0


def parameters(cubin: bytes, kernel: str) -> tuple[int, ...]:
    """The sizes of the parameters of `kernel` in bytes, in their order."""
    rows = [struct.unpack_from("<IHHI", value) for form, value in _attributes(cubin, kernel) if form == _PARAMETER]
    return tuple(flags >> 18 for _, _, _, flags in sorted(rows, key=lambda row: row[1]))


def _section(cubin: bytes, name: str) -> Section:
    try:
        return _sections(cubin)[name]
    except KeyError:
        raise CubinError(f"the cubin has no section {name}; its kernels: {', '.join(kernels(cubin))}") from None


def _sections(cubin: bytes) -> dict[str, Section]:
    """By name; a cubin's names of code and data sections are unique."""
    if cubin[:5] != _MAGIC:
        raise CubinError("not a 64-bit ELF file")
    (start,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names_at = struct.unpack_from("<HHH", cubin, 0x3A)
    headers = [_SECTION.unpack_from(cubin, start + i * size) for i in range(count)]
    names = headers[names_at][4]
    return {
        name: Section(name, kind, offset, length, link, info)
        for word, kind, _, _, offset, length, link, info, _, _ in headers
        for name in (_string(cubin, names + word),)
    }


def _string(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()


def _attribute(cubin: bytes, kernel: str, wanted: int) -> int | None:
    """The value of attribute `wanted` in .nv.info for the symbol `kernel`; None where it is not said."""
    symbols = _symbols(cubin)
    for attribute, value in _attributes(cubin):
        if attribute == wanted and len(value) >= 8:
            symbol, number = struct.unpack_from("<II", value)
            if symbol < len(symbols) and symbols[symbol] == kernel:
                return int(number)
    return None


def _symbols(cubin: bytes) -> list[str]:
    """The names of the symbol table, by index."""
    sections = _sections(cubin)
    table = next((section for section in sections.values() if section.kind == _SYMTAB), None)
    if table is None:
        return []
    strings = list(sections.values())[table.link] if table.link < len(sections) else None
    start = strings.offset if strings else 0
    rows = range(table.offset, table.offset + table.size, _SYMBOL.size)
    return [_string(cubin, start + _SYMBOL.unpack_from(cubin, row)[0]) for row in rows]


def _attributes(cubin: bytes, kernel: str = "") -> Iterator[tuple[int, bytes]]:
    """(attribute, value) of .nv.info, the file's or a kernel's; forms without a length have no value behind them."""
    section = _sections(cubin).get(f".nv.info.{kernel}" if kernel else ".nv.info")
    at, end = (section.offset, section.offset + section.size) if section else (0, 0)
    while at + 4 <= end:
        form, attribute, length = struct.unpack_from("<BBH", cubin, at)
        at += 4
        if form == _SIZED:
            yield attribute, cubin[at : at + length]
            at += length
