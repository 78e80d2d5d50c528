"""Where do the measured arrays lie? In anonymous pages of a known kind, at known offsets, in what memory is free."""

from __future__ import annotations

import ctypes
import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.errors import UnavailableError
from probe.machine import cpu_info
from probe.machine.device import Device
from probe.units import format_bytes

KIB, MIB = 1 << 10, 1 << 20
SMALLEST_BYTES = 4 * KIB
LARGEST_BYTES = 256 * MIB
LINE_BYTES = 64
SAFE_SHARE = 0.25  # of the free memory; the rest belongs to whoever else is on the machine
LEVELS_UNKNOWN = (16 * KIB, 256 * KIB, 4 * MIB, LARGEST_BYTES)  # footprints where the system reports no caches
BEYOND_CACHES = 4  # times the last level: what is left of an earlier pass is then at most a quarter
STAGGER_BYTES = 1344  # between arrays: 21 lines, so that they do not start at the same place of a page


def sizes(device: Device, *, coarse: bool = False) -> tuple[int, ...]:
    """Powers of two from 4 KiB to 256 MiB, and on to four times all last-level caches where those are larger.

    Coarse: every second power, and always the largest.
    """
    largest = LARGEST_BYTES
    while largest < 4 * total_cache_bytes(device):
        largest *= 2
    exponents = range(SMALLEST_BYTES.bit_length() - 1, largest.bit_length())
    chosen = exponents[::2] if coarse else exponents
    return tuple(sorted({1 << e for e in chosen} | {largest}))


def footprints(device: Device) -> tuple[tuple[str | None, int], ...]:
    """For each level as the system reports it, and DRAM, bytes (whole KiB) that lie clearly in it for one core.

    Half of L1; for the others the geometric mean of the capacities inside and of their own, so that a neighbour who
    uses much of a shared cache does not push it out. Where no caches are reported the levels have no names (None).
    """
    known = sorted({cache.level: cache.bytes for cache in device.caches}.items())
    if not known:
        return tuple((None, size) for size in LEVELS_UNKNOWN)
    found: list[tuple[str | None, int]] = []
    inside = 0
    for level, capacity in known:
        middle = math.isqrt(inside * capacity) if inside else capacity // 2
        found.append((f"L{level}", middle // KIB * KIB))
        inside = capacity
    return (*found, ("DRAM", max(64 * MIB, 1 << (BEYOND_CACHES * inside - 1).bit_length())))


def total_cache_bytes(device: Device) -> int:
    """The last-level caches of all CPUs this process may use, together; 0 where the system does not tell."""
    if not device.caches:
        return 0
    last = max(device.caches, key=lambda cache: cache.level)
    instances = -(-(device.cores or 1) // max(1, last.shared_by))
    return instances * last.bytes


def free_bytes() -> int | None:
    """Memory that can be had without swapping, None if not told: the least of MemAvailable and what limits leave.

    Those are a container's, and this process's own (ulimit -v).
    """
    meminfo = cpu_info.parse_meminfo(cpu_info.read_text(Path("/proc/meminfo")) or "")
    available = meminfo.get("MemAvailable")
    limit = cpu_info.memory_limit_bytes(cpu_info.read_text(Path("/proc/self/cgroup")) or "")
    known = [value for value in (available, limit, address_space_left()) if value is not None]
    return min(known) if known else None


def address_space_left() -> int | None:
    """What the limit on this process's address space leaves, in bytes; None without a limit."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = (cpu_info.read_text(Path("/proc/self/statm")) or "").split()
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    return max(0, limit - int(pages[0]) * mmap.PAGESIZE)


def reserved(size_bytes: int, *, private: bool = False) -> mmap.mmap:
    """Anonymous memory, not yet touched; UnavailableError where the system refuses it."""
    whole = -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
    try:
        return mmap.mmap(-1, whole, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) if private else mmap.mmap(-1, whole)
    except (OSError, MemoryError) as refused:
        raise UnavailableError(
            f"the system refuses {format_bytes(size_bytes)} of memory ({refused}); "
            "end other programs, or raise the limit (ulimit -v)"
        ) from None


def affordable(wanted: tuple[int, ...], free: int | None) -> tuple[int, ...]:
    """Those of the `wanted` sizes that fit in a safe share of `free` bytes (all of them where that is unknown)."""
    return wanted if free is None else tuple(size for size in wanted if size <= SAFE_SHARE * free)


class Buffer:
    """Anonymous memory, page aligned, not yet touched: whoever writes it first decides on which node it lies."""

    def __init__(self, size_bytes: int, *, small_pages: bool = False) -> None:
        self._memory = reserved(size_bytes)
        if small_pages and hasattr(mmap, "MADV_NOHUGEPAGE"):
            try:
                self._memory.madvise(mmap.MADV_NOHUGEPAGE)
            except OSError:  # a kernel without transparent huge pages has only small ones
                return

    @property
    def address(self) -> int:
        """Address of the first byte."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    def view(self, dtype: Any) -> npt.NDArray[Any]:
        """The memory as a numpy array of `dtype`."""
        return np.frombuffer(self._memory, dtype)


def array_offsets(size_bytes: int, arrays: int) -> list[int]:
    """Where `arrays` equal arrays with a total of `size_bytes` start in a buffer: page after page, staggered."""
    each = -(-(size_bytes // arrays) // mmap.PAGESIZE) * mmap.PAGESIZE
    return [i * (each + STAGGER_BYTES) for i in range(arrays)]


def buffer_bytes(size_bytes: int) -> int:
    """A buffer large enough for three arrays of `size_bytes` in total, or two, with their stagger."""
    return size_bytes + 3 * (mmap.PAGESIZE + STAGGER_BYTES)
