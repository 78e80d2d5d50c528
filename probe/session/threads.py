"""Which other threads of the program may run torch's operators? As far as their frames tell."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import BuiltinFunctionType, FrameType, FunctionType, ModuleType
from typing import cast


def computing_threads() -> list[str]:
    """Names of the threads, other than this one and probe's own, in whose frames torch is at hand.

    A thread of a server or of a progress bar runs code whose modules know nothing of torch. One that prefetches, pins
    memory or serves a model has torch, or something of torch's, among the globals of a function it is in.
    """
    frames = sys._current_frames()
    others = (t for t in threading.enumerate() if t is not threading.current_thread())
    return [t.name for t in others if not t.name.startswith("probe-") and _is_near_torch(frames.get(t.ident or 0))]


def _is_near_torch(frame: FrameType | None) -> bool:
    return any(map(_is_torchs, (value for one in _outward(frame) for value in tuple(one.f_globals.values()))))


def _outward(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_torchs(value: object) -> bool:
    """Whether a global is torch, of torch, or an instance of something of torch's.

    Only types are asked: a proxy among a program's globals may do anything when its attributes are.
    """
    kind = type(value)
    name: object = kind.__module__
    if issubclass(kind, ModuleType):
        name = cast(ModuleType, value).__name__
    elif issubclass(kind, (type, FunctionType, BuiltinFunctionType)):
        name = cast(FunctionType, value).__module__
    return isinstance(name, str) and name.partition(".")[0] == "torch"
