"""How is work ordered and timed on a device? Streams, events, and graphs of what was enqueued once."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable

from probe.kernels.cuda.context import PrimaryContext
from probe.kernels.cuda.driver import CudaError

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the legacy default stream
_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED: the driver may load a kernel meanwhile


class Stream:
    """A queue of work; works alongside the default stream."""

    def __init__(self, context: PrimaryContext) -> None:
        self._context = context
        self.handle = ctypes.c_void_p()
        context.call("cuStreamCreate", ctypes.byref(self.handle), _NON_BLOCKING)

    def synchronise(self) -> None:
        """Waits for all that was enqueued; an error of a kernel surfaces here."""
        self._context.call("cuStreamSynchronize", self.handle)

    def wait(self, event: Event) -> None:
        """What is enqueued from now on starts after `event`."""
        self._context.call("cuStreamWaitEvent", self.handle, event.handle, 0)

    def close(self) -> None:
        """Gives it back; a second time does nothing."""
        handle, self.handle = self.handle, ctypes.c_void_p()
        if handle:
            self._context.call("cuStreamDestroy_v2", handle)


class Event:
    """A mark in a stream, with the device's time at which it was reached (about half a microsecond fine)."""

    def __init__(self, context: PrimaryContext, stream: Stream) -> None:
        self._context, self._stream = context, stream
        self.handle = ctypes.c_void_p()
        context.call("cuEventCreate", ctypes.byref(self.handle), 0)

    def record(self, stream: Stream | None = None) -> None:
        """Puts the mark behind what is enqueued; on the Gpu's stream unless another is given."""
        self._context.call("cuEventRecord", self.handle, (stream or self._stream).handle)

    def synchronise(self) -> None:
        """Waits until the mark is reached; an error of a kernel surfaces here."""
        self._context.call("cuEventSynchronize", self.handle)

    def seconds_since(self, earlier: Event) -> float:
        """The device's time from `earlier` to this mark, in seconds; both must be reached."""
        milliseconds = ctypes.c_float()
        self._context.call("cuEventElapsedTime", ctypes.byref(milliseconds), earlier.handle, self.handle)
        return milliseconds.value * 1e-3

    def close(self) -> None:
        """Gives it back; a second time does nothing."""
        handle, self.handle = self.handle, ctypes.c_void_p()
        if handle:
            self._context.call("cuEventDestroy_v2", handle)


class Graph:
    """Work that was enqueued once and is launched again at the cost of one call."""

    def __init__(self, context: PrimaryContext, stream: Stream, enqueue: Callable[[], None]) -> None:
        """Captures what `enqueue` puts on `stream`; nothing of it runs yet."""
        self._context, self._stream = context, stream
        self.handle = ctypes.c_void_p()
        graph = _captured(context, stream, enqueue)
        try:
            context.call("cuGraphInstantiateWithFlags", ctypes.byref(self.handle), graph, 0)
        finally:
            context.call("cuGraphDestroy", graph)
        context.call("cuGraphUpload", self.handle, stream.handle)

    def launch(self, stream: Stream | None = None) -> None:
        """Enqueues all of it; on the Gpu's stream unless another is given."""
        self._context.call("cuGraphLaunch", self.handle, (stream or self._stream).handle)

    def close(self) -> None:
        """Gives it back; a second time does nothing."""
        handle, self.handle = self.handle, ctypes.c_void_p()
        if handle:
            self._context.call("cuGraphExecDestroy", handle)


def _captured(context: PrimaryContext, stream: Stream, enqueue: Callable[[], None]) -> ctypes.c_void_p:
    """The graph of what `enqueue` puts on `stream`; an error of `enqueue` ends the capture and passes."""
    graph = ctypes.c_void_p()
    context.call("cuStreamBeginCapture_v2", stream.handle, _RELAXED)
    try:
        enqueue()
    except BaseException:
        with contextlib.suppress(CudaError):  # the first error is the one to tell
            context.call("cuStreamEndCapture", stream.handle, ctypes.byref(graph))
            context.call("cuGraphDestroy", graph)
        raise
    context.call("cuStreamEndCapture", stream.handle, ctypes.byref(graph))
    return graph
