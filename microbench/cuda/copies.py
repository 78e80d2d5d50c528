"""How fast is memory copied between host and GPU, and within the GPU, by size?

Method: H2D and D2H with pinned memory, both directions at once on two streams, and D2D: rates by events, copies one
after the other. With pageable memory, which the driver first copies to pinned memory of its own, each copy is waited
for, as torch does, and the host's clock times it. Bytes are counted once, as nvbandwidth does, also within the GPU,
where each is read and written (`params.traffic_factor`); of both directions at once their sum is counted.

`latency` is one copy of the smallest size and the wait for it, by the host's clock; beside it stands the line alpha +
size / beta that describes the times of copies in a row. `theoretical_bytes_per_s` is what the PCIe link that NVML
shows right after a large copy carries at most (line coding subtracted, packets' headers not); for D2D it is half of
what the GPU's memory moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from probe.errors import UnavailableError
from probe.kernels.cuda.driver import OutOfMemory
from probe.kernels.cuda.gpu import Gpu
from probe.machine import environment
from probe.microbench import memory
from probe.microbench.collectives.alpha_beta import longest_line
from probe.microbench.cuda import copy_ways
from probe.microbench.cuda.bench import Bench, opened
from probe.microbench.cuda.copy_ways import BOTH, BOTH_FROM_BYTES, DEVICE, WAYS, Buffers, Way
from probe.microbench.harness import Effort, Timing, Variant, measure, paced
from probe.microbench.suite import Context, time_measurement
from probe.results.measurement import Measurement
from probe.units import format_bytes

NAME = "copies"
SIZES = tuple(4**k for k in range(1, 16))  # 4 B to 1 GiB
QUICK = (4, 1 << 16, 1 << 20, 1 << 24, 1 << 26)
LEAST_WINDOWS = 6
LATENCY_SHARE = 0.1  # of the budget
DEVICE_BUFFERS, HOST_BUFFERS = 2, 3  # of the largest size
LINK_FROM_BYTES = 1 << 22  # copies of this size keep the link awake: idle, it runs at a lower rate
BEYOND_L2 = 4  # times the cache: what is left in it of an earlier copy is then little
BEYOND_LINK = 1.05  # times what the link carries: it is not what was used
# Bits a lane and second after line coding: 8 of 10 bits, from the third generation on 128 of 130; the sixth has none.
LANE_BITS_PER_S = {1: 2.0e9, 2: 4.0e9, 3: 8e9 * 128 / 130, 4: 16e9 * 128 / 130, 5: 32e9 * 128 / 130, 6: 64e9}
Times = dict[Way, dict[int, float]]  # best seconds by size


def run(context: Context, gpu: Gpu | None = None) -> Iterator[Measurement]:
    """A measurement a size and way, metric `bandwidth`, in B/s, the largest size first; then `latency` of each way.

    Raises UnavailableError where not even the smallest size can be allocated.
    """
    with opened(context, gpu) as bench, allocated(bench) as buffers:
        sizes = [size for size in sizes_of(context) if size <= buffers.n_bytes]
        flags = () if _right(bench, buffers) else ("wrong-result",)
        link = _Link(context)
        times: Times = {}
        for size, share_s in paced(sizes[::-1], bench.left_s * (1 - LATENCY_SHARE), context.clock, context.report):
            yield from _at_size(bench, buffers, size, share_s, link, times, flags)
        yield from _latencies(bench, buffers, sizes[0], times, flags)


def sizes_of(context: Context) -> tuple[int, ...]:
    """Bytes of a copy: powers of four from 4 B to 1 GiB, or a few of them."""
    return QUICK if context.quick else SIZES


def allocated(bench: Bench) -> Buffers:
    """Buffers for the largest size that can be had, with a warning where that is not the largest of all."""
    wanted = sizes_of(bench.context)
    on_gpu = {size // DEVICE_BUFFERS for size in bench.affordable([DEVICE_BUFFERS * size for size in wanted])}
    on_host = {size // HOST_BUFFERS for size in _on_host([HOST_BUFFERS * size for size in wanted])}
    reason = "too little memory is free"
    for size in reversed(wanted):
        if size in on_gpu and size in on_host:
            try:
                buffers = Buffers(bench.gpu, size)
            except (OutOfMemory, MemoryError) as refused:
                reason = str(refused) or "out of memory"
                continue
            if size < wanted[-1]:
                bench.warn(f"{NAME}: sizes above {format_bytes(size)} are left out: {reason}")
            return buffers
    raise UnavailableError(f"not even {format_bytes(wanted[0])} could be allocated: {reason}")


def _on_host(sizes: Sequence[int]) -> tuple[int, ...]:
    return memory.affordable(tuple(sizes), memory.free_bytes())


def _right(bench: Bench, buffers: Buffers) -> bool:
    """Whether copies copy; a warning where they do not."""
    right = buffers.copies_right()
    if not right:
        bench.warn(f"{NAME}: bytes came back from the GPU other than they were sent; look at `dmesg` for Xid")
    return right


def _at_size(
    bench: Bench, buffers: Buffers, size: int, share_s: float, link: _Link, times: Times, flags: tuple[str, ...]
) -> Iterator[Measurement]:
    """All ways at one size, in turn."""
    made: list[tuple[Way, Variant]] = []
    for way in WAYS:
        if way.direction != BOTH or size >= BOTH_FROM_BYTES:
            with bench.sparing(f"{NAME}: {way.name} {format_bytes(size)}"):
                made.append((way, copy_ways.variant(bench, buffers, way, size)))
    timings = bench.measure([variant for _, variant in made], Effort(share_s, least=LEAST_WINDOWS))
    if size >= LINK_FROM_BYTES:
        link.look()
    for (way, _), timing in zip(made, timings, strict=True):
        directions = 2 if way.direction == BOTH else 1
        times.setdefault(way, {})[size] = timing.seconds.min * size * directions
        params = {**way.params, "size_bytes": size, **_theory(bench, way, size, timing, link)}
        name = f"{way.name} {format_bytes(size)}"
        yield bench.rate_row(NAME, name, "bandwidth", "B/s", timing, params, flags=flags)


def _theory(bench: Bench, way: Way, size: int, timing: Timing, link: _Link) -> dict[str, Any]:
    """What the way between could carry at most, and how much of that it did; nothing where that is not known."""
    rate = 1 / timing.seconds.min
    if way.memory == DEVICE:
        in_l2 = size * DEVICE_BUFFERS < BEYOND_L2 * bench.gpu.l2_bytes
        most = 0.0 if in_l2 else memory_bytes_per_s(bench.gpu) / way.traffic_factor
        return _fraction(rate, most)
    most = (link.bytes_per_s or 0.0) * (2 if way.direction == BOTH else 1)
    if most and rate > BEYOND_LINK * most:
        bench.warn(f"{NAME}: faster than the PCIe link that NVML shows, so the host is reached another way")
        return {}
    return {**link.params, **_fraction(rate, most)}


def _fraction(rate: float, most: float) -> dict[str, Any]:
    return {"theoretical_bytes_per_s": most, "theoretical_fraction": rate / most} if most else {}


def memory_bytes_per_s(gpu: Gpu) -> float:
    """What the GPU's memory could move: two transfers a clock on each line; 0 where the driver does not tell."""
    return 2 * gpu.memory_clock_hz * gpu.bus_width_bits / 8


