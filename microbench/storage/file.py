"""What is written to be read again, and is it in the page cache? Files, their eviction, and the proof of it."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np

from probe.errors import UnavailableError
from probe.microbench import memory
from probe.microbench.harness import Clock

CHUNK_BYTES = 16 * memory.MIB  # written and synchronised in turn, so that a slow disk is noticed in time
COLD_FRACTION = 0.01  # as much of a file may still be cached when it counts as cold
_ATTEMPTS, _PAUSE_S = 5, 2e-3  # pages that are just being read ahead cannot be dropped yet


def write_file(path: Path, size_bytes: int, budget_s: float, clock: Clock) -> int:
    """Write random bytes (nothing to compress or share) and synchronise them; returns how many within the budget.

    At least one chunk is written, and as many chunks as the time allows.
    """
    generator = np.random.default_rng()
    start, written = clock(), 0
    with path.open("wb", buffering=0) as file:
        while written < size_bytes and (written == 0 or clock() - start < budget_s):
            count = min(CHUNK_BYTES, size_bytes - written)
            write_all(file.fileno(), memoryview(generator.bytes(count)))
            os.fsync(file.fileno())
            written += count
    return written


def write_all(fd: int, data: memoryview) -> None:
    """Write all of `data`, in as many calls as the system needs."""
    while data:
        data = data[os.write(fd, data) :]


def write_files(
    directory: Path, count: int, size_bytes: int, budget_s: float, clock: Clock, pool: ThreadPoolExecutor
) -> list[Path]:
    """Write up to `count` files of `size_bytes` as far as the budget goes, at least eight, several at a time."""
    directory.mkdir()
    data = np.random.default_rng().bytes(size_bytes)
    start, written = clock(), 0
    paths = [directory / f"{number:05}.jpg" for number in range(count)]
    while written < count and (written < 8 or clock() - start < budget_s):
        batch = paths[written : written + 32]
        list(pool.map(lambda path: _write_one(path, data), batch))
        written += len(batch)
    return paths[:written]


def _write_one(path: Path, data: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        write_all(file.fileno(), memoryview(path.name.encode() + data[len(path.name) :]))
        getattr(os, "fdatasync", os.fsync)(file.fileno())  # macOS has fsync alone


class Target:
    """A file opened once for each reader, with aligned buffers and a mapping that tells what of it is cached."""

    def __init__(self, path: Path, readers: int, largest_block: int, *, direct: bool = False) -> None:
        """Raises OSError where `direct` (past the page cache) is not possible."""
        flags = os.O_RDONLY | (os.O_DIRECT if direct else 0)
        self._fds: list[int] = []
        self.size = path.stat().st_size
        try:
            self._fds += [os.open(path, flags) for _ in range(readers)]
            self._buffers = [memoryview(mmap.mmap(-1, largest_block)) for _ in range(readers)]
            self._pages = Residence(self._fds[0], self.size)
            self.read(0, min(largest_block, self.size), (0,))  # some file systems refuse only when read
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        while self._fds:
            os.close(self._fds.pop())

    def read(self, reader: int, block: int, offsets: Iterable[int]) -> None:
        """Read `block` bytes at each of `offsets` through the descriptor and buffer of one reader."""
        fd, into = self._fds[reader], [self._buffers[reader][:block]]
        for offset in offsets:
            if os.preadv(fd, into, offset) != block:
                raise UnavailableError("the file became shorter while it was read: something else changed it")

    def evict(self) -> float:
        """Drop the file from the page cache; the fraction that is still there."""
        return evict(self._fds[0], self._pages.fraction)

    def cached(self, first_bytes: int) -> float:
        """The fraction of the first bytes of the file that is in the page cache."""
        return self._pages.fraction(first_bytes)


def can_evict() -> bool:
    """Whether this system has the call that drops a file from the page cache."""
    return hasattr(os, "posix_fadvise")


def evict(fd: int, cached: Callable[[], float]) -> float:
    """Ask the kernel to drop a synchronised file from the page cache; the fraction that stayed."""
    left = 1.0
    for _ in range(_ATTEMPTS):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        left = cached()
        if left <= COLD_FRACTION:
            break
        time.sleep(_PAUSE_S)
    return left


def evict_path(path: Path) -> float:
    """Drop the file at `path` from the page cache; the fraction that stayed."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return evict(fd, Residence(fd, path.stat().st_size).fraction)
    finally:
        os.close(fd)


class Residence:
    """Which pages of a file are in memory, by mincore(2); the mapping is never touched, so it brings none in."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        self._mapping = mmap.mmap(fd, size_bytes, mmap.MAP_SHARED, mmap.PROT_READ)
        self._bytes = np.frombuffer(self._mapping, np.uint8)
        self._flags = np.zeros(-(-size_bytes // mmap.PAGESIZE), np.uint8)
        self._mincore = ctypes.CDLL(None, use_errno=True).mincore
        self._mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)

    def fraction(self, first_bytes: int | None = None) -> float:
        """The fraction of pages in memory, of the first bytes or of all."""
        count = first_bytes or len(self._bytes)
        if self._mincore(self._bytes.ctypes.data, count, self._flags.ctypes.data):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return float((self._flags[: -(-count // mmap.PAGESIZE)] & 1).mean())
