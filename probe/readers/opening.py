"""Open a file, local or remote, as a stream of bytes: unzipped where its content says gzip, read and unzipped ahead.

A thread reads and unzips while the consumer decodes: file systems and inflate give up the interpreter's lock meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Any, Self

from probe.errors import InputError, TraceError, UsageError
from probe.units import format_bytes, parse_size

LIMIT_VARIABLE = "PROBE_MAX_TRACE_BYTES"
# A Trace numbers its rows in 31 bits and no event takes less than 128 bytes of text: more cannot be represented.
MOST_BYTES = 2**31 * 128
# Real traces shrink 18–30 : 1; time stamps alone keep them from 200 : 1. Deflate can reach 1032 : 1.
MOST_RATIO = 200
RATIO_FREE_BYTES = 1 << 30  # any ratio is fine up to here: this much can always be read

CHUNK = 4 << 20  # bytes handed over at once: the consumer holds the interpreter's lock for about as long as one takes
_AHEAD = 4  # chunks that wait for the consumer
_READ = 1 << 20  # zipped bytes read at once
_PIECE = 256 << 10  # zipped bytes unzipped at once
_FIRST_PIECE = 16 << 10  # the same within the first _READ: what damage spoils is one piece, so a small file keeps most
_GZIP = b"\x1f\x8b"
_PATIENCE_S = 5.0  # on closing, for a read that is under way

_EXTRAS = {
    "s3": "'torch-probe[s3]'", "s3a": "'torch-probe[s3]'", "gs": "'torch-probe[gcs]'", "gcs": "'torch-probe[gcs]'",
    "http": "aiohttp requests", "https": "aiohttp requests",
}  # fmt: skip
_PASSWORD = re.compile(r"(?<=://)[^/@]*@")


def _library() -> Any:
    """isal, which unzips 2 to 3 times as fast as zlib, where it is installed: some platforms have no wheel of it."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib


_inflate = _library()


def is_url(source: str | Path) -> bool:
    """Whether `source` is for fsspec rather than a local path."""
    return "://" in str(source)


def shown(source: str | Path) -> str:
    """`source` as messages may show it: without a password, and of http without the query, which may be a key."""
    text = str(source)
    if not is_url(text):
        return text
    text = _PASSWORD.sub("", text)
    return text.partition("?")[0] if text.startswith(("http://", "https://")) else text


