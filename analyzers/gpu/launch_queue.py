"""Was the device waiting for its launches, or were launches waiting for the device?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from probe.trace import Int32s, Mask, Trace

# A kernel that starts this soon after its launch call began did not queue: the call itself and the way to the device
# take a few microseconds on every device for which gpu-benches has results (1.6 to 2.6 µs back to back).
PROMPT_NS = 10_000


def prompt_starts(trace: Trace) -> tuple[Mask, Mask]:
    """Per kernel whether it started right after its launch, and whether its launch is recorded at all, [kernels]."""
    kernels, calls = trace.kernels, trace.runtime_calls
    known = kernels.launch >= 0
    delay = np.full(len(kernels), np.iinfo(np.int64).max)
    delay[known] = kernels.start_ns[known] - calls.start_ns[kernels.launch[known]]
    return delay <= PROMPT_NS, known


def empty_queue_fractions(trace: Trace, of_kernel: Int32s, groups: int) -> npt.NDArray[np.float64]:
    """Per group the share of its kernels that found the queue empty; NaN where no launch is recorded."""
    prompt, known = prompt_starts(trace)
    counted = known & (of_kernel >= 0)
    total = np.bincount(of_kernel[counted], minlength=groups)
    empty = np.bincount(of_kernel[counted & prompt], minlength=groups)
    fractions = np.full(groups, np.nan)
    np.divide(empty, total, out=fractions, where=total > 0)
    return fractions


def queue_text(fraction: float) -> tuple[str, ...]:
    """The state of the queue as evidence; nothing where it is not known."""
    if np.isnan(fraction):
        return ()
    return (f"the launch queue was empty for {fraction:.0%} of its kernels",)
