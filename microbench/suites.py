"""Which suites are there, what does each answer, on what, and how much of the time does it get?

On a CPU the times add up to well under 20 s (quick) and 3 min (full), on a GPU to 45 s and 5 min; what remains is for
importing torch, compiling kernels and touching memory.
"""

from __future__ import annotations

from collections.abc import Mapping

from probe.machine.device import DeviceKind
from probe.microbench import attention, launch, matmul, torch_bandwidth
from probe.microbench.collectives import collectives
from probe.microbench.cpu import cache_latency, copies, memory_bandwidth, saxpy, tlb, vector_loads
from probe.microbench.cuda import attention as cuda_attention
from probe.microbench.cuda import cache_latency as cuda_cache_latency
from probe.microbench.cuda import copies as cuda_copies
from probe.microbench.cuda import instructions, register_banks, shared_banks
from probe.microbench.cuda import launch as cuda_launch
from probe.microbench.cuda import memory_bandwidth as cuda_memory_bandwidth
from probe.microbench.cuda import saxpy as cuda_saxpy
from probe.microbench.cuda import tlb as cuda_tlb
from probe.microbench.cuda import vector_loads as cuda_vector_loads
from probe.microbench.storage import storage
from probe.microbench.suite import Answer, Suite

# In the order in which they run. `instructions` is the last on a GPU: a fault there would end what follows.
_ALL = (
    Suite(
        "cache_latency",
        "How long does a dependent load take, by data size?",
        {"cpu": Answer(cache_latency.run, 2.2, 26), "cuda": Answer(cuda_cache_latency.run, 4, 24)},
    ),
    Suite(
        "memory_bandwidth",
        "How fast do arrays stream, by size and threads?",
        {
            "cpu": Answer(memory_bandwidth.run, 2.2, 30),
            "cuda": Answer(cuda_memory_bandwidth.run, 3, 25),
            "rocm": Answer(torch_bandwidth.run, 2.2, 30),
        },
    ),
    Suite(
        "vector_loads",
        "Do wider loads move more bytes?",
        {"cpu": Answer(vector_loads.run, 0.8, 8), "cuda": Answer(cuda_vector_loads.run, 1.5, 12)},
    ),
    Suite(
        "saxpy",
        "What does y = a x + y cost, by implementation?",
        {"cpu": Answer(saxpy.run, 0.6, 8), "cuda": Answer(cuda_saxpy.run, 3, 25)},
    ),
    Suite(
        "matmul",
        "What rate do matrix products reach, by dtype?",
        {
            "cpu": Answer(matmul.run, 2.4, 36),
            "cuda": Answer(matmul.run, 5, 40),
            "rocm": Answer(matmul.run, 5, 40),
        },
    ),
    Suite(
        "attention",
        "What rate does attention reach, by implementation?",
        {"cpu": Answer(attention.run, 1.0, 16), "cuda": Answer(cuda_attention.run, 4, 35)},
    ),
    Suite("register_banks", "What do register bank conflicts cost?", {"cuda": Answer(register_banks.run, 3, 25)}),
    Suite("shared_banks", "What do shared memory bank conflicts cost?", {"cuda": Answer(shared_banks.run, 1.5, 8)}),
    Suite(
        "tlb",
        "How far do the TLBs reach?",
        {"cpu": Answer(tlb.run, 0.6, 8), "cuda": Answer(cuda_tlb.run, 2, 12)},
    ),
    Suite(
        "launch",
        "What does starting one operator or kernel cost?",
        {
            "cpu": Answer(launch.run, 0.4, 6),
            "cuda": Answer(cuda_launch.run, 1.5, 10),
            "rocm": Answer(launch.run, 0.4, 6),
        },
    ),
    Suite(
        "copies",
        "How fast is memory copied, by size?",
        {"cpu": Answer(copies.run, 0.4, 6), "cuda": Answer(cuda_copies.run, 2, 20)},
    ),
    Suite("instructions", "How long do instructions take, and how many run at once?",
          {"cuda": Answer(instructions.run, 3, 15)}),
    Suite(
        "collectives",
        "How fast do ranks exchange data?",
        {
            "cpu": Answer(collectives.run, 3.0, 16),
            "cuda": Answer(collectives.run, 3.0, 16),
            "rocm": Answer(collectives.run, 3.0, 16),
        },
    ),
    Suite(
        "storage",
        "What do loaders and checkpoints get from a path?",
        {kind: Answer(storage.run, 0.5, 10) for kind in ("cpu", "cuda", "rocm")},
    ),
)  # fmt: skip
NOT_YET = "not implemented yet"
SUITES: dict[str, Suite] = {suite.name: suite for suite in _ALL}

NAMES: Mapping[DeviceKind, str] = {"cpu": "a CPU", "cuda": "a CUDA GPU", "rocm": "a ROCm GPU", "unknown": "this device"}


def reason_against(suite: Suite, kind: DeviceKind) -> str | None:
    """Why `suite` cannot be run on a device of `kind`; None if it can."""
    if kind in suite.answers:
        return None
    others = " or ".join(NAMES[other] for other in suite.answers)
    return f"there is nothing to measure on {NAMES[kind]}, only on {others}" if others else NOT_YET
