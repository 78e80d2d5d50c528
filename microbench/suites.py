"""Which suites are there, what does each answer, on what, and how much of the time does it get?

The times add up to well under 20 s (quick) and 3 min (full); what remains is for importing torch and touching memory.
"""

from __future__ import annotations

from probe.device import DeviceKind
from probe.microbench import (
    attention,
    cache_latency,
    collectives,
    copies,
    launch,
    matmul,
    memory_bandwidth,
    saxpy,
    storage,
    tlb,
    vector_loads,
)
from probe.microbench.suite import Suite

_BOTH: tuple[DeviceKind, ...] = ("cpu", "cuda", "rocm")
_GPU: tuple[DeviceKind, ...] = ("cuda", "rocm")

NOT_YET = "not implemented yet"

_ALL = (
    Suite("cache_latency", "How long does a dependent load take, by data size?", ("cpu",), cache_latency.run, 2.2, 26),
    Suite("memory_bandwidth", "How fast do arrays stream, by size and threads?", _BOTH, memory_bandwidth.run, 2.2, 30),
    Suite("vector_loads", "Do wider loads move more bytes?", ("cpu",), vector_loads.run, 0.8, 8),
    Suite("saxpy", "What does y = a x + y cost, by implementation?", ("cpu",), saxpy.run, 0.6, 8),
    Suite("matmul", "What rate do matrix products reach, by dtype?", _BOTH, matmul.run, 2.4, 36),
    Suite("attention", "What rate does attention reach, by implementation?", ("cpu",), attention.run, 1.0, 16),
    Suite("register_banks", "What do register bank conflicts cost?", _GPU),
    Suite("shared_banks", "What do shared memory bank conflicts cost?", _GPU),
    Suite("tlb", "How far do the TLBs reach?", ("cpu",), tlb.run, 0.6, 8),
    Suite("launch", "What does dispatching one eager operator cost?", _BOTH, launch.run, 0.4, 6),
    Suite("copies", "How fast is memory copied, by size?", ("cpu",), copies.run, 0.4, 6),
    Suite("collectives", "How fast do ranks exchange data?", _BOTH, collectives.run, 3.0, 16),
    Suite("storage", "What do loaders and checkpoints get from a path?", _BOTH, storage.run, 0.5, 10),
)
SUITES: dict[str, Suite] = {suite.name: suite for suite in _ALL}


def reason_against(suite: Suite, kind: DeviceKind) -> str | None:
    """Why `suite` cannot be run on a device of `kind`; None if it can."""
    if suite.run is None:
        return NOT_YET
    if kind not in suite.kinds:
        return f"{NOT_YET} on {kind}"
    return None
