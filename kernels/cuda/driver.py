"""How is the CUDA driver called, and what does a refusal mean? libcuda.so.1 through ctypes, every code checked.

UnavailableError
└── CudaError                 the driver refused a call: its code, the code's name, and the function
    ├── OutOfMemory           the device or the host has no room for the size
    └── DeviceLost            the context is broken: nothing works on this device until the process ends
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_float, c_int, c_size_t, c_ubyte, c_uint, c_ulonglong, c_void_p
from typing import Any

from probe.errors import UnavailableError
from probe.kernels.cuda import libraries

SUCCESS = 0
NO_DEVICE, INVALID_DEVICE = 100, 101  # CUresult, cuda.h
INVALID_IMAGE, NO_BINARY, UNSUPPORTED_PTX, NOT_FOUND = 200, 209, 222, 500
OUT_OF_MEMORY = (2,)
NOT_READY = 600
# Errors after which every further call in the context fails: CUDA documents the process must end.
STICKY = {
    4: "the driver is shutting down",
    46: "the device is not available",
    201: "the context is invalid",
    214: "an uncorrectable memory error (ECC)",
    220: "an uncorrectable NVLink error",
    226: "an uncorrectable NVLink error",
    700: "an illegal address",
    702: "a kernel ran longer than the system allows",
    709: "the context was destroyed",
    714: "a hardware stack error",
    715: "an illegal instruction",
    716: "a misaligned address",
    717: "an address outside its space",
    718: "an invalid program counter",
    719: "a kernel failed",
    721: "a cooperative launch failed",
    999: "an unknown error",
}
_DEVICE, _POINTER, _HANDLE = c_int, c_ulonglong, c_void_p

# Every function that is called, and what it takes. The names are those of the binary interface: cuda.h maps
# cuMemAlloc to cuMemAlloc_v2 and so on.
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(_DEVICE), c_int),
    "cuDeviceGetName": (c_char_p, c_int, _DEVICE),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, _DEVICE),
    "cuDeviceTotalMem_v2": (POINTER(c_size_t), _DEVICE),
    "cuDevicePrimaryCtxRetain": (POINTER(_HANDLE), _DEVICE),
    "cuDevicePrimaryCtxRelease_v2": (_DEVICE,),
    "cuCtxSetCurrent": (_HANDLE,),
    "cuCtxSynchronize": (),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemAlloc_v2": (POINTER(_POINTER), c_size_t),
    "cuMemFree_v2": (_POINTER,),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (_POINTER, c_void_p, c_size_t, _HANDLE),
    "cuMemcpyDtoHAsync_v2": (c_void_p, _POINTER, c_size_t, _HANDLE),
    "cuMemcpyDtoDAsync_v2": (_POINTER, _POINTER, c_size_t, _HANDLE),
    "cuMemcpyAsync": (_POINTER, _POINTER, c_size_t, _HANDLE),
    "cuMemsetD8Async": (_POINTER, c_ubyte, c_size_t, _HANDLE),
    "cuModuleLoadData": (POINTER(_HANDLE), c_char_p),
    "cuModuleUnload": (_HANDLE,),
    "cuModuleGetFunction": (POINTER(_HANDLE), _HANDLE, c_char_p),
    "cuFuncGetAttribute": (POINTER(c_int), c_int, _HANDLE),
    "cuFuncSetAttribute": (_HANDLE, c_int, c_int),
    "cuOccupancyMaxActiveBlocksPerMultiprocessor": (POINTER(c_int), _HANDLE, c_int, c_size_t),
    "cuLaunchKernel": (_HANDLE, *(c_uint,) * 7, _HANDLE, POINTER(c_void_p), POINTER(c_void_p)),
    "cuStreamCreate": (POINTER(_HANDLE), c_uint),
    "cuStreamDestroy_v2": (_HANDLE,),
    "cuStreamSynchronize": (_HANDLE,),
    "cuStreamWaitEvent": (_HANDLE, _HANDLE, c_uint),
    "cuStreamBeginCapture_v2": (_HANDLE, c_int),
    "cuStreamEndCapture": (_HANDLE, POINTER(_HANDLE)),
    "cuGraphInstantiateWithFlags": (POINTER(_HANDLE), _HANDLE, c_ulonglong),
    "cuGraphUpload": (_HANDLE, _HANDLE),
    "cuGraphLaunch": (_HANDLE, _HANDLE),
    "cuGraphExecDestroy": (_HANDLE,),
    "cuGraphDestroy": (_HANDLE,),
    "cuEventCreate": (POINTER(_HANDLE), c_uint),
    "cuEventDestroy_v2": (_HANDLE,),
    "cuEventRecord": (_HANDLE, _HANDLE),
    "cuEventSynchronize": (_HANDLE,),
    "cuEventElapsedTime": (POINTER(c_float), _HANDLE, _HANDLE),
}
_NAMES = ("cuGetErrorName", "cuGetErrorString")


class CudaError(UnavailableError):
    """The driver refused a call; `code` is its CUresult and `name` that code's name in cuda.h."""

    def __init__(self, function: str, code: int, name: str, meaning: str) -> None:
        super().__init__(self.sentence(function, code, name, meaning))
        self.function, self.code, self.name = function, code, name

    def sentence(self, function: str, code: int, name: str, meaning: str) -> str:
        """One line for a user."""
        return f"{function} failed: {meaning} ({name}, {code})"


