"""How is a whole Trace one file that opens in milliseconds? A small header, then every column as it lies in memory.

    0   magic with the version of this layout, 8 bytes
    8   SHA-256 of everything from byte 40 to the end of the header
    40  length of the file · length of the header · 8 bytes 0, little-endian
    64  header, msgpack: fingerprint of the dataclasses, place of each column, the Trace with numbers for its columns
    …   the columns, little-endian, each at a multiple of 64 bytes

The header follows from the dataclasses: a new field or table of Trace needs no change here. Columns are read through
one map of the file, read-only and without a copy.

What is checked: the header by SHA-256 and each column by CRC-32, on every reading. The CRC is the only thing that
tells a flipped bit in a duration from a duration, and it costs 0.3 s of CPU a GB (zlib, 3.6 GB/s), 50 ms for a trace
of 3 million events; the pages it touches are those that an analysis reads next. SHA-256 would cost twice that and guard
against forgery, which nobody needs who can write to the file: nothing in it is run.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import mmap
import os
import struct
import typing
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from probe.errors import TraceError
from probe.trace import Table, Trace

Column: TypeAlias = npt.NDArray[Any]

MAGIC = b"\x89PRBT\r\n\x01"  # as in PNG: not text, and what mangles line ends is noticed; the last byte is the version
_ALIGNMENT = 64  # bytes: a cache line
_PREFIX = struct.Struct("<8s32sQQQ")
_DIGESTED = 40  # the digest covers what follows it
_PLAIN = frozenset({int, str, float, bool, type(None)})
_DTYPES = frozenset({"|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f4", "<f8"})


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a column lies and what it must hold."""

    dtype: str
    rows: int
    offset: int  # bytes from the start of the columns, which is the first multiple of 64 after the header
    crc32: int

    @property
    def end(self) -> int:
        return self.offset + self.rows * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class _Header:
    layout: str
    places: tuple[_Place, ...]
    body: bytes  # the Trace in msgpack, with the number of a place for each column


@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
    """A Trace ready to be written."""

    head: bytes
    columns: tuple[Column, ...]
    offsets: tuple[int, ...]
    length: int  # of the file, bytes

    def write(self, file: BinaryIO) -> None:
        """Write all of it to `file`, which stands at its start. Raises OSError."""
        file.write(self.head)
        at = len(self.head)
        for column, offset in zip(self.columns, self.offsets, strict=True):
            file.write(bytes(offset - at))
            file.write(column.data)
            at = offset + column.nbytes


def write(trace: Trace, file: BinaryIO) -> None:
    """Write `trace` to `file`. Raises OSError, and ValueError for what this file cannot hold."""
    pack(trace).write(file)


def pack(trace: Trace) -> Packed:
    """The bytes of `trace`; its columns are not copied. Raises ValueError for what this file cannot hold."""
    columns: list[Column] = []

    def numbered(value: Any) -> int:
        columns.append(_plain(value))
        return len(columns) - 1

    try:
        body = msgspec.msgpack.encode(trace, enc_hook=numbered)
    except (TypeError, OverflowError, RecursionError, msgspec.MsgspecError) as failed:
        raise ValueError(f"cannot be written: {failed}") from None
    return _placed(body, tuple(columns))


def _plain(value: Any) -> Column:
    """The column as it is written: contiguous, little-endian."""
    if not isinstance(value, np.ndarray) or value.ndim != 1:
        raise TypeError(f"{type(value).__name__} is neither plain data nor a column")
    little = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
    if little.dtype.str not in _DTYPES:
        raise TypeError(f"a column of {little.dtype}")
    return little


def _placed(body: bytes, columns: tuple[Column, ...]) -> Packed:
    """Body and columns with a place for each, and the head that tells of them."""
    places = []
    end = 0
    for column in columns:
        places.append(_Place(column.dtype.str, len(column), _aligned(end), zlib.crc32(column.data)))
        end = places[-1].end
    header = msgspec.msgpack.encode(_Header(layout(), tuple(places), body))
    start = _aligned(_PREFIX.size + len(header))
    numbers = struct.pack("<QQQ", start + end, len(header), 0)
    head = MAGIC + hashlib.sha256(numbers + header).digest() + numbers + header
    return Packed(head.ljust(start, b"\0"), columns, tuple(start + place.offset for place in places), start + end)


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def read(path: Path) -> Trace:
    """The Trace in a file of `write`; its columns are read-only views of the file.

    Raises OSError, and TraceError where the file is not whole and unchanged, or is of another version's dataclasses.
    """
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        if length < _PREFIX.size:
            _refuse(path, "too short")
        view = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ)
    try:
        return _trace(path, view, *_checked_header(path, view))
    except (msgspec.MsgspecError, ValueError, TypeError, IndexError, RecursionError) as wrong:
        _refuse(path, str(wrong))


