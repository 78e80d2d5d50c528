"""How fast does a device stream through large arrays, measured with torch's own operators?

For CUDA devices, and for CPUs on which no machine code can be run. The STREAM kernels as torch operators with `out=`,
on random float32 data, at sizes well above the last-level cache; bytes counted as STREAM counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from probe.kernels.cpu.loops import STREAMS
from probe.microbench import memory
from probe.microbench.harness import Effort, Variant, measure, paced, repeats_for
from probe.microbench.suite import Context, rate_measurement
from probe.microbench.timers import Timer, timer_for, torch_device
from probe.results.measurement import Measurement
from probe.units import format_bytes

NAME = "memory_bandwidth"
SCALAR = 3.0
LARGEST_BYTES = 4 << 30
FREE_SHARE = 0.25
WINDOW_S = 1e-3
LEAST_WINDOWS = 6


def run(context: Context, timer: Timer | None = None) -> Iterator[Measurement]:
    """One measurement a size and kernel, metric `bandwidth`, in B/s; the largest size first."""
    timer = timer or timer_for(context)
    sizes = usable_sizes(context)
    if not sizes:
        context.warnings.append("memory_bandwidth: too little memory is free to exceed the caches")
    for size, budget_s in paced(sizes, context.budget_s, context.clock, context.report):
        yield from measure_size(context, timer, size, budget_s)


def usable_sizes(context: Context) -> tuple[int, ...]:
    """Footprints beyond the last-level cache that fit in a safe share of the free memory, largest first."""
    beyond = max(memory.MIB, 4 * (context.device.l2_bytes or memory.total_cache_bytes(context.device)))
    first = 1 << (beyond - 1).bit_length()
    wanted = [first << i for i in range(3) if first << i <= max(first, LARGEST_BYTES)]
    free = _free_bytes(context)
    return tuple(size for size in reversed(wanted) if free is None or size <= FREE_SHARE * free)


def _free_bytes(context: Context) -> int | None:
    if context.index is None:
        return memory.free_bytes()
    import torch

    free, _ = torch.cuda.mem_get_info(context.index)
    return int(free)


def measure_size(context: Context, timer: Timer, size: int, budget_s: float) -> Iterator[Measurement]:
    """The four kernels at a footprint of `size` bytes, interleaved."""
    import torch

    where = torch_device(context)
    generator = torch.Generator(where).manual_seed(0)
    arrays = torch.rand(3, size // 8, generator=generator, device=where)  # the two-array kernels' elements
    variants = []
    for kind in STREAMS:
        elements = size // kind.accesses // 4
        call = operator(kind.name, arrays[:, :elements])
        calls = repeats_for(lambda n, call=call: timer.window(call, n), WINDOW_S)  # type: ignore[misc]
        variants.append(
            Variant(
                kind.name,
                lambda call=call, calls=calls: timer.window(call, calls),  # type: ignore[misc]
                elements * 4 * kind.accesses * calls,
            )
        )
    effort = Effort(budget_s, least=LEAST_WINDOWS)
    for timing in measure(variants, effort, context.clock):
        params = {
            "kernel": timing.name,
            "size_bytes": size,
            "threads": torch.get_num_threads() if context.index is None else None,
            "bytes_counted": "STREAM",
        }
        name = f"{timing.name} {format_bytes(size)}"
        proof = {"origin": f"torch operators, float32, {torch.__version__}"}
        yield rate_measurement(NAME, name, "bandwidth", "B/s", timing, params, proof=proof)


def operator(kernel: str, arrays: Any) -> Callable[[], object]:
    """A call of torch that does what STREAM's `kernel` does, without allocating."""
    import torch

    destination, x, y = arrays
    if kernel == "copy":
        return lambda: destination.copy_(x)
    if kernel == "scale":
        return lambda: torch.mul(x, SCALAR, out=destination)
    if kernel == "add":
        return lambda: torch.add(x, y, out=destination)
    return lambda: torch.add(x, y, alpha=SCALAR, out=destination)
