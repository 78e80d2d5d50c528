"""How does a suite get memory of the device, and pinned memory of the host?"""

from __future__ import annotations

import contextlib
import ctypes
from types import TracebackType
from typing import Any, Self

import numpy as np

from probe.kernels.cuda.context import PrimaryContext
from probe.kernels.cuda.driver import CudaError
from probe.kernels.cuda.queues import Stream

_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: pinned for every context


class Freed:
    """What is given back by `close`, at the end of a `with` block, or with the Gpu."""

    def close(self) -> None:
        """Gives it back; a second time does nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:  # the first error is the one to tell
            with contextlib.suppress(CudaError):
                self.close()


class Memory(Freed):
    """`n_bytes` of the device's memory at `address`."""

    def __init__(self, context: PrimaryContext, stream: Stream, n_bytes: int) -> None:
        """Raises OutOfMemory."""
        self._context, self._stream = context, stream
        address = ctypes.c_ulonglong()
        context.call("cuMemAlloc_v2", ctypes.byref(address), n_bytes)
        self.address = address.value
        self.n_bytes = n_bytes

    def fill(self, byte: int = 0) -> None:
        """Sets every byte, on the Gpu's stream; does not wait."""
        self._context.call("cuMemsetD8Async", self.address, byte, self.n_bytes, self._stream.handle)

    def write(self, array: np.ndarray[Any, Any], offset_bytes: int = 0) -> None:
        """Copies `array` to the device and waits."""
        array = np.ascontiguousarray(array)
        self._within(offset_bytes, array.nbytes)
        source = ctypes.c_void_p(array.ctypes.data)
        target = self.address + offset_bytes
        self._context.call("cuMemcpyHtoDAsync_v2", target, source, array.nbytes, self._stream.handle)
        self._stream.synchronise()

    def read(self, dtype: Any, count: int, offset_bytes: int = 0) -> np.ndarray[Any, Any]:
        """`count` values from the device, after all work on the Gpu's stream."""
        array = np.empty(count, dtype)
        self._within(offset_bytes, array.nbytes)
        target = ctypes.c_void_p(array.ctypes.data)
        source = self.address + offset_bytes
        self._context.call("cuMemcpyDtoHAsync_v2", target, source, array.nbytes, self._stream.handle)
        self._stream.synchronise()
        return array

    def close(self) -> None:
        """Frees it; a second time does nothing."""
        address, self.address = self.address, 0
        if address:
            self._context.call("cuMemFree_v2", address)

    def _within(self, offset: int, size: int) -> None:
        if not 0 <= offset <= self.n_bytes - size:
            raise ValueError(f"{size} bytes at {offset} do not lie within {self.n_bytes} bytes")


class HostMemory(Freed):
    """`n_bytes` of pinned host memory at `address`: what the device reads and writes at full speed."""

    def __init__(self, context: PrimaryContext, n_bytes: int) -> None:
        """Raises OutOfMemory."""
        self._context = context
        address = ctypes.c_void_p()
        context.call("cuMemHostAlloc", ctypes.byref(address), n_bytes, _PORTABLE)
        self.address = address.value or 0
        self.n_bytes = n_bytes

    def array(self, dtype: Any) -> np.ndarray[Any, Any]:
        """The memory itself as numpy values; not to be used after `close`."""
        buffer = (ctypes.c_ubyte * self.n_bytes).from_address(self.address)
        whole = self.n_bytes - self.n_bytes % np.dtype(dtype).itemsize
        return np.ctypeslib.as_array(buffer)[:whole].view(dtype)

    def close(self) -> None:
        """Frees it; a second time does nothing."""
        address, self.address = self.address, 0
        if address:
            self._context.call("cuMemFreeHost", ctypes.c_void_p(address))
