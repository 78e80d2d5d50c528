"""How are the two versions started, asked for steps, and ended? Two processes a session, each with an end in sight."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from probe.errors import InputError, UnavailableError
from probe.gate.protocol import SERVED, Ask, Pipe, Ran, Ready, Task

START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from probe.gate.worker import main; "
START += "sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))"
START_S = 600.0  # until the first step has ended: imports, data, compilation
SHORTEST_S = 60.0  # to wait for steps that took no time before
TIMES = 50.0  # as long as they took before
TOLD = 400  # characters of what the program said last


class EndedError(InputError):
    """The program ended, or hangs; `steps` had been made since it was ready."""

    def __init__(self, message: str, steps: int, exit_code: int | None) -> None:
        super().__init__(message)
        self.steps = steps
        self.program_exit_code = exit_code


class Worker:
    """One version's process."""

    def __init__(self, name: str, task: Task, cwd: Path, python: str, environment: dict[str, str]) -> None:
        self.name = name
        self.steps = 0
        self.losses: list[float | None] = []  # of every step so far, where the task asks for them
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed in end)
        ours_read, theirs_write = os.pipe()
        theirs_read, ours_write = os.pipe()
        tool = str(Path(__file__).parents[2])
        try:
            self._process = subprocess.Popen(
                [python, "-P", "-c", START, tool, task.to_json(), str(theirs_read), str(theirs_write)],
                cwd=cwd, stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT,
                pass_fds=(theirs_read, theirs_write), process_group=0, env=environment,
            )  # fmt: skip
        except OSError as error:
            os.close(ours_read)
            os.close(ours_write)
            self._output.close()
            raise UnavailableError(f"{python}: cannot be started: {error.strerror}") from None
        finally:
            os.close(theirs_read)
            os.close(theirs_write)
        self._ends = (ours_read, ours_write)
        self._pipe = Pipe(ours_read, ours_write)

    def ready(self) -> Ready:
        """Wait for the first step."""
        try:
            found = self._receive(START_S)
        except EndedError as ended:
            if ended.program_exit_code != 0:
                raise
            remedy = "name the function whose call is a step: --step-on"
            raise EndedError(f"{ended}; no step of it was seen; {remedy}", 0, 0) from None
        assert isinstance(found, Ready)
        return found

    def run(self, ask: Ask, expected_s: float = 0.0, least_s: float = SHORTEST_S) -> Ran:
        """Make steps. Raises EndedError where the program ends, or takes longer than least_s and 50 times expected."""
        try:
            self._pipe.send(ask)
        except BrokenPipeError:
            raise self._ended() from None
        found = self._receive(max(least_s, TIMES * expected_s))
        assert isinstance(found, Ran)
        self.steps += ask.steps
        self.losses += found.losses
        return found

    def _receive(self, seconds: float) -> Any:
        deadline = time.monotonic() + seconds
        while not self._pipe.has_line:
            left = deadline - time.monotonic()
            if left <= 0:
                raise EndedError(
                    f"{self.name}: no step ended in {seconds:.0f} s{self._said()}; the program hangs, or a step is "
                    "something else: name it with --step-on", self.steps, None,
                )  # fmt: skip
            if select.select([self._pipe.waits_on], [], [], left)[0]:
                found = self._pipe.receive()
                if found is None:
                    raise self._ended()
                return found
        return self._pipe.receive()

    def _ended(self) -> EndedError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.returncode
        killed = code is not None and code < 0
        how = (
            "ended" if code == 0 else f"was ended by signal {-(code or 0)}" if killed else f"failed (exit code {code})"
        )
        return EndedError(f"{self.name}: the program {how}{self._said()}", self.steps, code)

    def _said(self) -> str:
        """The last lines of its output."""
        self._output.seek(0)
        text = " ".join(self._output.read().decode(errors="replace").split())
        return f", its last words: …{text[-TOLD:]}" if len(text) > TOLD else f", its words: {text}" if text else ""

    def pin(self, cores: list[int]) -> None:
        """Keep its threads on these cores."""
        for thread in Path(f"/proc/{self._process.pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), cores)

    def end(self) -> None:
        """Kill it with its children; nothing of the program matters any more."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for descriptor in self._ends:
            os.close(descriptor)
        self._output.close()


# Name, task, working directory, interpreter, and what its environment has besides ours.
Start = tuple[str, Task, Path, str, dict[str, str]]


@contextlib.contextmanager
def workers(*starts: Start) -> Iterator[list[Worker]]:
    """Processes of as many versions; ended in any case."""
    made: list[Worker] = []
    try:
        for (name, task, cwd, python, own), (_, other, *_) in zip(starts, reversed(starts), strict=True):
            other_root = other.root if other.root != task.root else None
            environment = {**os.environ, "PYTHONPATH": _python_path(task), "PYTHONDONTWRITEBYTECODE": "1", **own}
            if task.served:
                environment[SERVED] = "1"
            made.append(Worker(name, replace(task, other_root=other_root), cwd, python, environment))
        yield made
    finally:
        for worker in made:
            worker.end()


def _python_path(task: Task) -> str:
    """The version's files before what the user's own path holds."""
    own = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(entry for entry in (task.root, own) if entry)
