"""How are functions of the CUDA driver called over and over, without Python between the calls?

`Gpu` and `Function` check, convert and log in Python, which takes longer than the driver's own work. What a launch or a
copy costs is therefore measured with the arguments made once and the calls repeated by machine code. Each `run` needs
the device's context to be current: call something of the Gpu before, as recording an event is.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.kernels.cpu.repeated_calls import Call, RepeatedCalls
from probe.kernels.cuda.driver import SUCCESS
from probe.kernels.cuda.function import Function
from probe.kernels.cuda.gpu import Gpu
from probe.kernels.cuda.queues import Event, Graph, Stream


@dataclass(frozen=True)
class DriverCall:
    """A function of the driver and its arguments; `keep` is what they point to."""

    function: str
    arguments: tuple[int, ...]
    keep: object = None


class DriverCalls:
    """Calls that are made one after the other, again and again."""

    def __init__(self, gpu: Gpu, *calls: DriverCall) -> None:
        """Raises UnavailableError where this driver lacks one of the functions."""
        self._driver = gpu.driver
        self._names = ", ".join(dict.fromkeys(call.function for call in calls))
        made = [Call(gpu.driver.address(call.function), call.arguments) for call in calls]
        self._calls = RepeatedCalls(*made, keep=calls)

    @property
    def origin(self) -> str:
        """Who repeats the calls: "machine code", or "Python" where that cannot be run."""
        return self._calls.origin

    def run(self, rounds: int = 1) -> None:
        """All of them in turn, `rounds` times; raises CudaError where the driver refuses one."""
        code = self._calls.run(rounds)
        if code != SUCCESS:
            raise self._driver.error(self._names, code)


def launch(function: Function, stream: Stream, blocks: int, threads: int, *parameters: np.generic) -> DriverCall:
    """cuLaunchKernel of a kernel without dynamic shared memory."""
    values = [ctypes.create_string_buffer(parameter.tobytes(), parameter.nbytes) for parameter in parameters]
    pointers = (ctypes.c_void_p * max(1, len(values)))(*map(ctypes.addressof, values))
    sizes = (blocks, 1, 1, threads, 1, 1, 0)
    arguments = (_value(function.handle), *sizes, _value(stream.handle), ctypes.addressof(pointers), 0)
    return DriverCall("cuLaunchKernel", arguments, keep=(values, pointers))


def replay(graph: Graph, stream: Stream) -> DriverCall:
    """cuGraphLaunch."""
    return DriverCall("cuGraphLaunch", (_value(graph.handle), _value(stream.handle)))


def copy(destination: int, source: int, n_bytes: int, stream: Stream) -> DriverCall:
    """cuMemcpyAsync between two addresses, of the device or of pinned memory."""
    return DriverCall("cuMemcpyAsync", (destination, source, n_bytes, _value(stream.handle)))


def copy_pageable(direction: str, destination: int, source: int, n_bytes: int, stream: Stream) -> DriverCall:
    """cuMemcpyHtoDAsync or cuMemcpyDtoHAsync ("H2D", "D2H") with ordinary memory of the host."""
    function = {"H2D": "cuMemcpyHtoDAsync_v2", "D2H": "cuMemcpyDtoHAsync_v2"}[direction]
    return DriverCall(function, (destination, source, n_bytes, _value(stream.handle)))


def record(event: Event, stream: Stream) -> DriverCall:
    """cuEventRecord."""
    return DriverCall("cuEventRecord", (_value(event.handle), _value(stream.handle)))


def query(event: Event) -> DriverCall:
    """cuEventQuery, which refuses where the event is not reached yet."""
    return DriverCall("cuEventQuery", (_value(event.handle),))


def synchronise(stream: Stream) -> DriverCall:
    """cuStreamSynchronize."""
    return DriverCall("cuStreamSynchronize", (_value(stream.handle),))


def _value(handle: Any) -> int:
    """A handle as a number."""
    return int(handle.value or 0)
