"""What does each function of the fake CUDA driver do? Its calls on virtual streams, and memory of this process.

A method gets the call's arguments as 64-bit words and returns a CUresult; None is success.
"""

# ruff: noqa: N802, N815 (the methods have the names of the driver's functions)

from __future__ import annotations

import ctypes
import mmap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from probe.kernels.cuda import cubin as cubin_file
from probe.kernels.cuda.driver import STICKY

TOUCHED = 16 << 20  # bytes of a long fill or copy on the device that really happen
Three = tuple[int, int, int]


class Arguments:
    """What a launch passed, copied as the driver copies it: `args[i]` is a pointer to the i-th argument's bytes."""

    def __init__(self, pointers: int, sizes: tuple[int, ...]) -> None:
        given = ctypes.cast(pointers, ctypes.POINTER(ctypes.c_void_p))
        self._values = [ctypes.create_string_buffer(ctypes.string_at(given[i], n), n) for i, n in enumerate(sizes)]

    def __getitem__(self, index: int) -> ctypes.c_void_p:
        return ctypes.c_void_p(ctypes.addressof(self._values[index]))

    def value(self, index: int, kind: Any) -> Any:
        """The i-th argument as a ctypes type: args.value(1, ctypes.c_int32)."""
        return ctypes.cast(self[index], ctypes.POINTER(kind)).contents.value

    def array(self, index: int, dtype: Any, count: int) -> np.ndarray[Any, Any]:
        """The memory that the i-th argument points to, to read and to write."""
        address = self.value(index, ctypes.c_uint64)
        n_bytes = np.dtype(dtype).itemsize * count
        return np.frombuffer((ctypes.c_ubyte * n_bytes).from_address(address), dtype=dtype, count=count)


Kernel = Callable[[Three, Three, Arguments], float]  # seconds of device time


@dataclass(frozen=True)
class Launch:
    """One launch as the driver saw it."""

    name: str
    grid: Three
    block: Three
    shared: int


@dataclass
class Queue:
    """A stream: until when it is busy, and what it captures (None: nothing)."""

    busy_until_s: float = 0.0
    captured: list[Callable[[Queue], None]] | None = None


@dataclass
class Entry:
    """A loaded function."""

    name: str
    parameters: tuple[int, ...]  # bytes of each
    module: int
    attributes: dict[int, int] = field(default_factory=dict)


@dataclass
class Captured:
    """A graph: what was put on a stream while it captured."""

    work: list[Callable[[Queue], None]]


@dataclass
class Mark:
    """An event, and the device's time at which it was reached."""

    at_s: float | None = None


