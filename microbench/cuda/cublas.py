"""How is cuBLAS called on the GPU's own stream? libcublas through ctypes, every status checked.

The library is the one torch brought into this process, found by its name; without it one that the dynamic loader knows.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from ctypes import POINTER, byref, c_float, c_int, c_uint64, c_void_p
from types import TracebackType
from typing import Any, Self

from probe.errors import UnavailableError
from probe.kernels.cuda.gpu import Gpu

SONAMES = ("libcublas.so.13", "libcublas.so.12", "libcublas.so.11")
MOST_ELEMENTS = 2**31 - 1  # of the interface with 32-bit counts
_HOST = 0  # CUBLAS_POINTER_MODE_HOST: alpha is read from the host when the call is made
# cublasStatus_t, cublas_api.h
_STATUS = {
    1: "not initialised: too little memory is free, or the driver is older than the library",
    3: "allocation failed",
    7: "invalid value",
    8: "the library has no code for this GPU",
    11: "mapping error",
    13: "execution failed",
    14: "internal error",
    15: "not supported",
    16: "license error",
}
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cublasCreate_v2": (POINTER(c_void_p),),
    "cublasDestroy_v2": (c_void_p,),
    "cublasGetProperty": (c_int, POINTER(c_int)),
    "cublasSetStream_v2": (c_void_p, c_void_p),
    "cublasSetPointerMode_v2": (c_void_p, c_int),
    "cublasSaxpy_v2": (c_void_p, c_int, POINTER(c_float), c_uint64, c_int, c_uint64, c_int),
}


class Cublas:
    """A handle of cuBLAS whose work goes on the GPU's own stream."""

    def __init__(self, gpu: Gpu, sonames: tuple[str, ...] | None = None) -> None:
        """Raises UnavailableError where there is no such library, or it refuses this device."""
        self._library = _loaded(sonames or names())
        self._handle = c_void_p()
        gpu.synchronise()  # makes the device's context current, which is the one that the handle is then of
        self._call("cublasCreate_v2", byref(self._handle))
        try:
            self._call("cublasSetStream_v2", self._handle, gpu.own_stream.handle)
            self._call("cublasSetPointerMode_v2", self._handle, _HOST)
        except UnavailableError:
            with contextlib.suppress(UnavailableError):  # the first refusal is the one to tell
                self.close()
            raise

    @property
    def version(self) -> str:
        """The library's version: 13.0.2."""
        return ".".join(str(self._property(number)) for number in range(3))

    def saxpy(self, elements: int, a: float, x: int, y: int) -> None:
        """Enqueues y = a x + y for float32 arrays at the addresses `x` and `y`; does not wait."""
        if elements > MOST_ELEMENTS:
            raise UnavailableError(f"cublasSaxpy takes at most {MOST_ELEMENTS} elements, not {elements}")
        self._call("cublasSaxpy_v2", self._handle, elements, byref(c_float(a)), x, 1, y, 1)

    def close(self) -> None:
        """Gives the handle back; a second time does nothing."""
        handle, self._handle = self._handle, c_void_p()
        if handle:
            self._call("cublasDestroy_v2", handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(UnavailableError):  # on a lost device: the process's end gives everything back
            self.close()

    def _property(self, number: int) -> int:
        value = c_int()
        self._call("cublasGetProperty", number, byref(value))
        return value.value

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise UnavailableError(f"this cuBLAS has no {name}; install the one that torch was built with") from None
        function.argtypes, function.restype = _FUNCTIONS[name], c_int
        status = function(*arguments)
        if status:
            raise UnavailableError(f"{name} failed: {_STATUS.get(status, 'unknown status')} ({status})")


def names() -> Iterator[str]:
    """The library's names, that of torch's CUDA first; torch is imported, which loads its own."""
    import torch

    major = (torch.version.cuda or "").partition(".")[0]
    yield from sorted(SONAMES, key=lambda name: not name.endswith(f".{major}"))


def _loaded(sonames: tuple[str, ...] | Iterator[str]) -> ctypes.CDLL:
    tried = []
    for name in sonames:
        try:
            return ctypes.CDLL(name)
        except OSError:
            tried.append(name)
    raise UnavailableError(f"no cuBLAS ({', '.join(tried)}); it comes with CUDA builds of torch")
