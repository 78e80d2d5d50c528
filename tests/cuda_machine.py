"""What would a GPU with known caches, TLBs and SMs answer to the chases? Python stand-ins for the kernels of chase.cu.

The links are written and followed in the fake driver's memory, so a chase that is not one cycle through all of its
lines fails; how long a hop takes is the model's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fake_cuda import L2_BYTES, SM_COUNT, Arguments, FakeCuda, Kernel, Three

from probe.kernels.cuda import chase

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
LINE_BYTES = 128
PAGE_BYTES = 2 * MIB
TICK_NS = 32  # of the GPU's timer


class Chain:
    """Nodes in the order in which they are linked, and how many pages they lie on."""

    def __init__(self, nodes: list[int], pages: int) -> None:
        self.nodes, self.pages, self.n = nodes, pages, len(nodes)
        self.place = {node: i for i, node in enumerate(nodes)}


@dataclass
class Machine:
    """Latencies in cycles; `tlbs` are (entries for pages of 2 MiB, cycles that a miss adds)."""

    clock_hz: float = 1.5e9
    l1_bytes: int = 128 * KIB
    l2_bytes: int = 1 * MIB
    l1: float = 33.0
    shared: float = 23.0
    near: float = 200.0
    far: float = 200.0  # of lines in the other partition
    dram: float = 600.0
    tlbs: tuple[tuple[int, float], ...] = ()
    sm_count: int = 12
    unreached: tuple[int, ...] = ()  # SMs that no block finds
    jitter: Callable[[int], float] = lambda launch: 1.0  # factor of the latency at each launch
    timer_runs: bool = True
    chains: list[Chain] = field(default_factory=list)
    written_bytes: int = 0  # by the last fill, until a chase
    launches: int = 0

    def fake(self, **more: Any) -> FakeCuda:
        """The driver of this machine."""
        kernels: dict[str, Kernel] = {
            "link_nodes": self.link_nodes,
            "chase_l1": lambda grid, block, args: self.chase(block, args, through_l1=True),
            "chase_l2": lambda grid, block, args: self.chase(block, args, through_l1=False),
            "chase_shared": self.chase_shared,
            "line_by_sm": self.line_by_sm,
        }
        attributes = {SM_COUNT: self.sm_count, L2_BYTES: self.l2_bytes, 13: int(self.clock_hz / 1e3)}
        return FakeCuda(kernels, attributes=attributes, fill_s=self.fill_s, **more)

    def fill_s(self, n_bytes: int) -> float:
        """A fill overwrites L2."""
        self.written_bytes = n_bytes
        return n_bytes / 2e12

    def link_nodes(self, grid: Three, block: Three, args: Arguments) -> float:
        """Really links them."""
        base, n = args.value(0, ctypes.c_uint64), args.value(2, ctypes.c_uint32)
        chain = args.array(1, np.uint64, n) + np.uint64(base)
        assert len(np.unique(chain // LINE_BYTES)) == n, "two nodes in one line"
        for node, following in zip(chain.tolist(), np.roll(chain, -1).tolist(), strict=True):
            _word(node).value = following
        self.chains.append(Chain(chain.tolist(), len(np.unique(chain // PAGE_BYTES))))
        return 1e-5

    def chase(self, block: Three, args: Arguments, *, through_l1: bool) -> float:
        """Follows the chain that `at` is in."""
        at, iterations = _word(args.value(1, ctypes.c_uint64)), args.value(4, ctypes.c_uint32)
        chain = next(chain for chain in reversed(self.chains) if at.value in chain.place)
        place = chain.place[at.value]
        for hop in range(3):  # the memory still holds what was linked
            assert _word(chain.nodes[(place + hop) % chain.n]).value == chain.nodes[(place + hop + 1) % chain.n]
        warm = args.value(3, ctypes.c_uint32)
        starts = set(args.array(0, np.uint64, block[0]).tolist())
        assert all(start in chain.place for start in starts), "a thread that warms starts elsewhere"
        everything = warm * block[0] * chase.WARM_HOPS >= chain.n and len(starts) == block[0]
        hops = iterations * chase.HOPS
        at.value = chain.nodes[(place + chase.HOPS + hops) % chain.n]
        return self.stamped(args, 2, hops * self.latency(chain, through_l1=through_l1, warmed=everything))

    def latency(self, chain: Chain, *, through_l1: bool, warmed: bool) -> float:
        """Cycles of a hop; half a hit where neither was warmed nor L2 overwritten."""
        size = chain.n * LINE_BYTES
        flushed, self.written_bytes = self.written_bytes >= 2 * self.l2_bytes, 0
        l2 = (self.near + self.far) / 2
        if not warmed:
            return self.dram if flushed else (l2 + self.dram) / 2
        if through_l1 and size <= self.l1_bytes:
            return self.l1
        hit = min(1.0, self.l2_bytes / size)
        missed = sum(cost for entries, cost in self.tlbs if chain.pages > entries)
        return hit * l2 + (1 - hit) * self.dram + missed

    def chase_shared(self, grid: Three, block: Three, args: Arguments) -> float:
        """Checks that the offsets are all words once."""
        n = args.value(1, ctypes.c_uint32)
        assert sorted(args.array(0, np.uint32, n).tolist()) == [4 * i for i in range(n)]
        return self.stamped(args, 2, args.value(3, ctypes.c_uint32) * chase.HOPS * self.shared)

    def line_by_sm(self, grid: Three, block: Three, args: Arguments) -> float:
        """Lines of even number are near to SMs of even number."""
        sm, n, iterations = (args.value(i, ctypes.c_uint32) for i in (2, 1, 6))
        assert args.array(3, np.uint32, 1)[0] == 0, "claimed before"
        if sm in self.unreached:
            return 1e-6
        args.array(3, np.uint32, 1)[0] = 1
        cycles = args.array(4, np.uint64, n)
        for i, line in enumerate(args.array(0, np.uint64, n).tolist()):
            assert _word(line).value == line, "a line does not hold its own address"
            near = (line // LINE_BYTES + sm) % 2 == 0
            cycles[i] = int(iterations * chase.HOPS * ((self.near if near else self.far) + sm))
        return self.stamped(args, 5, float(cycles.sum()))

    def stamped(self, args: Arguments, index: int, cycles: float) -> float:
        """Writes the stamp; the seconds it took."""
        self.launches += 1
        cycles = round(cycles * self.jitter(self.launches))
        ns = round(cycles / self.clock_hz * 1e9) // TICK_NS * TICK_NS if self.timer_runs else 0
        args.array(index, np.uint64, 4)[:] = (1000, 1000 + cycles, 5_000_000, 5_000_000 + ns)
        return cycles / self.clock_hz


def _word(address: int) -> ctypes.c_uint64:
    """Eight bytes of the fake's memory."""
    return ctypes.c_uint64.from_address(address)
