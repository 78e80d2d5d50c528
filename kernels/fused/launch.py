"""How is a fused kernel started? On the GPU of its tensors, in Triton's interpreter, or compiled and not started.

The last is for machines without a GPU: inside `only_compiled(90)` the functions of this folder take tensors of the
CPU, and what Triton compiles for compute capability 9.0 for exactly these calls is kept; their results are garbage.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

THREADS_PER_WARP = 32
SOME_MULTIPROCESSORS = 132  # of the device that is compiled for
INTERPRETED_PROGRAMS = 3


# As Triton reads it, when a kernel is defined.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


@dataclass(frozen=True)
class Launched:
    """What one launch would have started."""

    kernel: str
    compiled: Any  # of Triton: .asm["cubin"], .metadata


class _Absent:
    """A GPU that Triton compiles for and cannot launch on, numbered by its architecture."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_device(self) -> int:
        return self.architecture

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.architecture, THREADS_PER_WARP)


_compiled: list[Launched] | None = None


@contextmanager
def only_compiled(architecture: int) -> Iterator[list[Launched]]:
    """Launches inside compile for compute capability architecture / 10 and start nothing; one thread at a time."""
    import triton

    global _compiled
    driver: Any = triton.runtime.driver
    before = dict(vars(driver))
    driver.set_active(_Absent(architecture))
    _compiled = []
    try:
        yield _compiled
    finally:
        _compiled = None
        vars(driver).update(before)


def without_gpu() -> bool:
    """Whether tensors of the CPU are taken: Triton interprets, or only compiles."""
    return INTERPRETED or _compiled is not None


def multiprocessors(tensor: torch.Tensor) -> int:
    """Of the tensor's GPU; what partial sums are shared among."""
    if tensor.is_cuda:
        return int(torch.cuda.get_device_properties(tensor.device).multi_processor_count)
    return INTERPRETED_PROGRAMS if INTERPRETED else SOME_MULTIPROCESSORS


def launch(kernel: Any, programs: int, like: torch.Tensor, *arguments: Any, **constants: Any) -> None:
    """Start `programs` programs of `kernel` on the device of `like`; none if there are none."""
    if not programs:
        return
    from probe.kernels.triton.launching import FUSED, on_device_of  # Triton is not needed for what torch does alone

    if _compiled is not None:
        made = kernel.warmup(*arguments, grid=(programs,), **constants, **FUSED)
        _compiled.append(Launched(kernel.__name__, made))
        return
    with on_device_of(like, kernel):
        kernel[(programs,)](*arguments, **constants, **FUSED)
