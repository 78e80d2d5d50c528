"""Which traces were read before, and what came of it? A folder of columnar files, found by the content of the trace.

An entry's name is a digest of the trace's bytes, its file name (a rank may come from it), the
dataclasses, and the sources of the readers: whoever changes a reader finds no entry of the old one, without having to
remember a number to raise.

All bytes are hashed: Kineto traces of one program differ in a few digits, which a sample would miss. SHA-256 is the
quickest in hashlib where the processor has instructions for it (here 1.6 GB/s; BLAKE2b 0.8), a tenth of what reading
the same JSON takes. So that the second look needs no hashing, a memo beside the entries maps the file's identity
(device, inode, size, times of change) to its digest; one is written only for a file that had been left alone for two
seconds, because a file system may give two changes within one tick the same time.

Nothing here fails: where a trace cannot be kept, `keep` says why, and `lookup` finds nothing.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from probe.errors import TraceError, UsageError
from probe.files import CACHE_VARIABLE, cache_directory
from probe.readers import columnar
from probe.trace import Trace
from probe.units import format_bytes, parse_size

SWITCH_VARIABLE = "PROBE_TRACE_CACHE"
SIZE_VARIABLE = "PROBE_TRACE_CACHE_BYTES"
DEFAULT_LIMIT_BYTES = 4 << 30
# Smaller files are read again: that takes 30 ms for 4 MiB of JSON and 0.1 to 0.3 s for 1 MiB of gzip (twenty times as
# much JSON), no more than starting probe does.
SMALLEST_BYTES = 4 << 20
SMALLEST_GZIP_BYTES = 1 << 20

_OFF = frozenset({"off", "0", "no", "false"})
_RACY_NS = 2_000_000_000  # FAT counts in steps of 2 s, the coarsest tick in use
_LEFT_OVER_S = 3600.0  # an unfinished file this old has lost its process
_FORGOTTEN_S = 30 * 86400.0  # a memo unused this long
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class _Identity:
    """What tells a file from others and from itself after a change."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int  # moves even where a program sets mtime back, as `cp -p` and rsync do

    @classmethod
    def of(cls, stat: os.stat_result) -> _Identity:
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    @property
    def memo_name(self) -> str:
        return f"{hashlib.sha256(repr(self).encode()).hexdigest()[:32]}.memo"

    def settled(self, now_ns: int) -> bool:
        """Whether any later change must show in the times."""
        return now_ns - max(self.mtime_ns, self.ctime_ns) > _RACY_NS


@dataclass(frozen=True)
class _Note:
    """What a file was when `lookup` saw it."""

    identity: _Identity
    digest: str
    settled: bool


_notes: dict[Path, _Note] = {}  # of files that were looked up in vain and are being read


def directory() -> Path:
    """Where the entries are."""
    return cache_directory() / "traces"


def lookup(path: str | Path) -> Trace | None:
    """The kept trace of a file with the content of `path`; None where there is none, or the cache is off.

    Columns are read-only views of a file.
    """
    path = Path(path)
    try:
        if not _wanted(path):
            return None
        note = _noted(path)
        if note is None:
            return None
        _notes[path.absolute()] = note
        return _opened(_folder() / _entry_name(note.digest, path), path)
    except (OSError, UsageError):  # `keep` tells of both
        return None


def keep(path: str | Path, trace: Trace) -> str | None:
    """Keep `trace`, read from `path` after `lookup` found nothing there; a sentence says why it could not be kept.

    None too where there is nothing to tell: the file is small, or the cache is off.
    """
    path = Path(path)
    try:
        why = _kept(path, trace) if _wanted(path) else None
    except UsageError as wrong:
        why = f"{SIZE_VARIABLE}: {wrong}"
    except ValueError as wrong:
        why = str(wrong)
    except OSError as failed:
        remedy = f"set {CACHE_VARIABLE} to a directory with room that you can write, or {SWITCH_VARIABLE}=off"
        why = f"{failed.filename or directory()}: {failed.strerror or failed}; {remedy}"
    return None if why is None else f"{path}: not kept for a quick second look: {why}"


def _wanted(path: Path) -> bool:
    """Whether a trace of this size is worth keeping at all. Raises OSError and UsageError."""
    smallest = SMALLEST_GZIP_BYTES if path.name.endswith(".gz") else SMALLEST_BYTES
    return path.is_file() and path.stat().st_size >= smallest and _limit_bytes() > 0


def _limit_bytes() -> int:
    """How much the entries may take together; 0 where the cache is off. Raises UsageError."""
    if os.environ.get(SWITCH_VARIABLE, "").strip().lower() in _OFF:
        return 0
    text = os.environ.get(SIZE_VARIABLE)
    return parse_size(text) if text else DEFAULT_LIMIT_BYTES


def _folder() -> Path:
    """The folder of the entries, made where it is missing; nobody else may look into it. Raises OSError."""
    folder = directory()
    if folder.parts[0].startswith("~"):  # what is left where the user has no home: no name for a folder here
        raise FileNotFoundError(errno.ENOENT, "no home directory", str(folder))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)  # PermissionError where it belongs to another user, who could change what we read
    return folder


