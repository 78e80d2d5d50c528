"""How much memory does one run take at its peak, and how much is there?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from probe.collectors import kineto_log
from probe.machine import cpu_info
from probe.verify.case import I, Side


def peak_bytes(build: Callable[[I], Side], inputs: I, device: str) -> int | None:
    """Most bytes that torch's allocator had handed out at once while a side was built and called, beyond the inputs.

    CUDA: the caching allocator's own maximum. CPU: the running sum of the allocator's record in torch's profiler;
    what libraries such as oneDNN or BLAS allocate past torch is in neither. None where a profiler is already running.
    """
    return _cuda_peak(build, inputs, device) if device.startswith("cuda") else _cpu_peak(build, inputs)


def _cuda_peak(build: Callable[[I], Side], inputs: I, device: str) -> int:
    """Maximum of the caching allocator above what was allocated before."""
    import torch

    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    build(inputs).call()
    torch.cuda.synchronize(device)
    return max(0, int(torch.cuda.max_memory_allocated(device)) - int(before))


def _cpu_peak(build: Callable[[I], Side], inputs: I) -> int | None:
    """Running maximum over the record of allocations and frees."""
    import torch
    from torch.autograd.profiler import profile

    autograd: Any = torch.autograd
    if autograd._profiler_enabled():  # only one can record at a time
        return None
    with kineto_log.silenced(), profile(use_kineto=True, profile_memory=True) as recorded:
        build(inputs).call()
    allocated = peak = 0
    for event in _memory_events(recorded):
        allocated += event.nbytes()  # negative for a free
        peak = max(peak, allocated)
    return peak


def _memory_events(recorded: Any) -> list[Any]:
    """The allocator's events in the order of time."""
    events = (event for event in recorded.kineto_results.events() if event.name() == "[memory]")
    return sorted(events, key=lambda event: event.start_ns())


def available_bytes(device: str) -> int | None:
    """Memory that could be allocated now: the GPU's, or the machine's within its cgroup. None where unknown."""
    if device.startswith("cuda"):
        import torch

        free, _total = torch.cuda.mem_get_info(device)
        return int(free)
    now = cpu_info.parse_meminfo(cpu_info.read_text(Path("/proc/meminfo")) or "").get("MemAvailable")
    limit = cpu_info.memory_limit_bytes(cpu_info.read_text(Path("/proc/self/cgroup")) or "")
    return min((size for size in (now, limit) if size is not None), default=None)
