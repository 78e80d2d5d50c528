"""A GPU whose memory has known rates: stand-ins for the streaming kernels, on the fake driver.

L2 and DRAM each have a rate; what a launch has under way over the latency bounds it too (Little's law). L1 and shared
memory deliver so many bytes a clock and SM. Only the ends of arrays are really computed.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda

from probe.errors import UnavailableError
from probe.kernels.cuda import loads, nvrtc, streams
from probe.machine.device import Device
from probe.microbench.suite import Context

MIB, GIB = 1 << 20, 1 << 30
L2_BYTES = 50 * MIB
SM_COUNT = 132
CLOCK_HZ = 1.98e9
U32, U64 = ctypes.c_uint32, ctypes.c_uint64
ENDS = 4096  # elements at either end of an array that exist
DEVICE = Device("cuda", "NVIDIA H100 80GB HBM3", compute_capability="9.0", sm_count=SM_COUNT, l2_bytes=L2_BYTES)


@dataclass
class Model:
    """The machine: rates in B/s, latency in s."""

    dram: float = 3e12
    l2: float = 8e12
    latency_s: float = 600e-9
    bytes_per_clock: float = 128.0
    saxpy_s: float = 1e-4  # of one call, whatever its size
    broken: bool = False  # saxpy computes nothing
    sizes: tuple[int, ...] = ()  # footprints of loads, stores and saxpy that there will be, in bytes
    launched: list[tuple[str, int]] = field(default_factory=list)  # name, blocks

    def seconds(self, n_bytes: float, footprint: float, under_way: float) -> float:
        """What it takes to move `n_bytes` over a footprint, with so many bytes under way."""
        rate = self.l2 if footprint <= L2_BYTES / 2 else self.dram
        return n_bytes / min(rate, under_way / self.latency_s)

    def stream(self, kind: streams.Stream) -> Any:
        """The stand-in for one of STREAM's kernels."""
        first = 1 + kind.reads + kind.scaled

        def run(grid: Any, block: Any, args: Any) -> float:
            tiles, _, iterations = (args.value(first + i, U32) for i in range(3))
            self.launched.append((kind.name, grid[0]))
            tile = streams.tile_bytes(block[0])
            n_bytes = grid[0] * iterations * tile * kind.arrays
            return self.seconds(n_bytes, tiles * tile * kind.arrays, grid[0] * tile)

        return run

    def access(self, name: str) -> Any:
        """The stand-in for loads or stores; their width is the one with which the tiles fill one of `sizes`."""

        def run(grid: Any, block: Any, args: Any) -> float:
            tiles, _, iterations = (args.value(2 + i, U32) for i in range(3))
            self.launched.append((name, grid[0]))
            if tiles == 1:
                return self.near(grid[0] * iterations * loads.SHARED_BYTES)
            [(size, width)] = [(s, w) for s in self.sizes for w in loads.WIDTHS if loads.tile_bytes(w) * tiles == s]
            n_bytes = grid[0] * iterations * loads.tile_bytes(width)
            return self.seconds(n_bytes, size, grid[0] * loads.tile_bytes(width))

        return run

    def near(self, n_bytes: float) -> float:
        """From every SM's own memory."""
        return n_bytes / (self.bytes_per_clock * CLOCK_HZ * SM_COUNT)

    def saxpy(self, grid: Any, block: Any, args: Any) -> float:
        """y = a x + y at both ends; the vectors' width is the one with which both arrays have one of `sizes`."""
        a, count = args.value(2, ctypes.c_float), args.value(3, U64)
        for first in () if self.broken else self.ends(count):
            x, y = (ends_at(args.value(i, U64) + 4 * first) for i in (1, 0))
            y += np.float32(a) * x
        return self.saxpy_s

    def ends(self, count: int) -> set[int]:
        """The elements from which on saxpy computes."""
        [elements] = [s // 8 for s in self.sizes for lanes in streams.LANES if count * lanes * 8 == s]
        return {0, elements - ENDS}

    def noise(self, grid: Any, block: Any, args: Any) -> float:
        """Numbers in [1, 2) at both ends."""
        count = args.value(1, U64)
        rng = np.random.default_rng(args.value(2, U32))
        address = args.value(0, U64)
        for size in self.sizes:  # the ends of all vectors that will be checked
            for first in {0, size // 8 - ENDS} if size <= 8 * count else ():
                ends_at(address + 4 * first)[:] = 1 + rng.random(ENDS, np.float32)
        return 4 * count / self.dram

    def fake(self, **more: Any) -> FakeCuda:
        """A driver with this machine."""
        kernels = {kind.name: self.stream(kind) for kind in streams.STREAMS}
        kernels |= {name: self.access(name) for name in ("load", "store")}
        kernels |= {
            "load_shared": lambda grid, block, args: self.near(grid[0] * args.value(2, U32) * loads.SHARED_BYTES)
        }
        kernels |= {"saxpy": self.saxpy, "noise": self.noise}
        needs_nvrtc()
        given = {"memory_bytes": 64 * GIB, "launch_s": 1e-6, "attributes": {38: L2_BYTES}} | more
        return FakeCuda(kernels, **given)


def ends_at(address: int) -> np.ndarray[Any, Any]:
    """The float32 values from an address on."""
    return np.frombuffer((ctypes.c_float * ENDS).from_address(address), np.float32)


def needs_nvrtc() -> None:
    """Skips the test where nothing can be compiled."""
    try:
        nvrtc.compiler_for("sm_90a")
    except UnavailableError as reason:
        pytest.skip(str(reason))


def context(fake: FakeCuda, *, quick: bool = False, budget_s: float = 5.0) -> Context:
    """A suite's context on the fake's clock."""
    return Context(DEVICE, budget_s, quick=quick, index=0, clock=fake.clock)