class OutOfMemory(CudaError):  # noqa: N818 (CUDA's own word)
    """The device, or the host for pinned memory, has no room for the size asked."""

    def sentence(self, function: str, code: int, name: str, meaning: str) -> str:
        """One line for a user."""
        return f"{function} failed: out of memory ({name}); end other processes on this device, or measure less"


class DeviceLost(CudaError):  # noqa: N818 (the field's word)
    """The context is broken and stays so: nothing works on this device until the process ends."""

    def sentence(self, function: str, code: int, name: str, meaning: str) -> str:
        """One line for a user."""
        because = STICKY.get(code, meaning)
        return (
            f"the device was lost: {function} reports {because} ({name}, {code}); look at `dmesg` for Xid, start again"
        )


class Driver:
    """The CUDA driver, initialised; `call` is every function of FUNCTIONS."""

    def __init__(self, path: str | None = None) -> None:
        """Loads libcuda.so.1 and initialises it; UnavailableError where there is no driver or no device."""
        path = path or libraries.DRIVER
        try:
            self._library = ctypes.CDLL(path)
        except OSError as missing:
            raise UnavailableError(f"no CUDA driver: {missing}; install NVIDIA's driver") from None
        self._functions: dict[str, Any] = {}
        self.call("cuInit", 0)
        version = c_int()
        self.call("cuDriverGetVersion", ctypes.byref(version))
        self.version: tuple[int, int] = (version.value // 1000, version.value % 1000 // 10)

    def call(self, function: str, *arguments: Any) -> None:
        """Calls `function`; raises OutOfMemory, DeviceLost or another CudaError where it does not succeed."""
        code = self._function(function)(*arguments)
        if code != SUCCESS:
            raise self.error(function, code)

    def error(self, function: str, code: int) -> CudaError:
        """The error that `code` is."""
        kind = OutOfMemory if code in OUT_OF_MEMORY else DeviceLost if code in STICKY else CudaError
        name, meaning = (self._says(words, code) for words in _NAMES)
        return kind(function, code, name, meaning)

    def address(self, name: str) -> int:
        """Where a function of the driver lies in this process; UnavailableError where this driver has none such."""
        try:
            found = getattr(self._library, name)
        except AttributeError:
            raise UnavailableError(f"this CUDA driver is too old: it has no {name}; upgrade it") from None
        return int(ctypes.cast(found, ctypes.c_void_p).value or 0)

    def _function(self, name: str) -> Any:
        found = self._functions.get(name)
        if found is None:
            prototype = CFUNCTYPE(c_int, *FUNCTIONS[name])  # releases the interpreter's lock while the driver works
            try:
                found = prototype((name, self._library))
            except AttributeError:
                raise UnavailableError(f"this CUDA driver is too old: it has no {name}; upgrade it") from None
            self._functions[name] = found
        return found

    def _says(self, words: str, code: int) -> str:
        text = c_char_p()
        getattr(self._library, words)(code, ctypes.byref(text))
        return text.value.decode() if text.value else f"CUDA error {code}"
