"""Can torch.compile make machine code here, and where does it leave its files?

Inductor needs a C++ compiler, several seconds for its first function, and a directory for what it made. The directory
is this process's own and is removed at its end, not earlier: inductor remembers paths in it. Compiling is bounded by a
timer signal, because nothing else can end a compiler that is waited for.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from probe.errors import UnavailableError
from probe.microbench.suite import Context

LONGEST_S = 20.0  # for one function; the first took 6 s on two cores, later ones 1 s
AGAIN_S = 5.0  # until the signal is repeated: the first may come where Python cannot raise (in a destructor)
WORTH_S = 2.0  # a suite that measures for less does not wait for a compiler
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
OPTIONS = {
    "compile_threads": 1,  # compile here, where the deadline reaches it, not in workers that outlive it
    "cpp_cache_precompile_headers": False,  # those lie in a directory of their own, whatever the variable says
}

_refusals: list[str] = []  # why the first function could not be compiled: the next would wait as long and fail alike


class _TooLong(BaseException):
    """The time is over; no Exception, so that nobody on the way takes it for a failure of his own and goes on."""


def worth_compiling(context: Context) -> bool:
    """Whether a suite with this context should compile: on a CPU, in a full run."""
    return context.index is None and not context.quick and context.budget_s >= WORTH_S


def compiled(function: Callable[..., Any], *arguments: Any, longest_s: float = LONGEST_S) -> Callable[..., Any]:
    """`function` compiled for arguments like `arguments`, with which it is called once.

    Raises UnavailableError with the reason where that fails or takes longer than `longest_s` seconds.
    """
    if _refusals:
        raise UnavailableError(_refusals[0])
    try:
        return _compiled(function, arguments, longest_s)
    except _TooLong:
        reason = f"torch.compile took longer than {longest_s:g} s; try again when the machine is less busy"
    except (RuntimeError, OSError, ImportError) as failed:
        reason = (
            f"torch.compile failed: {first_line(failed)}; it needs a C++ compiler (g++ or clang++, or name it in CXX)"
        )
    _refusals.append(reason)
    raise UnavailableError(reason)


def _compiled(function: Callable[..., Any], arguments: tuple[Any, ...], longest_s: float) -> Callable[..., Any]:
    import torch

    with cache_directory(_directory()):
        import torch._inductor.compile_fx  # before the deadline: an interrupted import leaves half a module

        call = torch.compile(function, fullgraph=True, dynamic=False, options=_options())
        with deadline(longest_s):
            call(*arguments)
    return call


def _options() -> dict[str, Any]:
    """Settings of inductor, those of `OPTIONS` that this torch has."""
    import torch._inductor.config as known

    return {name: value for name, value in OPTIONS.items() if hasattr(known, name)}


def first_line(failed: BaseException) -> str:
    """What an exception says, in one line: the kind of exception where it says nothing."""
    lines = [line.strip() for line in str(failed).splitlines() if line.strip()]
    return lines[0].rstrip(".:;") if lines else type(failed).__name__


@functools.cache
def _directory() -> str:
    """This process's directory for what inductor makes, removed when the process ends."""
    path = tempfile.mkdtemp(prefix="probe-compiled-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@contextlib.contextmanager
def cache_directory(path: str) -> Iterator[None]:
    """Within the block inductor keeps its files in `path`; the user's setting is restored."""
    before = os.environ.get(CACHE_VARIABLE)
    os.environ[CACHE_VARIABLE] = path
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(CACHE_VARIABLE, None)
        else:
            os.environ[CACHE_VARIABLE] = before


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Leave the block by an exception after `seconds`; a timer that was running goes on afterwards.

    Raises UnavailableError where no signal can do that: outside the main thread, and on Windows.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        raise UnavailableError("torch.compile can be ended in time only in the main thread of a Unix process")

    def late(number: int, frame: FrameType | None) -> None:
        raise _TooLong

    handler = signal.signal(signal.SIGALRM, late)
    started = time.monotonic()
    left_s, every_s = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
        if left_s:
            signal.setitimer(signal.ITIMER_REAL, max(1e-3, left_s - (time.monotonic() - started)), every_s)