def _opened(entry: Path, path: Path) -> Trace | None:
    """The trace in `entry`, as if read from `path`; an entry that is damaged is removed."""
    try:
        trace = columnar.read(entry)
    except FileNotFoundError:
        return None
    except TraceError:
        entry.unlink(missing_ok=True)
        return None
    with contextlib.suppress(OSError):  # on a file system that is read-only now the order of use stays as it is
        os.utime(entry)
    return replace(trace, path=str(path))


def _entry_name(digest: str, path: Path) -> str:
    parts = (digest.encode(), os.fsencode(path.name), columnar.layout().encode(), _readers())
    return f"{hashlib.sha256(b''.join(hashlib.sha256(part).digest() for part in parts)).hexdigest()}.trace"


@functools.cache
def _readers() -> bytes:
    """Digest of the sources that make a Trace of a file."""
    readers, probe = Path(__file__).parent, Path(__file__).parents[1]
    sources = sorted([*readers.glob("*.py"), probe / "trace.py", probe / "machine" / "device.py"])
    hasher = hashlib.sha256()
    for source in sources:
        hasher.update(hashlib.sha256(source.read_bytes()).digest())
    return hasher.digest()


def _noted(path: Path) -> _Note | None:
    """Identity and digest of the file at `path`, from the memo where there is one; None where it is changing."""
    identity = _Identity.of(path.stat())
    with contextlib.suppress(OSError, UnicodeDecodeError):
        memo = _folder() / identity.memo_name
        digest = memo.read_text("ascii")
        if _DIGEST.fullmatch(digest):
            os.utime(memo)
            return _Note(identity, digest, settled=True)
    return _hashed(path)


def _hashed(path: Path) -> _Note | None:
    """Identity and digest of the file at `path`, all of it hashed; None where it changed meanwhile."""
    with path.open("rb") as file:
        now_ns = time.time_ns()
        identity = _Identity.of(os.fstat(file.fileno()))
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if _Identity.of(os.fstat(file.fileno())) != identity:
            return None
    note = _Note(identity, digest, identity.settled(now_ns))
    if note.settled:
        with contextlib.suppress(OSError), _new_file(_folder() / identity.memo_name) as part:
            part.write_text(digest, "ascii")
    return note


def _kept(path: Path, trace: Trace) -> str | None:
    """Keep the trace; why not, where it is not kept. Raises OSError and ValueError."""
    before = _notes.pop(path.absolute(), None)
    if before is None:
        return "it was not looked up before it was read, so what was read is not known"
    if not _unchanged(path, before):
        return "the file changed while it was read; look again when it is complete"
    packed = columnar.pack(replace(trace, path=""))  # the path is that of the next look
    limit = _limit_bytes()
    if packed.length > limit:
        return f"it takes {format_bytes(packed.length)} of {format_bytes(limit)}; set {SIZE_VARIABLE} to more"
    entry = _folder() / _entry_name(before.digest, path)
    _sweep(entry.parent)
    _make_room(entry, limit - packed.length)
    with _new_file(entry) as part, part.open("wb") as file:
        packed.write(file)
    return None


def _unchanged(path: Path, before: _Note) -> bool:
    """Whether the file still is what it was; one that had just been written is hashed again, its times do not tell."""
    if _Identity.of(path.stat()) != before.identity:
        return False
    if before.settled:
        return True
    after = _hashed(path)
    return after is not None and (after.identity, after.digest) == (before.identity, before.digest)


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """A file only its owner may read, which takes the name `path` when the block ends without an error.

    Not flushed to the disk, unlike probe.files.atomic_path: what a loss of power takes is noticed and made again.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:16]}.", suffix=".part")
    os.close(descriptor)
    part = Path(name)
    try:
        yield part
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            part.unlink()
        raise


def _sweep(folder: Path) -> None:
    """Remove what killed processes left, and memos of files that nobody looks at any more."""
    now = time.time()
    for pattern, age_s in ((".*.part", _LEFT_OVER_S), ("*.memo", _FORGOTTEN_S)):
        for file in folder.glob(pattern):
            with contextlib.suppress(OSError):  # another process sweeps too
                if now - file.stat().st_mtime > age_s:
                    file.unlink()


def _make_room(entry: Path, limit_bytes: int) -> None:
    """Remove entries, the longest unused first, until the others than `entry` take no more than `limit_bytes`.

    Processes that have one mapped keep it.
    """
    others = []
    for other in entry.parent.glob("*.trace"):
        with contextlib.suppress(FileNotFoundError):
            stat = other.stat()
            others.append((stat.st_mtime_ns, stat.st_size, other))
    others = sorted(o for o in others if o[2] != entry)
    total = sum(size for _, size, _ in others)
    for _, size, other in others:
        if total <= limit_bytes:
            return
        with contextlib.suppress(OSError):  # gone already, or mapped on a system that keeps such files
            other.unlink()
            total -= size
