"""How do all cores run a loop at the same time? One pinned thread a CPU; they wait for one another inside the code.

Python threads start milliseconds apart; the loops therefore count themselves in at a gate (two words of memory) and
spin until all have come. The time of a window is from the last one in to the last one out.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType

import numpy as np

from probe.microbench.cpu.pinning import pin_thread

Task = Callable[[int], object]
_OPEN = 1 << 62  # an arrival count that lets every thread through


class Team:
    """One pinned thread for each of `cpus`; use as a context manager.

    `gate_address` is what a loop gets as its gate. A task is called with the thread's index.
    """

    def __init__(self, cpus: tuple[int, ...]) -> None:
        self._gate = np.zeros(16, np.uint64)  # arrived, expected; the rest keeps other data off the cache line
        self._inboxes: list[queue.SimpleQueue[Task | None]] = [queue.SimpleQueue() for _ in cpus]
        self._results: queue.SimpleQueue[tuple[float, float] | BaseException] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, args=(index, cpu), daemon=True) for index, cpu in enumerate(cpus)
        ]

    def __len__(self) -> int:
        return len(self._threads)

    def __enter__(self) -> Team:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gate[0] = _OPEN  # whoever still waits for a thread that was never started
        for inbox in self._inboxes:
            inbox.put(None)
        for thread in self._threads:
            thread.join()

    @property
    def gate_address(self) -> int:
        """Address of the gate; the loops of one `run` begin together there."""
        return int(self._gate.ctypes.data)

    def run(self, task: Task) -> float:
        """Run `task` on all threads and return the seconds from the last start to the last end.

        Raises what a thread raised.
        """
        self._gate[1] = len(self)
        self._gate[0] = 0
        for inbox in self._inboxes:
            inbox.put(task)
        results = [self._results.get() for _ in self._threads]
        spans = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            spans.append(result)
        return max(end for _, end in spans) - max(start for start, _ in spans)

    def _serve(self, index: int, cpu: int) -> None:
        pin_thread(cpu)
        while (task := self._inboxes[index].get()) is not None:
            try:
                start = time.perf_counter()
                task(index)
                self._results.put((start, time.perf_counter()))
            except BaseException as error:  # raised again in the thread that called `run`
                self._gate[0] = _OPEN  # the others must not wait for this one
                self._results.put(error)
