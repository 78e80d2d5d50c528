"""How are ranks started on this machine, and how do they end? Plain interpreters on pipes, bounded and never orphaned.

Each is in a process group of its own, so that Ctrl-C reaches only the parent, which ends them. They also end when
their input does, whatever becomes of the parent. A rank that dies ends the others; silence of all ends them too.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from probe.errors import UnavailableError
from probe.microbench.collectives.sweep import At, Done, Failed, Message
from probe.units import format_bytes

PROGRAM = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer);"
    "from probe.microbench.collectives.ranks import serve; serve()"
)
BLAME_S = 1.0  # after the first sign of a failure: which rank was ended from outside, and is its cause?
SIGKILL = 9


@dataclass(frozen=True)
class Bounds:
    """How long all ranks may be silent before they are ended: while they import torch and meet, and afterwards.

    Longer than a collective's own timeout, whose error says more.
    """

    start_s: float = 120.0
    silence_s: float = 90.0


class RankFailed(UnavailableError):  # noqa: N818 (what happened, and the remedy is in its text)
    """A rank died, failed or was silent for too long."""


class RankProcesses:
    """The ranks, each an interpreter that runs `program`; use as a context manager, which ends them all."""

    def __init__(self, environment: Mapping[str, str], bounds: Bounds | None = None, program: str = PROGRAM) -> None:
        self._environment = {**os.environ, **environment}
        self._bounds = bounds or Bounds()
        self._program = program
        self._directory = tempfile.TemporaryDirectory(prefix="probe-ranks-", ignore_cleanup_errors=True)
        self._ranks: list[subprocess.Popen[bytes]] = []
        self._readers: list[threading.Thread] = []
        self._inbox: queue.SimpleQueue[tuple[int, Message | None]] = queue.SimpleQueue()
        self._at: At | None = None

    def __enter__(self) -> RankProcesses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._ranks:
            process.kill()
        for process in self._ranks:
            with contextlib.suppress(OSError):  # it is gone, and what was not yet sent cannot be flushed
                _pipe(process.stdin).close()
            process.wait()
        for reader in self._readers:
            reader.join()
        for process in self._ranks:
            _pipe(process.stdout).close()
        self._directory.cleanup()

    @property
    def meeting(self) -> str:
        """A path in a private directory where the ranks find one another; gone with them."""
        return str(Path(self._directory.name) / "store")

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids, by rank."""
        return tuple(process.pid for process in self._ranks)

    def start(self, assignments: Sequence[Any]) -> None:
        """Start a rank for each assignment."""
        for rank, assignment in enumerate(assignments):
            process = self._started(rank)
            self._ranks.append(process)
            reader = threading.Thread(target=self._read, args=(rank, process), daemon=True)
            reader.start()
            self._readers.append(reader)
            with contextlib.suppress(OSError):  # it has died already, which its reader tells
                pickle.dump(sys.path, _pipe(process.stdin))
                pickle.dump(assignment, _pipe(process.stdin))
                _pipe(process.stdin).flush()

    def messages(self) -> Iterator[Message]:
        """What rank 0 says until it is done; raises RankFailed where any rank fails or all are silent."""
        bound_s = self._bounds.start_s
        while True:
            try:
                rank, message = self._inbox.get(timeout=bound_s)
            except queue.Empty:
                raise RankFailed(
                    f"the ranks were silent for {bound_s:.0f} s {self._where()} and were ended; "
                    "run it again with TORCH_DISTRIBUTED_DEBUG=DETAIL (NCCL_DEBUG=INFO on GPUs) to see what they await"
                ) from None
            if message is None or isinstance(message, Failed):
                raise RankFailed(self._blame(rank, message))
            if rank:
                continue
            if isinstance(message, Done):
                return
            if isinstance(message, At):
                self._at, bound_s = message, self._bounds.silence_s
            yield message

    def _started(self, rank: int) -> subprocess.Popen[bytes]:
        group: dict[str, Any] = (
            {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
            if sys.platform == "win32"
            else {"process_group": 0}
        )
        with self._said(rank).open("wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-P", "-c", self._program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self._environment,
                **group,
            )

    def _read(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(OSError, EOFError, pickle.UnpicklingError, ValueError):
            while True:
                message = pickle.load(_pipe(process.stdout))
                self._inbox.put((rank, message))
                if isinstance(message, Done):
                    return
        self._inbox.put((rank, None))

    def _said(self, rank: int) -> Path:
        """What a rank printed."""
        return Path(self._directory.name) / f"rank-{rank}.txt"

    def _where(self) -> str:
        return "while starting" if self._at is None else f"at {format_bytes(self._at.size_bytes)}"

    def _blame(self, rank: int, message: Failed | None) -> str:
        """The failure that explains the others: an end from outside, else the first that was told."""
        killed = _within(BLAME_S, self._killed)
        if killed is not None:
            victim, signal_number = killed
            cause = "as when memory runs out: " if signal_number == SIGKILL else "see the system's log: "
            return (
                f"rank {victim} was ended by signal {signal_number} {self._where()}, {cause}"
                "run it again with less else on the machine"
            )
        if message is not None:
            return f"rank {rank} failed {self._where()}: {message.text}; see `probe doctor` for torch and the network"
        code = self._ranks[rank].poll()
        last = (self._said(rank).read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        return f"rank {rank} ended with exit code {code} {self._where()}: {last}; see `probe doctor` for torch"

    def _killed(self) -> tuple[int, int] | None:
        """The first rank that a signal ended, and which signal."""
        for rank, process in enumerate(self._ranks):
            code = process.poll()
            if code is not None and code < 0:
                return rank, -code
        return None


def _within(seconds: float, look: Callable[[], tuple[int, int] | None]) -> tuple[int, int] | None:
    """What `look` finds, looked for repeatedly until `seconds` have passed."""
    deadline = time.monotonic() + seconds
    while (found := look()) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def _pipe(stream: Any) -> Any:
    """A pipe that Popen was asked for."""
    assert stream is not None
    return stream
