"""Whose clock times a window of operators? The host's for a CPU, CUDA events for a GPU; tests inject their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from probe.microbench.suite import Context

MOST_QUEUED = 256  # calls that are enqueued without waiting: a quarter of what a stream takes before the host must


class Timer(Protocol):
    """Something that times calls in a row."""

    def window(self, call: Callable[[], object], calls: int) -> float:
        """Seconds that `calls` calls of `call` take on the device."""


class HostTimer:
    """Times calls that are done when they return."""

    def window(self, call: Callable[[], object], calls: int) -> float:
        """Seconds by the host's clock."""
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return time.perf_counter() - start


class CudaTimer:
    """Times calls that enqueue work on the current stream of a CUDA device, by events before and after."""

    def __init__(self, index: int) -> None:
        import torch

        self._cuda: Any = torch.cuda
        self._index = index

    def window(self, call: Callable[[], object], calls: int) -> float:
        """Seconds between the two events (resolution about half a microsecond).

        Where the host enqueues more slowly than the device works, that is the host's pace.
        """
        with self._cuda.device(self._index):
            start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(calls):
                call()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) * 1e-3


class EnqueueTimer:
    """Times how long the host is busy enqueuing calls on a CUDA device; the device works them off afterwards."""

    def __init__(self, index: int) -> None:
        import torch

        self._cuda: Any = torch.cuda
        self._index = index

    def window(self, call: Callable[[], object], calls: int) -> float:
        """Seconds by the host's clock, with a queue that is empty before and never becomes full."""
        seconds, left = 0.0, calls
        with self._cuda.device(self._index):
            while left > 0:
                now, left = min(left, MOST_QUEUED), left - MOST_QUEUED
                self._cuda.synchronize()
                start = time.perf_counter()
                for _ in range(now):
                    call()
                seconds += time.perf_counter() - start
            self._cuda.synchronize()
        return seconds


def timer_for(context: Context) -> Timer:
    """The timer of the context's device."""
    return HostTimer() if context.index is None else CudaTimer(context.index)


def torch_device(context: Context) -> str:
    """The context's device as torch names it."""
    return "cpu" if context.index is None else f"cuda:{context.index}"