class Calls:
    """The functions of the driver on the state that FakeCuda sets up."""

    kernels: dict[str, Kernel]
    devices: int
    name: str
    version: tuple[int, int]
    attributes: dict[int, int]
    memory_bytes: int
    free_bytes: int
    otherwise_s: float
    launch_s: float
    copy_s: Callable[[str, int], float]
    fill_s: Callable[[int], float]
    occupancy: int | None

    def __init__(self) -> None:
        self.host_s = 0.0  # virtual time of the host
        self.launches: list[Launch] = []
        self.cubins: list[bytes] = []  # as loaded
        self.called: Counter[str] = Counter()
        self.lost: int | None = None  # the code that every call returns
        self.error: BaseException | None = None  # of a kernel's Python function
        self._failures: dict[tuple[str, int], int] = {}
        self._handles: dict[int, Any] = {}
        self._memory: dict[int, tuple[mmap.mmap, int, str]] = {}  # address: pages, bytes, "D" or "H"
        self._next = 0x1000

    @property
    def allocated_bytes(self) -> int:
        """Device memory that was not freed."""
        return sum(size for _, size, kind in self._memory.values() if kind == "D")

    def _answer(self, function: bytes, words: Any) -> int:
        name = function.decode()
        self.called[name] += 1
        injected = self._failures.pop((name, self.called[name]), None)
        if injected in STICKY:
            self.lost = injected
        if self.lost or injected:
            return self.lost or injected or 0
        try:
            return int(getattr(self, f"_{name}")(words) or 0)
        except BaseException as error:  # it cannot pass through C; the fixture raises it
            self.error = self.error or error
            self.lost = 719
            return self.lost

    def _handle(self, target: int, thing: Any) -> None:
        self._next += 8
        self._handles[self._next] = thing
        _store(target, ctypes.c_uint64, self._next)

    def _drop(self, handle: int) -> int:
        return 0 if self._handles.pop(handle, None) is not None else 400

    def _do(self, handle: int, work: Callable[[Queue], None]) -> int:
        """Runs `work` on a stream, or notes it where the stream captures."""
        queue = self._handles.get(handle)
        if not isinstance(queue, Queue):
            return 400
        if queue.captured is not None:
            queue.captured.append(work)
        else:
            work(queue)
        return 0

    def _spend(self, queue: Queue, seconds: float) -> None:
        queue.busy_until_s = max(queue.busy_until_s, self.host_s) + seconds

    def _wait(self, until_s: float) -> None:
        self.host_s = max(self.host_s, until_s)

    # ---- devices and contexts ----------------------------------------------------------------------------------------

    def _cuInit(self, words: Any) -> int:
        return 0 if self.devices else 100

    def _cuDriverGetVersion(self, words: Any) -> None:
        _store(words[0], ctypes.c_int, 1000 * self.version[0] + 10 * self.version[1])

    def _cuDeviceGetCount(self, words: Any) -> None:
        _store(words[0], ctypes.c_int, self.devices)

    def _cuDeviceGet(self, words: Any) -> int:
        _store(words[0], ctypes.c_int, words[1])
        return 0 if words[1] < self.devices else 101

    def _cuDeviceGetName(self, words: Any) -> None:
        ctypes.memmove(words[0], self.name.encode() + b"\0", min(words[1], len(self.name) + 1))

    def _cuDeviceGetAttribute(self, words: Any) -> int:
        if words[1] not in self.attributes:
            return 1
        _store(words[0], ctypes.c_int, self.attributes[words[1]])
        return 0

    def _cuDeviceTotalMem_v2(self, words: Any) -> None:
        _store(words[0], ctypes.c_size_t, self.memory_bytes)

    def _cuDevicePrimaryCtxRetain(self, words: Any) -> None:
        _store(words[0], ctypes.c_uint64, 0xC0DE)

    def _cuDevicePrimaryCtxRelease_v2(self, words: Any) -> None:
        return None

    def _cuCtxSetCurrent(self, words: Any) -> int:
        return 0 if words[0] == 0xC0DE else 201

    def _cuCtxSynchronize(self, words: Any) -> None:
        for queue in self._handles.values():
            if isinstance(queue, Queue):
                self._wait(queue.busy_until_s)

    # ---- memory ------------------------------------------------------------------------------------------------------

    def _cuMemGetInfo_v2(self, words: Any) -> None:
        _store(words[0], ctypes.c_size_t, self.free_bytes - self.allocated_bytes)
        _store(words[1], ctypes.c_size_t, self.memory_bytes)

    def _allocate(self, target: int, size: int, kind: str) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        pages = mmap.mmap(-1, size, flags=flags)
        address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        self._memory[address] = (pages, size, kind)
        _store(target, ctypes.c_uint64, address)

    def _cuMemAlloc_v2(self, words: Any) -> int:
        if words[1] == 0:
            return 1
        if words[1] > self.free_bytes - self.allocated_bytes:
            return 2
        self._allocate(words[0], words[1], "D")
        return 0

    def _cuMemHostAlloc(self, words: Any) -> None:
        self._allocate(words[0], words[1], "H")

    def _cuMemFree_v2(self, words: Any) -> int:
        return 0 if self._memory.pop(words[0], None) is not None else 1

    _cuMemFreeHost = _cuMemFree_v2

    def _kind(self, address: int, size: int) -> str | None:
        """ "D", "H", or None where device memory ends before `size`; what is not the fake's is the host's."""
        for start, (_, length, kind) in self._memory.items():
            if start <= address < start + length:
                return kind if address + size <= start + length else None
        return "H"

    def _copy(self, to: int, source: int, size: int, stream: int) -> int:
        kinds = self._kind(source, size), self._kind(to, size)
        if None in kinds:
            return 1
        kind = f"{kinds[0]}2{kinds[1]}"
        real = size if kind in ("H2D", "D2H") else min(size, TOUCHED)

        def work(queue: Queue) -> None:
            ctypes.memmove(to, source, real)
            self._spend(queue, self.copy_s(kind, size))

        return self._do(stream, work)

    def _cuMemcpyAsync(self, words: Any) -> int:
        return self._copy(words[0], words[1], words[2], words[3])

    _cuMemcpyHtoDAsync_v2 = _cuMemcpyDtoHAsync_v2 = _cuMemcpyDtoDAsync_v2 = _cuMemcpyAsync

    def _cuMemsetD8Async(self, words: Any) -> int:
        address, byte, size, stream = words[0], words[1], words[2], words[3]
        if self._kind(address, size) != "D":
            return 1

        def work(queue: Queue) -> None:
            ctypes.memset(address, byte, min(size, TOUCHED))
            self._spend(queue, self.fill_s(size))

        return self._do(stream, work)

    # ---- code --------------------------------------------------------------------------------------------------------

    def _cuModuleLoadData(self, words: Any) -> int:
        head = ctypes.string_at(words[1], 64)
        if head[:4] != b"\x7fELF":
            return 200
        end = int.from_bytes(head[0x28:0x30], "little") + int.from_bytes(head[0x3A:0x3C], "little") * int.from_bytes(
            head[0x3C:0x3E], "little"
        )
        segments = int.from_bytes(head[0x20:0x28], "little") + 56 * int.from_bytes(head[0x38:0x3A], "little")
        self.cubins.append(ctypes.string_at(words[1], max(end, segments)))
        self._handle(words[0], self.cubins[-1])
        return 0

    def _cuModuleUnload(self, words: Any) -> int:
        mine = [handle for handle, thing in self._handles.items() if getattr(thing, "module", 0) == words[0]]
        for handle in mine:  # its functions go with it
            self._drop(handle)
        return self._drop(words[0])

    def _cuModuleGetFunction(self, words: Any) -> int:
        name, code = ctypes.string_at(words[2]).decode(), self._handles[words[1]]
        if name not in cubin_file.kernels(code):
            return 500
        found = {
            1: cubin_file.shared_bytes(code, name),
            3: cubin_file.local_bytes(code, name),
            4: cubin_file.registers(code, name),
        }
        self._handle(words[0], Entry(name, cubin_file.parameters(code, name), words[1], found))
        return 0

    def _cuFuncGetAttribute(self, words: Any) -> None:
        _store(words[0], ctypes.c_int, self._handles[words[2]].attributes.get(words[1], 0))

    def _cuFuncSetAttribute(self, words: Any) -> int:
        if words[1] == 8 and words[2] > self.attributes[97]:
            return 1
        self._handles[words[0]].attributes[words[1]] = words[2]
        return 0

    def _cuOccupancyMaxActiveBlocksPerMultiprocessor(self, words: Any) -> None:
        by_threads = self.attributes[39] // max(1, words[2])
        by_shared = self.attributes[81] // (words[3] + 1024)
        found = self.occupancy if self.occupancy is not None else min(32, by_threads, by_shared)
        _store(words[0], ctypes.c_int, found)

    def _cuLaunchKernel(self, words: Any) -> int:
        entry = self._handles[words[0]]
        grid, block, shared = tuple(words[1:4]), tuple(words[4:7]), words[7]
        threads = block[0] * block[1] * block[2]
        allowed = entry.attributes.get(8) or 48 << 10
        if not 0 < threads <= self.attributes[1] or 0 in grid or shared > allowed:
            return 1
        self.host_s += self.launch_s
        self.launches.append(Launch(entry.name, grid, block, shared))
        arguments = Arguments(words[9], entry.parameters)
        run = self.kernels.get(entry.name)

        def work(queue: Queue) -> None:
            self._spend(queue, self.otherwise_s if run is None else run(grid, block, arguments))

        return self._do(words[8], work)

    # ---- streams, graphs, events -------------------------------------------------------------------------------------

    def _cuStreamCreate(self, words: Any) -> None:
        self._handle(words[0], Queue())

    def _cuStreamDestroy_v2(self, words: Any) -> int:
        return self._drop(words[0])

    def _cuStreamSynchronize(self, words: Any) -> int:
        queue = self._handles.get(words[0])
        if not isinstance(queue, Queue):
            return 400
        self._wait(queue.busy_until_s)
        return 0

    def _cuStreamWaitEvent(self, words: Any) -> int:
        event = self._handles[words[1]]

        def work(queue: Queue) -> None:
            queue.busy_until_s = max(queue.busy_until_s, event.at_s)

        return self._do(words[0], work)

    def _cuStreamBeginCapture_v2(self, words: Any) -> None:
        self._handles[words[0]].captured = []

    def _cuStreamEndCapture(self, words: Any) -> None:
        queue = self._handles[words[0]]
        self._handle(words[1], Captured(queue.captured or []))
        queue.captured = None

    def _cuGraphInstantiateWithFlags(self, words: Any) -> None:
        self._handle(words[0], Captured(list(self._handles[words[1]].work)))

    def _cuGraphUpload(self, words: Any) -> None:
        return None

    def _cuGraphLaunch(self, words: Any) -> int:
        self.host_s += self.launch_s
        for work in self._handles[words[0]].work:
            code = self._do(words[1], work)
            if code:
                return code
        return 0

    def _cuGraphExecDestroy(self, words: Any) -> int:
        return self._drop(words[0])

    _cuGraphDestroy = _cuGraphExecDestroy

    def _cuEventCreate(self, words: Any) -> None:
        self._handle(words[0], Mark())

    def _cuEventDestroy_v2(self, words: Any) -> int:
        return self._drop(words[0])

    def _cuEventRecord(self, words: Any) -> int:
        mark = self._handles[words[0]]

        def work(queue: Queue) -> None:
            mark.at_s = max(queue.busy_until_s, self.host_s)

        return self._do(words[1], work)

    def _cuEventSynchronize(self, words: Any) -> None:
        self._wait(self._handles[words[0]].at_s or 0.0)

    def _cuEventElapsedTime(self, words: Any) -> int:
        first, last = self._handles[words[1]], self._handles[words[2]]
        if first.at_s is None or last.at_s is None:
            return 400
        if max(first.at_s, last.at_s) > self.host_s:
            return 600  # nobody has waited for it
        _store(words[0], ctypes.c_float, 1e3 * (last.at_s - first.at_s))
        return 0


def _store(address: int, kind: Any, value: float) -> None:
    """Writes through a pointer that the caller passed."""
    ctypes.cast(address, ctypes.POINTER(kind)).contents.value = value
