"""Which process and thread of a Chrome trace does an event belong to, and what are they called?

One trace keeps the numbers it was recorded with. For several, processes and threads are numbered anew, in the order of
the traces and each number once: hosts use the same numbers for different processes, every rank has a device 0 with a
stream 7, and viewers name a thread by its number alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count

import numpy as np

from probe.export import kineto_keys as keys
from probe.trace import DeviceWork, Trace

_UNKNOWN = -1  # of a device or stream
_STEPS = "steps"  # where steps stand that no thread of the trace marks


class Places:
    """Processes and threads of one trace as they are written."""

    def __init__(self, trace: Trace, label: str, numbers: Iterator[int] | None = None, sort_from: int = 0) -> None:
        """numbers: fresh ones, where those of the trace are not to be kept."""
        self.trace = trace
        self.label = label
        self._fresh = numbers
        self._order = count(sort_from)
        self._hosts = _host_threads(trace)
        self._host_processes = {trace.threads[i].process for i in self._hosts}
        self._known: dict[tuple[bool, str], str] = {}
        self._threads: dict[tuple[bool, str, str], str] = {}
        for on_device, process in self._processes():
            if (on_device, process) not in self._known:
                # In containers host processes are numbered from 1, as devices are.
                taken = on_device and process in self._host_processes
                self._known[on_device, process] = self._number(_device_name(process) if taken else process)

    def thread(self, index: int) -> str:
        """The fields that place an event on a thread of the trace."""
        if index < 0:
            return self._fields((False, _STEPS), _STEPS)
        thread = self.trace.threads[index]
        if self._fresh is None:
            return _place(_identifier(thread.process), _identifier(thread.id))
        return self._fields((index not in self._hosts, thread.process), thread.id)

    def threads(self) -> list[str]:
        """`thread` of all threads."""
        return [self.thread(i) for i in range(len(self.trace.threads))]

    def stream(self, device: int, stream: int) -> str:
        """The fields of work on a stream of a device."""
        return self._fields(self._device(device), str(stream))

    def metadata(self) -> Iterator[str]:
        """Events that name and order the processes and threads."""
        for key, pid in self._known.items():
            on_device, process = key
            place = _process(pid)
            yield _named(keys.PROCESS_NAME, place, self._name(on_device, process))
            yield _named(keys.PROCESS_LABELS, place, self._detail(on_device, process))
            yield _named(keys.PROCESS_ORDER, place, next(self._order))
        for index, thread in enumerate(self.trace.threads):
            kind = "thread" if index in self._hosts else "stream"
            yield _named(keys.THREAD_NAME, self.thread(index), f"{kind} {thread.id}")
        for device, stream in _streams(self.trace.kernels, self.trace.copies):
            name = "unknown stream" if stream == _UNKNOWN else f"stream {stream}"
            yield _named(keys.THREAD_NAME, self.stream(device, stream), name)

    def _fields(self, process: tuple[bool, str], thread: str) -> str:
        key = (*process, thread)
        if key not in self._threads:
            self._threads[key] = self._number(thread)
        return _place(self._known[process], self._threads[key])

    def _processes(self) -> Iterator[tuple[bool, str]]:
        """All processes, hosts before devices, devices by their numbers."""
        threads = self.trace.threads
        yield from ((False, threads[i].process) for i in sorted(self._hosts))
        if self.trace.step_thread < 0 and len(self.trace.steps):
            yield False, _STEPS
        yield from (self._device(device) for device, _ in _streams(self.trace.kernels, self.trace.copies))
        yield from ((True, t.process) for i, t in enumerate(threads) if i not in self._hosts)

    def _device(self, device: int) -> tuple[bool, str]:
        return True, "unknown" if device == _UNKNOWN else str(device)

    def _number(self, recorded: str) -> str:
        return _identifier(recorded) if self._fresh is None else str(next(self._fresh))

    def _name(self, on_device: bool, process: str) -> str:
        name = _device_name(process) if on_device else "steps" if process == _STEPS else "CPU"
        return f"{self.label} {name}".lstrip()

    def _detail(self, on_device: bool, process: str) -> str:
        return self.trace.device.name if on_device else f"process {process}"


def _host_threads(trace: Trace) -> set[int]:
    """Threads on which host events stand; the others are streams that annotations are projected on."""
    annotations = trace.annotations
    columns = (trace.host_ops.thread, trace.runtime_calls.thread, annotations.thread[~annotations.on_device])
    used = {int(i) for column in columns for i in np.unique(column)}
    projected = {int(i) for i in np.unique(annotations.thread[annotations.on_device])}
    stacks = {int(i) for i in np.unique(trace.frames.thread)}  # torch puts some of them on a thread 0 of no process
    unused = set(range(len(trace.threads))) - projected - stacks
    return (used | unused | {trace.step_thread}) - {_UNKNOWN}


def _streams(*tables: DeviceWork) -> list[tuple[int, int]]:
    """The pairs of device and stream on which work ran, in order."""
    pairs = np.concatenate([np.stack([t.device.astype(np.int64), t.stream], axis=1) for t in tables])
    return [(int(device), int(stream)) for device, stream in np.unique(pairs, axis=0)]


def _device_name(process: str) -> str:
    return f"GPU {process}"


def _identifier(text: str) -> str:
    """A number where the text is one as JSON writes it, so that reading gives the same text again."""
    digits = text.removeprefix("-")
    canonical = digits.isascii() and digits.isdigit() and str(int(digits)) == digits and len(digits) < 19
    return text if canonical and text != "-0" else json.dumps(text)


def _process(pid: str) -> str:
    return f'"{keys.PROCESS}":{pid}'


def _place(pid: str, tid: str) -> str:
    return f'{_process(pid)},"{keys.THREAD}":{tid}'


def _named(what: str, place: str, value: str | int) -> str:
    """A metadata event: what a process or thread is called, or where it stands."""
    told = f'{{"{keys.LABEL_OF[what]}":{json.dumps(value)}}}'
    return f'{{"{keys.PHASE}":"{keys.METADATA}","{keys.NAME}":"{what}",{place},"{keys.ARGUMENTS}":{told}}}'
