"""How does a file appear whole or not at all, and who gets which directory?"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs

from probe.errors import InputError

CACHE_VARIABLE = "PROBE_CACHE_DIR"
MAX_SIBLINGS = 10_000  # exp1 … exp1-10000; beyond that something loops


def cache_directory() -> Path:
    """Where probe keeps what it can make again; PROBE_CACHE_DIR overrides the user's cache directory."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("torch-probe"))


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`: readers see the old content or the new, never a part. Raises OSError."""
    with atomic_path(path) as part:
        part.write_bytes(data)


def write_report(path: Path, data: bytes) -> None:
    """The same for a file that a user named; InputError where it cannot be written.

    A link is followed, a device or pipe written to.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a directory; give the name of a file")
    try:
        if path.exists() and not path.is_file():  # asked of the link itself: /dev/stdout leads to a name that is none
            path.write_bytes(data)
        else:
            write_atomically(path.resolve() if path.is_symlink() else path, data)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` to write to; it takes the name `path` when the block ends without an error.

    On any error, the user's own interruption included, the unfinished file is removed and the error passes.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        yield part
        _flush(part)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            part.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # some file systems refuse to flush a directory; the rename holds anyway
        _flush(path.parent)


def _flush(path: Path) -> None:
    """Ask the disk to keep what was written, so that a later loss of power leaves it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def made_exclusively(path: Path) -> bool:
    """Whether this process, and no other, made the directory `path`. Raises OSError when nobody can."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def claim_directory(path: Path, accept: Callable[[Path], bool] = made_exclusively) -> tuple[Path, bool]:
    """The first of path, path-2, path-3, … that `accept` takes, and whether that is `path` itself."""
    for number in range(1, MAX_SIBLINGS + 1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        if accept(candidate):
            return candidate, number == 1
    raise FileExistsError(f"{path} and {MAX_SIBLINGS - 1} directories beside it are taken")
