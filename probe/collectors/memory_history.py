"""What did CUDA's allocator hold, and who asked for it? torch's own history and snapshot, for PyTorch's viewer.

torch.cuda.memory._snapshot() pickled is what https://pytorch.org/memory_viz opens. A history that the program records
itself is left as it is, and used.
"""

from __future__ import annotations

import pickle
import sys
import time
from pathlib import Path
from typing import Any

from probe.files import write_atomically

MOST_ENTRIES = 100_000  # allocations and frees that torch remembers, the newest; some 100 bytes each, and their stacks


class MemoryHistory:
    """The allocator's history over the recorded steps of one cycle. Methods may raise: the session guards them."""

    def __init__(self) -> None:
        self.reason: str | None = None  # why there is none
        self.pause_s = 0.0
        self._ours = False
        self._recording = False

    def start(self) -> None:
        """Begin to remember; nothing where there is no CUDA."""
        memory = _memory()
        if memory is None:
            self.reason = "no CUDA device is used; allocations are in the trace"
            return
        enabled = getattr(sys.modules["torch"]._C, "_cuda_isHistoryEnabled", None)
        self._ours = not (enabled is not None and enabled())
        if self._ours:
            memory._record_memory_history(max_entries=MOST_ENTRIES, stacks="python")
        self._recording = True

    def write(self, path: Path) -> bool:
        """Write the snapshot and forget the history. Whether there is one. Raises OSError."""
        memory = _memory()
        if not self._recording or memory is None:
            return False
        begin = time.perf_counter()
        try:
            write_atomically(path, pickle.dumps(memory._snapshot()))
        finally:
            self.stop()
            self.pause_s = time.perf_counter() - begin
        return True

    def stop(self) -> None:
        """Remember no more."""
        memory, ours = _memory(), self._ours
        self._recording = self._ours = False
        if memory is not None and ours:
            memory._record_memory_history(enabled=None)


def _memory() -> Any:
    """torch.cuda.memory where CUDA is in use; else None."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return torch.cuda.memory