class _Link:
    """The PCIe link between host and GPU, as NVML last showed it."""

    def __init__(self, context: Context) -> None:
        self._index = context.index
        self.params: dict[str, Any] = {}
        self.bytes_per_s: float | None = None

    def look(self) -> None:
        """Ask now; what NVML does not say stays as it was, and a link is never slower than it was seen."""
        found = None if self._index is None else environment.nvml_gpu(self._index)
        if found is None or not found.pcie_generation or not found.pcie_width:
            return
        rate = link_bytes_per_s(found.pcie_generation, found.pcie_width)
        if rate is not None and rate >= (self.bytes_per_s or 0.0):
            self.bytes_per_s = rate
            self.params = {"pcie_generation": found.pcie_generation, "pcie_width": found.pcie_width}


def link_bytes_per_s(generation: int, lanes: int) -> float | None:
    """What a PCIe link carries in one direction after line coding; None for a generation not known here."""
    lane = LANE_BITS_PER_S.get(generation)
    return None if lane is None else lane * lanes / 8


def _latencies(
    bench: Bench, buffers: Buffers, size: int, times: Times, flags: tuple[str, ...]
) -> Iterator[Measurement]:
    """One copy of the smallest size and the wait for it, and the line through the times of all sizes."""
    made: list[tuple[Way, Variant]] = []
    for way in WAYS:
        if way.direction != BOTH:
            with bench.sparing(f"{NAME}: latency {way.name}"):
                variant = copy_ways.host_variant(bench, way.name, buffers.waited(way, size), 1)
                made.append((way, variant))
    if not made:
        return
    effort = Effort(bench.left_s, least=LEAST_WINDOWS)
    timings = measure([variant for _, variant in made], effort, bench.context.clock)
    for (way, _), timing in zip(made, timings, strict=True):
        params = {**way.params, "clock": "host", "size_bytes": size, **_line(times.get(way, {}))}
        name = f"latency {way.name}"
        yield time_measurement(NAME, name, "latency", timing, params, flags=flags)


def _line(times: dict[int, float]) -> dict[str, Any]:
    """Fixed cost and bandwidth of copies in a row; nothing where no line describes them."""
    sizes = sorted(times)
    line = longest_line(sizes, [times[size] for size in sizes]) if len(sizes) > 1 else None
    if line is None:
        return {}
    fit = {
        "from_bytes": sizes[0],
        "to_bytes": sizes[line.sizes - 1],
        "rms_error_fraction": line.rms_error_fraction,
        "worst_error_fraction": line.worst_error_fraction,
    }
    return {"alpha_s": line.alpha_s, "beta_bytes_per_s": line.beta_bytes_per_s, "fit": fit}
