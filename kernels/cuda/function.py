"""How is a loaded kernel launched, and how many of its blocks fit an SM?"""

from __future__ import annotations

import ctypes

import numpy as np

from probe.kernels.cuda.context import SHARED_PER_SM, PrimaryContext
from probe.kernels.cuda.memory import HostMemory, Memory
from probe.kernels.cuda.queues import Stream

Size = int | tuple[int, ...]  # x, or (x, y), or (x, y, z)
Argument = Memory | HostMemory | np.generic
# CUfunction_attribute, cuda.h
_SHARED, _LOCAL, _REGISTERS, _MOST_DYNAMIC_SHARED, _CARVEOUT = 1, 3, 4, 8, 9
_RESERVED = 1024  # bytes of shared memory that the system takes of each block since compute capability 8.0


class Function:
    """A kernel on the device; `proof` says what its machine code was found to hold."""

    def __init__(
        self,
        context: PrimaryContext,
        stream: Stream,
        module: ctypes.c_void_p,
        name: str,
        proof: dict[str, object],
        parameters: tuple[int, ...],
    ) -> None:
        """`parameters`: how many bytes each parameter has, which every launch is checked against."""
        self._context, self._stream, self._parameters = context, stream, parameters
        self.handle = ctypes.c_void_p()
        context.call("cuModuleGetFunction", ctypes.byref(self.handle), module, name.encode())
        self.name, self.proof = name, proof
        self.registers = self._attribute(_REGISTERS)  # of a thread
        self.local_bytes = self._attribute(_LOCAL)  # of a thread
        self.shared_bytes = self._attribute(_SHARED)  # of a block, static

    def launch(self, grid: Size, block: Size, *args: Argument, shared: int = 0, stream: Stream | None = None) -> None:
        """Enqueues one launch with `shared` bytes of dynamic shared memory; does not wait.

        Arguments are memory (its address) and numpy scalars of the parameter's type; a Python number has no size of its
        own and raises TypeError.
        """
        values = [_packed(argument) for argument in args]
        sizes = tuple(map(len, values))
        if sizes != self._parameters:
            raise TypeError(f"{self.name} has parameters of {self._parameters} bytes, not {sizes}")
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        queue = (stream or self._stream).handle
        self._context.call("cuLaunchKernel", self.handle, *_three(grid), *_three(block), shared, queue, pointers, None)

    def blocks_per_sm(self, threads: int, shared: int = 0) -> int:
        """How many blocks of `threads` with `shared` bytes of dynamic shared memory an SM holds at once."""
        count = ctypes.c_int()
        call = "cuOccupancyMaxActiveBlocksPerMultiprocessor"
        self._context.call(call, ctypes.byref(count), self.handle, threads, shared)
        return count.value

    def allow_shared(self, n_bytes: int, carveout: int | None = None) -> None:
        """Allows `n_bytes` of dynamic shared memory a block, and asks the SM to set aside that much of its L1.

        `carveout` is the per cent of the SM's shared memory to set aside instead: 100 for as many blocks as fit. With
        allow_shared(0) a kernel without shared memory gets the largest L1.
        """
        if carveout is None:
            wanted = n_bytes + self.shared_bytes
            per_sm = self._context.attribute(SHARED_PER_SM) or 1
            carveout = min(100, -(-100 * (wanted + _RESERVED) // per_sm)) if wanted else 0
        self._context.call("cuFuncSetAttribute", self.handle, _MOST_DYNAMIC_SHARED, n_bytes)
        self._context.call("cuFuncSetAttribute", self.handle, _CARVEOUT, carveout)

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._context.call("cuFuncGetAttribute", ctypes.byref(value), number, self.handle)
        return value.value


def _packed(argument: Argument) -> ctypes.Array[ctypes.c_char]:
    """The argument's bytes as the kernel's parameter holds them."""
    if isinstance(argument, Memory | HostMemory):
        argument = np.uint64(argument.address)
    if not isinstance(argument, np.generic):
        raise TypeError(f"{argument!r} is {type(argument).__name__}: pass memory or a numpy scalar such as np.int32(1)")
    data = argument.tobytes()
    return ctypes.create_string_buffer(data, len(data))


def _three(size: Size) -> tuple[int, int, int]:
    """x, y and z of a grid or block."""
    given = (size,) if isinstance(size, int) else size
    x, y, z = (*given, 1, 1, 1)[:3]
    return x, y, z
