"""How does one thread walk a closed chain of addresses in a GPU's memory, with the caches warmed by all of its block?

A node is the first eight bytes of a 128-byte line, with the address of the next node. One node a line, because a line
has one tag and is fetched in sectors of 32 bytes: two nodes in a line would share what was brought for one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from probe.kernels.cuda import chase
from probe.kernels.cuda.function import Function
from probe.kernels.cuda.memory import Memory
from probe.microbench.cuda.bench import Bench
from probe.microbench.cuda.in_kernel import InKernel, Launch
from probe.microbench.harness import Variant

LINE_BYTES = 128  # of L1 and L2 in every architecture from Volta to Blackwell
LINK_THREADS, LINK_BLOCKS = 256, 1024
Offsets = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Chain:
    """A linked chain: `threads` of a block stand at `starts`, evenly apart, and reach all nodes in `warm` iterations.

    `at` is where the timed walk goes on.
    """

    nodes: int
    starts: Memory
    at: Memory
    threads: int
    warm: int

    def launch(self, function: Function) -> Launch:
        """All threads walk their part, which warms the caches, then one goes on from `at`, timed."""
        return lambda iterations, stamps: self._launch(function, self.threads, self.warm, iterations, stamps)

    def cold_launch(self, function: Function, flush: Callable[[], None]) -> Launch:
        """One thread goes on from `at` after a `flush` of the caches."""

        def launch(iterations: int, stamps: Memory) -> None:
            flush()
            self._launch(function, 1, 0, iterations, stamps)

        return launch

    def close(self) -> None:
        """Frees what belongs to the walk; the nodes stay where they are."""
        self.starts.close()
        self.at.close()

    def _launch(self, function: Function, threads: int, warm: int, iterations: int, stamps: Memory) -> None:
        counts = (np.uint32(warm), np.uint32(iterations))
        function.launch(1, threads, self.starts, self.at, stamps, *counts)


def random_order(lines: int, generator: np.random.Generator, stride_bytes: int = LINE_BYTES) -> Offsets:
    """Offsets of `lines` places, `stride_bytes` apart, in the random order of one cycle through all of them."""
    order: Offsets = generator.permutation(lines).astype(np.uint64) * np.uint64(stride_bytes)
    return order


def linked(bench: Bench, memory: Memory, offsets: Offsets) -> Chain:
    """Link the nodes at `offsets` of `memory` in that order, the last one to the first."""
    nodes = len(offsets)
    with bench.gpu.allocate(offsets.nbytes) as order:
        order.write(offsets)
        blocks = min(LINK_BLOCKS, -(-nodes // LINK_THREADS))
        link = bench.gpu.load(chase.LINK)
        link.launch(blocks, LINK_THREADS, np.uint64(memory.address), order, np.uint32(nodes))
        bench.gpu.synchronise()
    threads = max(1, min(chase.MOST_THREADS, nodes // chase.WARM_HOPS))
    starts, at = bench.gpu.allocate(8 * threads), bench.gpu.allocate(8)
    places = offsets[np.arange(threads) * nodes // threads] + np.uint64(memory.address)
    starts.write(places)
    at.write(places[:1])
    return Chain(nodes, starts, at, threads, warm=-(-nodes // (threads * chase.WARM_HOPS)))


def walk(bench: Bench, chain: Chain, function: Function, name: str, *, cold: bool = False) -> tuple[InKernel, Variant]:
    """Windows of the walk, one unit of work a hop; what they counted is in the first of the two."""
    timed = InKernel(bench)
    launch = chain.cold_launch(function, bench.flush) if cold else chain.launch(function)
    return timed, timed.variant(name, launch, chase.HOPS)
