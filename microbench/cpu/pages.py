"""Does memory lie on small pages or on huge ones? Anonymous memory on the kind that is wanted, and what was given."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import numpy as np
import numpy.typing as npt

from probe.machine import cpu_info
from probe.microbench import memory
from probe.units import format_bytes

SMALL_BYTES, HUGE_BYTES = 4 * memory.KIB, 2 * memory.MIB  # of x86-64, and of aarch64 with 4 KiB pages
SYSTEM_SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SMAPS = Path("/proc/self/smaps")


class Pages:
    """Anonymous memory that starts at a huge page, touched in random order.

    `why_small` is None where all of it lies on huge pages, and otherwise says why it does not.
    """

    def __init__(self, size_bytes: int, generator: np.random.Generator, *, huge: bool) -> None:
        size_bytes = -(-size_bytes // HUGE_BYTES) * HUGE_BYTES
        self._memory = memory.reserved(size_bytes + HUGE_BYTES, private=True)  # shared memory gets no huge pages
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.address = -(-start // HUGE_BYTES) * HUGE_BYTES
        self.words: npt.NDArray[np.uint64] = np.frombuffer(
            self._memory, np.uint64, size_bytes // 8, self.address - start
        )
        refused = self._advise("MADV_HUGEPAGE" if huge else "MADV_NOHUGEPAGE")
        self.words[generator.permutation(size_bytes // SMALL_BYTES) * (SMALL_BYTES // 8)] = 1
        self.why_small: str | None = "not asked for"
        if huge:
            switch, smaps = cpu_info.read_text(SYSTEM_SWITCH), cpu_info.read_text(SMAPS) or ""
            self.why_small = switched_off(switch) or refused or not_huge(smaps, self.address, size_bytes)

    def _advise(self, advice: str) -> str | None:
        """Tell the kernel which pages are wanted; why it refuses, None if it does not."""
        if not hasattr(mmap, advice):
            return "this system has no transparent huge pages"
        try:
            self._memory.madvise(getattr(mmap, advice))
        except OSError as error:
            return f"the kernel refuses them ({error.strerror})"
        return None


def switched_off(setting: str | None) -> str | None:
    """Why `setting` (the text of transparent_hugepage/enabled) rules huge pages out; None if it does not."""
    if setting is None:
        return "this kernel has no transparent huge pages"
    if "[never]" in setting:
        return f"transparent huge pages are off; write madvise to {SYSTEM_SWITCH}"
    return None


def not_huge(smaps: str, address: int, size_bytes: int) -> str | None:
    """Why `size_bytes` at `address` do not lie on huge pages by the text of /proc/self/smaps; None if they do."""
    given = huge_bytes(smaps, address)
    if given is None:
        return f"the kernel does not say whether it gave any (AnonHugePages in {SMAPS})"
    if given < size_bytes:
        return f"the kernel gave {format_bytes(given)} of {format_bytes(size_bytes)}; free memory is in small pieces"
    return None


def huge_bytes(smaps: str, address: int) -> int | None:
    """Bytes on transparent huge pages of the mapping that contains `address`; None if the text does not tell."""
    inside = False
    for line in smaps.splitlines():
        first, _, rest = line.partition(" ")
        low, dash, high = first.partition("-")
        if dash and not first.endswith(":"):
            inside = int(low, 16) <= address < int(high, 16)
        elif inside and first == "AnonHugePages:":
            return int(rest.split()[0]) * 1024
    return None
