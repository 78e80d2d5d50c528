"""What kind of runtime call is it: does it wait for the device, allocate, or hand work over?"""

from __future__ import annotations

from collections.abc import Callable

from probe.trace import Mask, Trace

# Substrings of names that CUDA and HIP share behind their prefixes: "cudaStreamSynchronize", "hipStreamSynchronize".
_SYNC = ("synchronize",)
_ALLOCATOR = ("malloc", "free", "hostalloc", "hostregister", "hostunregister", "memcreate", "memmap", "memunmap",
              "memsetaccess", "memaddress", "memrelease")  # fmt: skip
_NOT_ALLOCATOR = ("mallocasync", "freeasync", "memgetinfo")  # queued like a kernel
_DRAINING = ("free",)  # these wait until the device has finished


def _bare(name: str) -> str:
    """A call's name in small letters without its library's prefix."""
    lower = name.lower()
    return next((lower.removeprefix(p) for p in ("cuda", "hip", "cu") if lower.startswith(p)), lower)


def _of_library(name: str) -> bool:
    return name.lower().startswith(("cuda", "hip", "cu", "hsa"))


def is_sync(name: str) -> bool:
    """Whether a call returns when the device has done some work."""
    return _of_library(name) and any(word in _bare(name) for word in _SYNC)


def is_allocation(name: str) -> bool:
    """Whether a call takes memory from the driver or gives it back."""
    bare = _bare(name)
    return _of_library(name) and any(w in bare for w in _ALLOCATOR) and not any(w in bare for w in _NOT_ALLOCATOR)


def is_draining(name: str) -> bool:
    """Whether a call waits for all streams although its name does not say so."""
    return is_allocation(name) and any(word in _bare(name) for word in _DRAINING)


def is_stream_wait(name: str) -> bool:
    """Whether a call makes a stream wait for an event of another."""
    return _of_library(name) and "streamwaitevent" in _bare(name)


def is_copy(name: str) -> bool:
    """Whether a call copies: from or to pageable memory it waits for the copy."""
    return _of_library(name) and "memcpy" in _bare(name)


def calls_named(trace: Trace, wanted: Callable[[str], bool]) -> Mask:
    """Which runtime calls have a name for which `wanted` holds, [calls]."""
    named: Mask = trace.named(wanted)[trace.runtime_calls.name]
    return named