def open_stream(source: str | Path) -> Stream:
    """The bytes of a local path or fsspec URL; raises InputError or TraceError, in one line, where it cannot be."""
    most_bytes = _most_bytes()
    file, size = _remote(str(source)) if is_url(source) else _local(Path(source))
    raw = _Raw(shown(source), file)
    try:
        first = raw.read(_READ)
    except BaseException:
        raw.close()
        raise
    return Stream(raw, first, size, most_bytes)


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of `url` and the path in it; InputError where its package is missing."""
    from fsspec.core import url_to_fs  # not cheap to import, and only remote files need it

    scheme = url.rpartition("::")[2].partition("://")[0]
    try:
        system, path = url_to_fs(url)
    except ImportError as error:
        package = _EXTRAS.get(scheme)
        remedy = f"pip install {package}" if package else " ".join(str(error).split())
        raise InputError(f"{shown(url)}: {scheme}:// needs a package that is not installed: {remedy}") from None
    except Exception as error:  # what a storage backend raises is its own affair
        raise cannot_read(url, error, InputError) from None
    return system, path


def cannot_read(source: str | Path, error: BaseException, kind: type[InputError] = TraceError) -> InputError:
    """What a user is told of an error of the operating system or of a storage backend."""
    name = shown(source)
    if isinstance(error, FileNotFoundError):
        return kind(f"{name}: {_not_served(error) if name.startswith('http') and is_url(name) else 'no such file'}")
    if isinstance(error, IsADirectoryError):
        return kind(f"{name}: is a directory; name a file")
    if isinstance(error, PermissionError):
        return kind(f"{name}: permission denied; check who may read it{' and your keys' if is_url(source) else ''}")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return kind(f"{name}: cannot be read: {' '.join(str(reason).split())}")


def _not_served(error: BaseException) -> str:
    """Of a web server fsspec calls every failure a missing file; its words may hold the query, which may be a key."""
    status = getattr(error.__cause__, "status", None)
    what = "its server does not answer" if status is None else f"its server answers {status}"
    return f"cannot be fetched: {what}; check the address, or download the file and name that"


class Stream:
    """Unzipped bytes of a file, read ahead by a thread that ends with it."""

    def __init__(self, raw: _Raw, first: bytes, size: int | None, most_bytes: int | None) -> None:
        self.truncated = False  # a zipped stream broke off; final once `read` has returned nothing
        self.raw_bytes = 0  # of the file itself, behind what was read here
        self.size = size  # of the file itself; None where it is not known
        self._raw = raw
        self._held = memoryview(b"")
        self._ready: SimpleQueue[_Chunk | _End] = SimpleQueue()
        self._room = threading.Semaphore(_AHEAD)
        self._ended = False
        self._closed = False
        self._thread = threading.Thread(target=self._fill, args=(first, most_bytes), name="probe-read", daemon=True)
        self._thread.start()

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, none at the end; without a size all that is left."""
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        if not self._held and not self._next():
            return b""
        data, self._held = self._held[:size], self._held[size:]
        whole = data.obj
        return whole if isinstance(whole, bytes) and len(whole) == len(data) else bytes(data)

    def close(self) -> None:
        """End the thread and close the file; what was not read is dropped."""
        self._closed = self._ended = True
        self._held = memoryview(b"")
        self._room.release()
        self._thread.join(_PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _next(self) -> bool:
        """Wait for the next chunk; False at the end. An error of the thread is raised here, once."""
        if self._ended:
            return False
        found = self._ready.get()
        self._room.release()
        if isinstance(found, _Chunk):
            self._held, self.raw_bytes = memoryview(found.data), found.raw_bytes
            return True
        self._ended, self.truncated, self.raw_bytes = True, found.truncated, found.raw_bytes
        if found.error is not None:
            raise found.error
        return False

    def _fill(self, first: bytes, most_bytes: int | None) -> None:
        """What the thread does: hand over chunks until the end, an error, or nobody wants them any more."""
        error: BaseException | None = None
        truncated = False
        delivered = False
        try:
            for text in _within_limits(self._raw, _texts(self._raw, first), most_bytes):
                self._room.acquire()
                if self._closed:
                    break
                self._ready.put(_Chunk(text, self._raw.count))
                delivered = True
        except _BrokeOff:
            truncated = True
            if not delivered:
                error = TraceError(f"{self._raw.name}: damaged gzip stream, nothing in it can be read; copy it again")
        except BaseException as raised:  # for the consumer, whatever it is
            error = raised
        finally:
            self._raw.close()
            self._ready.put(_End(truncated, self._raw.count, error))


@dataclass(frozen=True)
class _Chunk:
    data: bytes
    raw_bytes: int  # read from the file up to here


@dataclass(frozen=True)
class _End:
    truncated: bool
    raw_bytes: int
    error: BaseException | None


class _BrokeOff(Exception):  # noqa: N818 (the end of what can be unzipped)
    """A zipped stream ends early or is damaged."""


class _Raw:
    """The file itself: counts what is read, and tells errors in words."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self.name = name
        self.count = 0
        self._file = file

    def read(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except Exception as error:  # network and storage libraries have errors of their own
            raise cannot_read(self.name, error) from None
        self.count += len(data)
        return data

    def close(self) -> None:
        with contextlib.suppress(Exception):  # it was only read
            self._file.close()


def _local(path: Path) -> tuple[IO[bytes], int | None]:
    try:
        file = path.open("rb")
        about = os.fstat(file.fileno())
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        is_folder = isinstance(error, PermissionError) and path.is_dir()  # as Windows tells it
        raise cannot_read(path, IsADirectoryError() if is_folder else error) from None
    return file, about.st_size if stat.S_ISREG(about.st_mode) else None


def _remote(url: str) -> tuple[IO[bytes], int | None]:
    system, path = file_system(url)
    try:
        file = system.open(path, "rb", block_size=2 * CHUNK)
    except Exception as error:  # what a storage backend raises is its own affair
        raise cannot_read(url, error) from None
    size = getattr(file, "size", None)
    return file, size if isinstance(size, int) else None


def _texts(raw: _Raw, first: bytes) -> Iterator[bytes]:
    """The unzipped content in chunks."""
    if first.startswith(_GZIP):
        yield from _unzipped(raw, first)
        return
    while first:
        yield first
        first = raw.read(CHUNK)


def _unzipped(raw: _Raw, held: bytes) -> Iterator[bytes]:
    """What all gzip members hold, up to the first damage, which raises _BrokeOff; padding of zeros is skipped."""
    while held:
        member = _inflate.decompressobj(wbits=31)
        try:
            while not member.eof:
                piece = _PIECE if raw.count > _READ else _FIRST_PIECE
                text = member.decompress(held[:piece], CHUNK) if held else member.flush()
                if text:
                    yield text
                if not held and not member.eof:
                    raise _BrokeOff
                held = (member.unused_data if member.eof else member.unconsumed_tail) + held[piece:]
                held = held or raw.read(_READ)
        except _inflate.error:
            raise _BrokeOff from None
        while not (held := held.lstrip(b"\0")) and (more := raw.read(_READ)):
            held = more


def _within_limits(raw: _Raw, texts: Iterator[bytes], most_bytes: int | None) -> Iterator[bytes]:
    """The same texts; TraceError at the one that makes more than a trace can be."""
    count = 0
    for text in texts:
        count += len(text)
        if count > (MOST_BYTES if most_bytes is None else most_bytes):
            limit = format_bytes(most_bytes or MOST_BYTES)
            raise TraceError(f"{raw.name}: more than {limit} of text; set {LIMIT_VARIABLE} to read more")
        if most_bytes is None and count > max(RATIO_FREE_BYTES, MOST_RATIO * raw.count):
            raise TraceError(
                f"{raw.name}: unzips to more than {MOST_RATIO} times its size, as no trace does; "
                f"set {LIMIT_VARIABLE} (say 100GiB) if it is one"
            )
        yield text


def _most_bytes() -> int | None:
    """The limit that the user set; None without one."""
    text = os.environ.get(LIMIT_VARIABLE)
    if not text:
        return None
    try:
        return parse_size(text)
    except UsageError as error:
        raise UsageError(f"{LIMIT_VARIABLE}: {error}") from None
