"""Interpreters of this machine behind an Executor: one task at a time each, killed at once where need be.

They are plain interpreters on pipes, not multiprocessing's: those import the user's script again, which may train, or
import torch. A worker that dies takes one task with it, and we know which; the others go on.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn

from probe.errors import UnavailableError

# Many workers with a thread each beat few with many: numpy's libraries would start a thread per core in every worker.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"),
    "1",
)
_WORKER = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from probe.executors.processes import serve; serve()"
)


class WorkerDied(UnavailableError):  # noqa: N818 (what happened, and the remedy is in its text)
    """The process that ran a task ended before the task did."""


class Processes(Executor):
    """Interpreters of this machine; each is started when first needed, and replaced when it dies."""

    def __init__(self, count: int) -> None:
        self._threads = ThreadPoolExecutor(count, "probe-worker")  # each waits for one worker of its own
        self._own = threading.local()
        self._lock = threading.Lock()
        self._alive: set[_Worker] = set()
        self._ended = False

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future of `function`, which workers must be able to import by its name."""
        return self._threads.submit(self._run, (function, args, kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers, after their tasks; with `cancel_futures` at once."""
        self._threads.shutdown(wait=wait and not cancel_futures, cancel_futures=cancel_futures)
        with self._lock:
            self._ended = True
            for worker in self._alive:
                worker.end(at_once=cancel_futures)
            self._alive.clear()
        self._threads.shutdown(wait=wait)

    def _run(self, task: Any) -> Any:
        worker: _Worker | None = getattr(self._own, "worker", None)
        if worker is None:
            worker = self._own.worker = self._started()
        try:
            return worker.call(task)
        except WorkerDied:
            self._own.worker = None
            with self._lock:
                self._alive.discard(worker)
            raise

    def _started(self) -> _Worker:
        with self._lock:
            if self._ended:
                raise WorkerDied("interrupted")
            worker = _Worker()
            self._alive.add(worker)
        return worker


class _Worker:
    """A process that runs the tasks sent to it, one after the other, and ends when its input does."""

    def __init__(self) -> None:
        # A process group of its own: Ctrl-C at the terminal is for this process, which then ends its workers.
        group: dict[str, Any] = (
            {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
            if sys.platform == "win32"
            else {"process_group": 0}
        )
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ONE_THREAD},
            **group,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self._greeting: Any = sys.path

    def call(self, task: Any) -> Any:
        """The result of a task, or the error it raised; WorkerDied where the process ends in it."""
        sent = pickle.dumps(task)
        try:
            if self._greeting is not None:
                pickle.dump(self._greeting, self._input)
                self._greeting = None
            pickle.dump(sent, self._input)
            self._input.flush()
            answer = pickle.load(self._output)
        except (OSError, EOFError, pickle.UnpicklingError, ValueError):  # ValueError: ended by another thread
            raise self._died() from None
        error, value = pickle.loads(answer)
        if error is not None:
            raise error
        return value

    def end(self, at_once: bool) -> None:
        """Let the process go; it ends by itself when its input is closed, even in the middle of a task."""
        if at_once:
            self._process.kill()
        with contextlib.suppress(OSError):  # it is gone already
            self._input.close()
        self._process.wait()
        self._output.close()

    def _died(self) -> WorkerDied:
        self.end(at_once=True)
        code = self._process.returncode
        why = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        likely = ", as when memory runs out: run fewer jobs at once or take a machine with more" if code == -9 else ""
        return WorkerDied(f"the process that read it was ended {why}{likely}")


def serve() -> NoReturn:
    """What a worker does: answer tasks until the other end closes. Only frames go to the pipe, prints go to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    tasks: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_receive, args=(tasks,), daemon=True).start()
    while True:
        pickle.dump(_answer(tasks.get()), answers)
        answers.flush()


def _receive(tasks: SimpleQueue[bytes]) -> None:
    """Pass tasks on; when the parent closes the pipe or is gone, end at once, whatever runs."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            tasks.put(pickle.load(sys.stdin.buffer))
    os._exit(0)


def _answer(task: bytes) -> bytes:
    """Pickled (error, value) of a task."""
    try:
        function, args, kwargs = pickle.loads(task)
        return pickle.dumps((None, function(*args, **kwargs)))
    except Exception as error:
        return _pickled_error(error)


def _pickled_error(error: Exception) -> bytes:
    """The error, or its text where it cannot travel, with where it was raised: a traceback stays behind."""
    try:
        error.where = raised_at(error)  # type: ignore[attr-defined]  # kept by pickle, unlike the traceback
        told = pickle.dumps((error, None))
        pickle.loads(told)
    except Exception:  # an error whose class cannot be made again from its arguments
        return pickle.dumps((RuntimeError(f"{type(error).__name__}: {error} in {raised_at(error)}"), None))
    return told


def raised_at(error: BaseException) -> str:
    """File and line that raised the error."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    return f"{Path(last[0].filename).name}:{last[0].lineno}" if last else "an unknown place"