def _checked_header(path: Path, view: mmap.mmap) -> tuple[_Header, int]:
    """The header, and where the columns start."""
    magic, digest, length, header_length, _ = _PREFIX.unpack_from(view)
    if magic != MAGIC:
        _refuse(path, "another kind or version of file")
    if length != len(view) or header_length > length - _PREFIX.size:
        _refuse(path, f"{len(view)} bytes where {length} were written")
    end = _PREFIX.size + header_length
    if hashlib.sha256(view[_DIGESTED:end]).digest() != digest:
        _refuse(path, "the header is damaged")
    header = msgspec.msgpack.decode(view[_PREFIX.size : end], type=_Header)
    if header.layout != layout():
        _refuse(path, "written for another version of probe")
    return header, _aligned(end)


def _trace(path: Path, view: mmap.mmap, header: _Header, start: int) -> Trace:
    columns = [_column(path, view, start, place) for place in header.places]

    def column(_: Any, number: int) -> Column:
        return columns[number]

    trace = msgspec.msgpack.decode(header.body, type=Trace, dec_hook=column)
    for table in _tables(trace):
        if len({len(values) for _, values in table.columns()}) > 1:
            _refuse(path, f"columns of {type(table).__name__} differ in length")
    return typing.cast(Trace, _settled(trace))


def _column(path: Path, view: mmap.mmap, start: int, place: _Place) -> Column:
    """One column in the map, after its place and content were checked."""
    if place.dtype not in _DTYPES or place.rows < 0 or place.offset % _ALIGNMENT:
        _refuse(path, "a column is not where and what it should be")
    if place.offset < 0 or start + place.end > len(view):
        _refuse(path, "a column lies outside the file")
    with memoryview(view) as whole, whole[start + place.offset : start + place.end] as part:
        if zlib.crc32(part) != place.crc32:
            _refuse(path, "a column is damaged")
    column: Column = np.frombuffer(view, place.dtype, place.rows, start + place.offset)
    return column


def _tables(value: Any) -> Iterator[Table]:
    """The tables in a dataclass, at any depth of dataclasses."""
    for f in dataclasses.fields(value):
        inner = getattr(value, f.name)
        if isinstance(inner, Table):
            yield inner
        elif dataclasses.is_dataclass(inner):
            yield from _tables(inner)


def _settled(value: Any) -> Any:
    """`value` with tuples for lists: where a field may hold anything, msgpack does not tell the two apart."""
    if isinstance(value, (list, tuple)):
        return tuple([v if type(v) in _PLAIN else _settled(v) for v in value])
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    old = {name: getattr(value, name) for name in _open_fields(type(value))}
    new = {name: _settled(inner) for name, inner in old.items()}
    return value if new == old else dataclasses.replace(value, **new)


@functools.cache
def _open_fields(kind: type) -> tuple[str, ...]:
    """The fields of a dataclass that may hold anything, at some depth."""
    return tuple(name for name, hint in typing.get_type_hints(kind).items() if _open(hint))


def _open(hint: Any) -> bool:
    if typing.get_origin(hint) is np.ndarray:
        return False
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return bool(_open_fields(hint))
    return hint is Any or any(map(_open, typing.get_args(hint)))


def _refuse(path: Path, why: str) -> NoReturn:
    raise TraceError(f"{path}: not a kept trace that this version of probe can use ({why}); delete it") from None


@functools.cache
def layout() -> str:
    """Fingerprint of the names and types of all fields of Trace and of what it holds, dtypes included; hexadecimal."""
    lines: dict[type, str] = {}
    _describe(Trace, lines)
    return hashlib.sha256("\n".join(lines.values()).encode()).hexdigest()


def _describe(hint: Any, lines: dict[type, str]) -> None:
    """Add a line for each dataclass that `hint` mentions, at any depth."""
    for inner in typing.get_args(hint):
        _describe(inner, lines)
    if not (isinstance(hint, type) and dataclasses.is_dataclass(hint)) or hint in lines:
        return
    lines[hint] = ""  # holds its place: dataclasses may mention each other
    hints = typing.get_type_hints(hint)
    named = ", ".join(f"{f.name}: {hints[f.name]!r}" for f in dataclasses.fields(hint))
    lines[hint] = f"{hint.__qualname__}({named})"
    for f in dataclasses.fields(hint):
        _describe(hints[f.name], lines)
