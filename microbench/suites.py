"""Which suites are there, what does each answer, on what, and how much of the time does it get?

On a CPU the times add up to well under 20 s (quick) and 3 min (full), on a GPU to 45 s and 5 min; what remains is for
importing torch, compiling kernels and touching memory.
"""

from __future__ import annotations

from collections.abc import Mapping

from probe.device import DeviceKind
from probe.microbench import attention, launch, matmul, torch_bandwidth
from probe.microbench.collectives import collectives
from probe.microbench.cpu import cache_latency, copies, memory_bandwidth, saxpy, tlb, vector_loads
from probe.microbench.storage import storage
from probe.microbench.suite import Answer, Run, Suite


def _cpu(run: Run, quick_s: float, full_s: float) -> Mapping[DeviceKind, Answer]:
    return {"cpu": Answer(run, quick_s, full_s)}


def _gpu(run: Run, quick_s: float, full_s: float) -> Mapping[DeviceKind, Answer]:
    return {"cuda": Answer(run, quick_s, full_s), "rocm": Answer(run, quick_s, full_s)}


def _any(run: Run, quick_s: float, full_s: float) -> Mapping[DeviceKind, Answer]:
    return {**_cpu(run, quick_s, full_s), **_gpu(run, quick_s, full_s)}


_ALL = (
    Suite("cache_latency", "How long does a dependent load take, by data size?", _cpu(cache_latency.run, 2.2, 26)),
    Suite(
        "memory_bandwidth",
        "How fast do arrays stream, by size and threads?",
        {**_cpu(memory_bandwidth.run, 2.2, 30), **_gpu(torch_bandwidth.run, 2.2, 30)},
    ),
    Suite("vector_loads", "Do wider loads move more bytes?", _cpu(vector_loads.run, 0.8, 8)),
    Suite("saxpy", "What does y = a x + y cost, by implementation?", _cpu(saxpy.run, 0.6, 8)),
    Suite("matmul", "What rate do matrix products reach, by dtype?", _any(matmul.run, 2.4, 36)),
    Suite("attention", "What rate does attention reach, by implementation?", _cpu(attention.run, 1.0, 16)),
    Suite("register_banks", "What do register bank conflicts cost?", {}),
    Suite("shared_banks", "What do shared memory bank conflicts cost?", {}),
    Suite("tlb", "How far do the TLBs reach?", _cpu(tlb.run, 0.6, 8)),
    Suite("launch", "What does dispatching one eager operator cost?", _any(launch.run, 0.4, 6)),
    Suite("copies", "How fast is memory copied, by size?", _cpu(copies.run, 0.4, 6)),
    Suite("collectives", "How fast do ranks exchange data?", _any(collectives.run, 3.0, 16)),
    Suite("storage", "What do loaders and checkpoints get from a path?", _any(storage.run, 0.5, 10)),
)
NOT_YET = "not implemented yet"
SUITES: dict[str, Suite] = {suite.name: suite for suite in _ALL}

NAMES: Mapping[DeviceKind, str] = {"cpu": "a CPU", "cuda": "a CUDA GPU", "rocm": "a ROCm GPU", "unknown": "this device"}


def reason_against(suite: Suite, kind: DeviceKind) -> str | None:
    """Why `suite` cannot be run on a device of `kind`; None if it can."""
    if kind in suite.answers:
        return None
    others = " or ".join(NAMES[other] for other in suite.answers)
    return f"there is nothing to measure on {NAMES[kind]}, only on {others}" if others else NOT_YET
