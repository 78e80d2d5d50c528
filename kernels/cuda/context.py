"""How do calls reach one device? Through its primary context, made current before each: torch uses the same one."""

from __future__ import annotations

import ctypes
from typing import Any

from probe.errors import UnavailableError
from probe.kernels.cuda.driver import CudaError, Driver

# CUdevice_attribute, cuda.h
SM_COUNT = 16
CLOCK_KHZ, MEMORY_CLOCK_KHZ = 13, 36
BUS_WIDTH_BITS, L2_BYTES = 37, 38
THREADS_PER_SM, SHARED_PER_SM, SHARED_PER_BLOCK = 39, 81, 97  # the last: what a kernel may opt in to
MAJOR, MINOR = 75, 76


class PrimaryContext:
    """The primary context of device `index`; every `call` makes it current in the calling thread first."""

    def __init__(self, driver: Driver, index: int) -> None:
        """Raises UnavailableError where there is no such device."""
        self.driver = driver
        self.device = self._device(index)
        self._handle = ctypes.c_void_p()
        driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._handle), self.device)
        self._open = True

    def call(self, function: str, *arguments: Any) -> None:
        """Calls the driver on this device; raises CudaError."""
        self.driver.call("cuCtxSetCurrent", self._handle)
        self.driver.call(function, *arguments)

    def attribute(self, number: int) -> int:
        """A CUdevice_attribute; 0 where this driver does not know it."""
        value = ctypes.c_int()
        try:
            self.driver.call("cuDeviceGetAttribute", ctypes.byref(value), number, self.device)
        except CudaError:
            return 0
        return value.value

    def name(self) -> str:
        """The device's name as NVIDIA writes it."""
        buffer = ctypes.create_string_buffer(256)
        self.driver.call("cuDeviceGetName", buffer, len(buffer), self.device)
        return buffer.value.decode(errors="replace")

    def memory_bytes(self) -> int:
        """All memory of the device."""
        size = ctypes.c_size_t()
        self.driver.call("cuDeviceTotalMem_v2", ctypes.byref(size), self.device)
        return size.value

    def close(self) -> None:
        """Gives the context back; it lives on while torch or others hold it."""
        if self._open:
            self._open = False
            self.driver.call("cuDevicePrimaryCtxRelease_v2", self.device)

    def _device(self, index: int) -> int:
        count, device = ctypes.c_int(), ctypes.c_int()
        self.driver.call("cuDeviceGetCount", ctypes.byref(count))
        if not 0 <= index < count.value:
            there = f"there are {count.value}, numbered from cuda:0" if count.value else "there is none"
            raise UnavailableError(f"no CUDA device cuda:{index} ({there}); see nvidia-smi and CUDA_VISIBLE_DEVICES")
        self.driver.call("cuDeviceGet", ctypes.byref(device), index)
        return device.value
