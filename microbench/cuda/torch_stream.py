"""How do torch and what builds on it work on the arrays and the stream of a Gpu, so that one clock times all alike?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from probe.errors import UnavailableError
from probe.kernels.cuda.gpu import Gpu
from probe.microbench.compiled_code import first_line


@dataclass(frozen=True)
class _Array:
    """Device memory as torch takes it over without a copy: CUDA Array Interface, version 3."""

    address: int
    elements: int

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": (self.elements,),
            "typestr": "<f4",
            "data": (self.address, False),
            "version": 3,
            "strides": None,
            "stream": None,
        }


class TorchStream:
    """torch on the Gpu's own stream."""

    def __init__(self, gpu: Gpu, index: int) -> None:
        """`index` is the device's number for torch. Raises UnavailableError where torch cannot use it."""
        import torch

        if not torch.cuda.is_available():
            raise UnavailableError("this torch cannot use the GPU; install one built for CUDA")
        self._torch: Any = torch
        self._device = torch.device("cuda", index)
        self._stream = self._torch.cuda.ExternalStream(gpu.own_stream.handle.value or 0, device=self._device)

    def tensor(self, address: int, elements: int) -> Any:
        """The float32 values at `address` as a tensor that shares their memory."""
        found = self._torch.as_tensor(_Array(address, elements), device=self._device)
        if found.data_ptr() != address:
            raise UnavailableError("torch copied the array instead of sharing its memory")
        return found

    def enqueuing(self, call: Callable[[], object]) -> Callable[[], None]:
        """`call` on the Gpu's stream; whatever it raises comes out as UnavailableError, to cost one variant."""

        def enqueue() -> None:
            try:
                with self._torch.cuda.device(self._device), self._torch.cuda.stream(self._stream):
                    call()
            except UnavailableError:
                raise
            except Exception as failed:  # compilers and libraries raise whatever they like
                raise UnavailableError(f"{type(failed).__name__}: {first_line(failed)}") from failed

        return enqueue
