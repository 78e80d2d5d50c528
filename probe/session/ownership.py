"""Which session has this process? One at a time: torch's profiler is the process's, not the session's."""

from __future__ import annotations

import atexit
import os
import threading
from typing import Protocol


class Owner(Protocol):
    """What a session must be able to do for the process."""

    def process_exits(self) -> None:
        """The interpreter is about to exit: stop recording, or it crashes."""

    def process_forked(self) -> None:
        """This is a child of the process that is observed: observe nothing, write nothing."""


_lock = threading.Lock()
_owner: Owner | None = None
_hooked = False


def take(session: Owner) -> bool:
    """Whether `session` has the process from now on; not while another has it."""
    global _owner
    with _lock:
        if _owner is not None:
            return False
        _owner = session
    _hook()
    return True


def taken() -> bool:
    """Whether a session has the process."""
    return _owner is not None


def release(session: Owner) -> None:
    """Give the process back, if `session` has it."""
    global _owner
    with _lock:
        if _owner is session:
            _owner = None


def _hook() -> None:
    """Once per process, and only when somebody profiles."""
    global _hooked
    if not _hooked:
        _hooked = True
        atexit.register(_at_exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_after_fork)


def _at_exit() -> None:
    if _owner is not None:
        _owner.process_exits()


def _after_fork() -> None:
    global _lock, _owner
    _lock = threading.Lock()  # the parent's may have been held
    session, _owner = _owner, None
    if session is not None:
        session.process_forked()
