"""Which tensors does a step read and write? Recorded by torch's ExecutionTraceObserver, in a step that is not timed.

The observer writes every call as text while the program runs: 50 to 100 µs an operator (torch 2.13, one core of a Zen 3
VM), several times what a small operator takes. So it records one step of its own, before those whose times count.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from probe.files import atomic_path

EVENT_S = 1e-4  # what the observer adds to each recorded call
MOST_S = 0.5  # a step that it would lengthen by more is not recorded
_LAYOUTS = re.compile(r"aten::(c?c(row|ol)_indices|_nested_|_?to_padded_tensor)")  # who has them calls these
_CHATTER = (b"execution_trace_observer.cpp", b"record_function.cpp")  # in what torch logs at each start and stop


def affordable(events: float) -> bool:
    """Whether a step of that many events may be recorded."""
    return events * EVENT_S <= MOST_S


def bearable(names: Iterable[str]) -> bool:
    """Whether torch's observer bears the tensors of a step with these operators.

    It reads memory that is not its own where a sparse tensor is compressed (CSR, CSC, BSR, BSC: the process crashes,
    often long after), and logs a stack for each call with a nested one.
    """
    return not any(_LAYOUTS.match(name) for name in names)


class TensorRecording:
    """One step's tensors: start, stop, and keep or forget; each at most once."""

    def __init__(self, folder: Path) -> None:
        self._plain = folder / f".tensors.{os.getpid()}.json"  # as torch writes it
        self._observer: Any = None

    def start(self) -> bool:
        """Begin; False where it cannot be: the program's own observer is in use (one a process), the disk is full.

        An observer that cannot open its file leaves torch's list of callbacks broken: the file is made first.
        """
        try:
            self._plain.write_bytes(b"")
        except OSError:
            return False
        observer = importlib.import_module("torch.profiler").ExecutionTraceObserver()
        with _quiet():
            observer.register_callback(str(self._plain))
            if observer.is_registered:
                observer.start()
                self._observer = observer
        if self._observer is None:
            self.forget()
        return self._observer is not None

    def stop(self) -> None:
        """End; what was recorded is on disk."""
        observer, self._observer = self._observer, None
        if observer is not None:
            with _quiet():
                observer.unregister_callback()

    def keep(self, path: Path) -> bool:
        """Compress what was recorded to `path`, whole or not at all; whether that was possible."""
        try:
            with (
                self._plain.open("rb") as source,
                atomic_path(path) as part,
                gzip.open(part, "wb", compresslevel=1) as target,
            ):
                shutil.copyfileobj(source, target, 1 << 20)
        except OSError:  # a full disk, a directory that was removed: the trace is tried next, and tells
            return False
        finally:
            self.forget()
        return True

    def forget(self) -> None:
        """Stop, and leave nothing behind."""
        self.stop()
        with contextlib.suppress(OSError):
            self._plain.unlink(missing_ok=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's two lines off standard error; whatever else is written meanwhile arrives afterwards."""
    with tempfile.TemporaryFile() as aside:
        try:
            kept = os.dup(2)
        except OSError:  # there is no standard error
            yield
            return
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(aside.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            aside.seek(0)
            for line in aside:
                if not any(source in line for source in _CHATTER):
                    os.write(2, line)
