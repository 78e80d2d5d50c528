"""On what is it run? A device with its clock, in a process whose state is afterwards what it was before."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

from probe.errors import UnavailableError, UsageError
from probe.machine.environment import cpu_device, cuda_device, load_torch
from probe.microbench.harness import Clock
from probe.microbench.neighbours import Neighbours
from probe.microbench.timers import CudaTimer, Timer
from probe.verify.clocks import CpuTimer


class Watch(Protocol):
    """What others did since it was made."""

    @property
    def disturbed(self) -> bool:
        """Whether they took CPU time that matters."""


@dataclass(frozen=True)
class Bench:
    """`device` as torch names it, `name` as people do; `clock` counts the budget, `timer` the work."""

    device: str
    name: str
    timer: Timer
    seed: int = 0
    clock: Clock = time.perf_counter
    watch: Callable[[], Watch] | None = None  # begins to watch what others take of the CPUs


def bench(device: str = "cpu", *, seed: int = 0, clock: Clock = time.perf_counter) -> Bench:
    """The bench of "cpu", "cuda" or "cuda:N".

    Raises UsageError for any other device, UnavailableError where there is no such GPU or no torch.
    """
    kind, colon, number = device.partition(":")
    if device == "cpu":
        torch, why = load_torch()
        if torch is None:
            raise UnavailableError(f"verifying runs the operators, but torch is {why}; install it: pip install torch")
        return Bench(device, cpu_device().name, CpuTimer(torch.get_num_threads()), seed, clock, Neighbours)
    if kind != "cuda" or bool(colon) != number.isdecimal():
        raise UsageError(f"cannot verify on {device!r}; use cpu, cuda or cuda:N")
    index = int(number or 0)
    return Bench(f"cuda:{index}", cuda_device(index).name, CudaTimer(index), seed, clock)


@contextmanager
def isolated(device: str) -> Iterator[None]:
    """Gradients on, autocast off and use of the global random numbers undone, whatever the caller's modes are."""
    import torch

    where = torch.device(device)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([where.index or 0] if where.type == "cuda" else []))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(where.type, enabled=False))
        yield
