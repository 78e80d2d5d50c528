"""What does the server hold beside the runs it shows? As little as the C library can be told to.

Reading a run needs several times what is kept of it. glibc keeps freed memory for later, in a heap for each thread, and
takes ever larger arrays from it; a server that reads once and then waits for hours should have them mapped one by one.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Any

# Numbers of mallopt(3), from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
LARGE_BYTES = 256 << 10  # a block from this size on is mapped alone, and given back when it is freed
HEAPS = 2


def keep_little() -> None:
    """Have large blocks mapped alone and threads share their heaps, from now on."""
    choose = _of_libc("mallopt")
    if choose is not None:
        for option, value in ((MMAP_THRESHOLD, LARGE_BYTES), (TRIM_THRESHOLD, LARGE_BYTES), (ARENA_MAX, HEAPS)):
            choose(option, value)


def give_back() -> None:
    """Return what nothing holds any more to the system."""
    gc.collect()
    trim = _of_libc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_libc(name: str) -> Any:
    """A function of glibc; None on other systems, which have no need of it."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
