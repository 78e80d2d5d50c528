"""What is a rank? One process of a group over torch.distributed: Gloo between CPUs, NCCL (RCCL) between GPUs.

The ranks meet and agree over Gloo in both cases; a window is timed by the host's clock, with the device synchronised
before and after. A rank that the suite started itself answers on a pipe and ends when its parent does.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import pickle
import signal
import socket
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from probe.errors import UnavailableError
from probe.microbench import memory
from probe.microbench.collectives.operations import ELEMENT_BYTES, Buffers, Call, call_of, runs_right
from probe.microbench.collectives.sweep import Done, Failed, Group, Message, Plan, sweep

TIMEOUT_S = 60.0  # of one collective: a rank that is late by this much is not coming
LEAST_SWEEP_S = 1.0  # where starting took all of the budget
BUFFERS = 3  # a rank's memory in sizes of the operation: two tensors, and what the backend copies
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MOST_CHARACTERS = 160  # of an error: torch adds advice, paths and addresses to its own
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Assignment:
    """Which rank this process is, how it finds the others, and what they do together.

    `meeting` is the path of a file that all ranks can open, a URL of torch.distributed (env://, tcp://host:port).
    `until` is when the sweep should be over, by time.perf_counter(), which all processes of a machine share.
    """

    rank: int
    ranks: int
    meeting: str
    plan: Plan
    device: str = "cpu"  # or cuda:N
    until: float | None = None


class TorchPeers:
    """This rank's side of torch.distributed's default process group, which must be initialised."""

    def __init__(self, device: str) -> None:
        import torch
        import torch.distributed as dist

        self._torch: Any = torch
        self._dist: Any = dist
        self._device = device
        self._on_gpu = device != "cpu"
        self.rank, ranks = dist.get_rank(), dist.get_world_size()
        machines = self._everybodys(machine_number(), ranks)
        self._local_ranks = machines.count(machines[self.rank])
        self.group = Group(ranks, len(set(machines)), "nccl" if self._on_gpu else "gloo")

    def worst(self, values: Sequence[float]) -> list[float]:
        """The greatest of each value over all ranks; waits for them."""
        agreed = self._torch.tensor(list(values), dtype=self._torch.float64)
        self._dist.all_reduce(agreed, op=self._dist.ReduceOp.MAX)
        return [float(value) for value in agreed]

    def most_bytes(self) -> float:
        """The size for which a safe share of the free memory has room, shared with the other ranks of the machine."""
        if self._on_gpu:
            return float(self._torch.cuda.mem_get_info(self._device)[0]) / BUFFERS
        free = memory.free_bytes()
        return math.inf if free is None else memory.SAFE_SHARE * free / (BUFFERS * self._local_ranks)

    def prepare(self, operations: Sequence[str], size_bytes: int) -> Mapping[str, TorchOperation]:
        """The operations on one pair of buffers; raises MemoryError where they cannot be had."""
        buffers = buffers_of(self.rank, self.group.ranks, size_bytes, self._device)
        return {name: TorchOperation(self, name, buffers) for name in operations}

    def synchronise(self) -> None:
        """Wait for the device."""
        if self._on_gpu:
            self._torch.cuda.synchronize(self._device)

    def leave(self) -> None:
        """End the group when all ranks have come to the end."""
        self.worst([0.0])
        self._dist.destroy_process_group()

    def abandon(self) -> None:
        """End the group when others are gone; NCCL's is left to the end of the process, which it could outwait."""
        if not self._on_gpu:
            self._dist.destroy_process_group()

    def _everybodys(self, number: int, ranks: int) -> list[int]:
        """Each rank's number, by rank; up to 2^53."""
        return [int(value) for value in self.worst([number if i == self.rank else -1.0 for i in range(ranks)])]


class TorchOperation:
    """One operation at one size on this rank."""

    def __init__(self, peers: TorchPeers, name: str, buffers: Buffers) -> None:
        self._peers = peers
        self._name = name
        self._buffers = buffers
        self._call: Call = call_of(name, buffers)

    def runs_right(self) -> bool:
        """Run it once on known inputs and compare."""
        return runs_right(self._name, self._buffers, self._call)

    def window(self, calls: int) -> float:
        """Seconds of `calls` calls, after all ranks have met with nothing left on their devices."""
        self._peers.synchronise()
        self._peers.worst([0.0])
        start = time.perf_counter()
        for _ in range(calls):
            self._call()
        self._peers.synchronise()
        return time.perf_counter() - start


def buffers_of(rank: int, ranks: int, size_bytes: int, device: str) -> Buffers:
    """A pair of float32 tensors of `size_bytes` each; raises MemoryError where they cannot be had."""
    import torch

    try:
        source, target = (torch.zeros(size_bytes // ELEMENT_BYTES, device=device) for _ in range(2))
    except RuntimeError as error:  # torch's, on every kind of device, when memory is out
        raise MemoryError(one_line(error)) from None
    return Buffers(rank, ranks, source, target)


def machine_number() -> int:
    """The same for all processes of one running kernel (containers too), else by host name; below 2^32."""
    try:
        name = BOOT_ID.read_text()
    except OSError:  # another system than Linux
        name = socket.gethostname()
    return zlib.crc32(name.encode())


def take_part(assignment: Assignment) -> Iterator[Message]:
    """Join the group and sweep; raises UnavailableError or RuntimeError where that fails."""
    peers = join(assignment)
    plan = assignment.plan
    if assignment.until is not None:
        left_s = assignment.until - time.perf_counter()
        plan = Plan(plan.operations, plan.coarse, max(LEAST_SWEEP_S, left_s))
    yield from sweep(peers, plan)


def join(assignment: Assignment) -> TorchPeers:
    """Initialise torch.distributed and meet the other ranks, within `TIMEOUT_S`."""
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        raise UnavailableError("this torch is built without torch.distributed: install one with it")
    if dist.is_initialized():
        raise UnavailableError("this process has a process group already: run the suite in a process of its own")
    meeting: dict[str, Any] = {"init_method": assignment.meeting}
    if "://" not in assignment.meeting:
        store = dist.FileStore(assignment.meeting, assignment.ranks)  # type: ignore[attr-defined]  # public, unmarked
        meeting = {"store": store}
    backend = "gloo"
    if assignment.device != "cpu":
        torch.cuda.set_device(assignment.device)
        backend = "cpu:gloo,cuda:nccl"
    limit = timedelta(seconds=TIMEOUT_S)
    dist.init_process_group(backend, rank=assignment.rank, world_size=assignment.ranks, timeout=limit, **meeting)
    return TorchPeers(assignment.device)


def serve() -> NoReturn:
    """A started rank: an assignment comes in, messages go out, prints go to stderr; ends when its input does."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _end_with_parent()
    assignment: Assignment = pickle.load(sys.stdin.buffer)
    watcher = threading.Thread(target=_watch_parent, daemon=True)
    watcher.start()
    try:
        for message in take_part(assignment):
            _send(answers, message)
        _send(answers, Done())
    except Exception as error:  # whatever torch raises; told in one line
        _send(answers, Failed(one_line(error)))
    watcher.join()  # a rank that ends closes its connections, which another may still read from
    os._exit(0)


def _send(answers: Any, message: Message) -> None:
    with contextlib.suppress(OSError):  # the parent is gone, and so are we in a moment
        pickle.dump(message, answers)
        answers.flush()


def one_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says, if that is not too long."""
    said = str(error).strip().splitlines()
    first = said[0] if said else ""
    first = f"{first[:MOST_CHARACTERS]}…" if len(first) > MOST_CHARACTERS else first
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _end_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies: also while it is stopped or holds the GIL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch_parent() -> None:
    """End at once when the parent closes the pipe or is gone, on every system."""
    with contextlib.suppress(OSError):
        while sys.stdin.buffer.read(1):
            pass
    os._exit(0)
