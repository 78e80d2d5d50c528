"""How are torch's operators timed on a GPU, what do they allocate, and does the GPU still answer?"""

from __future__ import annotations

from typing import Any

from probe.errors import UnavailableError
from probe.microbench.attention_work import BOTH, Call, Point
from probe.microbench.timers import CudaTimer, EnqueueTimer


class TorchSide:
    """One device as torch sees it; its current stream is the one that is timed."""

    def __init__(self, index: int) -> None:
        """`index` is that of torch's `cuda:<index>`."""
        import torch

        self.where = f"cuda:{index}"
        self._torch: Any = torch
        self._timer, self._enqueuing = CudaTimer(index), EnqueueTimer(index)

    def window(self, call: Call, calls: int) -> float:
        """Seconds between an event before and one after."""
        return self._timer.window(call, calls)

    def enqueuing_s(self, call: Call, calls: int) -> float:
        """Seconds that the host is busy with as many calls."""
        return self._enqueuing.window(call, calls)

    def peak_bytes(self, call: Call) -> tuple[tuple[Any, ...], int]:
        """What a call returns, and the most it had allocated at once, its results included."""
        cuda = self._torch.cuda
        cuda.synchronize(self.where)
        cuda.reset_peak_memory_stats(self.where)
        before = cuda.memory_allocated(self.where)
        result = call()
        cuda.synchronize(self.where)
        return result, cuda.max_memory_allocated(self.where) - before

    def release(self) -> None:
        """Hand memory that torch keeps for later back to the driver, where what is free is asked."""
        self._torch.cuda.empty_cache()

    def check(self, what: str) -> None:
        """Raises UnavailableError where an error has left the device unusable."""
        try:
            self._torch.cuda.synchronize(self.where)
        except RuntimeError as lost:
            said = str(lost).splitlines()[0]
            raise UnavailableError(f"{what}: the GPU answers no more ({said}); start again in a new process") from None

    def triton_proof(self, point: Point) -> dict[str, Any] | None:
        """What is in the machine code of our own attention for such a point; None where it cannot be read."""
        from probe.kernels.triton.attention_proof import proof

        return proof(point.head_dim, point.dtype, self.where, backward=point.direction == BOTH)
