"""Where do the files lie that are written to be read? In a private directory that does not outlive its run.

It is removed at the end, on an interrupt and on SIGTERM or SIGHUP; what a run leaves that was killed without warning
is removed by the next one in the same place, once it is an hour old.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from probe.errors import UnavailableError
from probe.microbench import memory
from probe.units import format_bytes

PREFIX = ".probe-storage-"
LEFTOVER_S = 3600.0  # no run lasts as long
FREE_SHARE = 0.05  # of the free space, for everything together
MOST_BYTES, MOST_BYTES_QUICK = 1 << 30, 64 * memory.MIB
LEAST_BYTES = 32 * memory.MIB
REMEDY = "name a directory that you may write in"
_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def allowed_bytes(directory: Path, *, quick: bool) -> int:
    """How much may be written to `directory` altogether; UnavailableError where that is too little to measure with."""
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    allowed = min(int(free * FREE_SHARE), MOST_BYTES_QUICK if quick else MOST_BYTES)
    if allowed < LEAST_BYTES:
        raise UnavailableError(
            f"{directory}: {format_bytes(free)} are free, of which a twentieth is too little to measure with; "
            "free some space, or name another directory"
        )
    return allowed


@contextlib.contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A private directory in `parent`, removed with all that is in it; UnavailableError where it cannot be made."""
    if not parent.is_dir():
        what = "is a file" if parent.exists() else "does not exist"
        raise UnavailableError(f"{parent} {what}; {REMEDY}")
    sweep(parent, time.time())
    with _ending_as_exit():
        try:
            directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        except OSError as error:
            raise UnavailableError(f"{parent}: {error.strerror}; {REMEDY}") from None
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def sweep(parent: Path, now: float) -> list[Path]:
    """Remove what killed runs of this user left in `parent`, `now` in seconds of the epoch; the paths removed."""
    found = []
    try:
        entries = list(os.scandir(parent))
    except OSError:  # a directory that may be written and not listed: nothing to find
        return []
    for entry in entries:
        if entry.name.startswith(PREFIX) and _is_leftover(entry, now):
            shutil.rmtree(entry.path, ignore_errors=True)
            found.append(Path(entry.path))
    return found


def _is_leftover(entry: os.DirEntry[str], now: float) -> bool:
    try:
        status = entry.stat(follow_symlinks=False)
        return entry.is_dir(follow_symlinks=False) and status.st_uid == os.getuid() and _old(status.st_mtime, now)
    except OSError:  # gone in the meantime: another run swept it
        return False


def _old(modified: float, now: float) -> bool:
    return now - modified > LEFTOVER_S


@contextlib.contextmanager
def _ending_as_exit() -> Iterator[None]:
    """Let the signals that end a process run its `finally` blocks first; only a main thread can arrange that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler == signal.SIG_DFL:  # whoever handles or ignores a signal goes on doing so
            signal.signal(number, _exit)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler == signal.SIG_DFL:
                signal.signal(number, handler)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # what a shell reports for a process that the signal ended
