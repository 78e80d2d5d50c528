"""Where do a GPU's arrays lie, how large are they beside its L2 cache, and how do blocks go through them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from probe.errors import UnavailableError
from probe.kernels.cuda import streams
from probe.kernels.cuda.driver import DeviceLost, OutOfMemory
from probe.kernels.cuda.function import Function
from probe.kernels.cuda.gpu import Gpu
from probe.kernels.cuda.kernel import Kernel
from probe.kernels.cuda.memory import Memory
from probe.kernels.cuda.nvrtc import CompileError
from probe.microbench import memory
from probe.microbench.cuda.bench import SAFE_SHARE, Bench
from probe.units import format_bytes

FAR_BEYOND = 16  # times L2: at most a sixteenth of what is read can still lie there from the pass before
LEAST_DRAM_BYTES = 256 * memory.MIB
Key = TypeVar("Key")


def in_l2(gpu: Gpu) -> int:
    """Bytes that lie clearly in L2: a power of two, at most half of it, for each half may serve its own SMs."""
    return 1 << ((max(gpu.l2_bytes, memory.MIB) // 2).bit_length() - 1)


def far_beyond_l2(gpu: Gpu) -> int:
    """Bytes that lie clearly in DRAM, a power of two; fewer where the free memory has no room for them."""
    size = 1 << (max(LEAST_DRAM_BYTES, FAR_BEYOND * gpu.l2_bytes) - 1).bit_length()
    while size > SAFE_SHARE * gpu.free_bytes() and size > memory.BEYOND_CACHES * gpu.l2_bytes:
        size //= 2
    return size


def level_of(size_bytes: int, gpu: Gpu) -> str | None:
    """L2 or DRAM, where a footprint lies clearly in one of them."""
    if size_bytes <= in_l2(gpu):
        return "L2"
    return "DRAM" if size_bytes >= memory.BEYOND_CACHES * gpu.l2_bytes else None


@dataclass(frozen=True)
class Tour:
    """How `blocks` blocks go through an array of `tiles` tiles: each `iterations` of them, round the end.

    `n_bytes` is what all blocks together touch of it, tiles gone through twice counted twice.
    """

    blocks: int
    tiles: int
    tile_bytes: int
    iterations: int

    @property
    def n_bytes(self) -> int:
        """Bytes of one array that are loaded or stored in one launch."""
        return self.blocks * self.iterations * self.tile_bytes

    @property
    def arguments(self) -> tuple[np.uint32, np.uint32, np.uint32]:
        """The kernels' last three: tiles, step, iterations."""
        return np.uint32(self.tiles), np.uint32(self.blocks % self.tiles), np.uint32(self.iterations)


def tour(array_bytes: int, tile_bytes: int, blocks: int, least_bytes: int = 0) -> Tour:
    """Through all of an array at least once, and as often as `least_bytes` in one launch take."""
    tiles = max(1, array_bytes // tile_bytes)
    passes = max(1, least_bytes // (tiles * tile_bytes))
    return Tour(blocks, tiles, tile_bytes, -(-passes * tiles // blocks))


def apart(blocks: int, array_bytes: int, tile_bytes: int, gpu: Gpu) -> int:
    """At most `blocks`, the same number on every SM, so many that each has a tile of its own at any time.

    Requests of several SMs for one line may be answered together, which is no bandwidth of L2.
    """
    tiles = max(1, array_bytes // tile_bytes)
    if blocks <= tiles:
        return blocks
    return tiles // gpu.sm_count * gpu.sm_count or tiles


def room(
    bench: Bench, suite: str, sizes: Sequence[int], pieces: int = 1, *, shared: bool = False
) -> tuple[list[Memory], list[int]]:
    """`pieces` of memory for the largest of `sizes` (descending) there is room for, and the sizes that fit.

    Each has that size, or they share it. At most a quarter of the free memory together. What is left out is said in a
    warning; UnavailableError where nothing fits.
    """
    of_one = {size: size // pieces if shared else size for size in sizes}
    fitting = bench.affordable([pieces * each for each in of_one.values()])
    for size in sizes:
        taken: list[Memory] = []
        try:
            if pieces * of_one[size] in fitting:
                for _ in range(pieces):
                    taken.append(bench.gpu.allocate(of_one[size]))
                return taken, [s for s in sizes if s <= size]
        except OutOfMemory:
            for piece in taken:
                piece.close()
        bench.warn(f"{suite}: {format_bytes(size)} left out: too little of the GPU's memory is free")
    raise UnavailableError("too little of the GPU's memory is free; end other processes on it")


def fill(gpu: Gpu, noise: Function, into: Memory, seed: int) -> None:
    """Random float32 in [1, 2): zeros would switch fewer transistors than any data of yours."""
    blocks = max(1, noise.blocks_per_sm(streams.THREADS)) * gpu.sm_count
    noise.launch(blocks, streams.THREADS, into, np.uint64(into.n_bytes // 4), np.uint32(seed))


def usable(bench: Bench, suite: str, kernels: Mapping[Key, Kernel]) -> dict[Key, Function]:
    """Those of `kernels` that compile, prove and load; a warning for each other, UnavailableError where none does."""
    found: dict[Key, Function] = {}
    refused: list[str] = []
    for key, kernel in kernels.items():
        try:
            found[key] = bench.gpu.load(kernel)
        except DeviceLost:
            raise
        except (UnavailableError, CompileError) as reason:
            refused.append(str(reason))
    if kernels and not found:
        raise UnavailableError(refused[0])
    for sentence in dict.fromkeys(refused):
        bench.warn(f"{suite}: {sentence}")
    return found


def most_blocks(gpu: Gpu, functions: Sequence[Function], threads: int) -> int:
    """Blocks of `threads` of which all SMs together hold as many of any of `functions`, so that all run alike."""
    return max(1, min(function.blocks_per_sm(threads) for function in functions)) * gpu.sm_count


def placed(blocks: int, threads: int, gpu: Gpu) -> dict[str, int | float]:
    """The params that say how many threads worked and where: in all, and warps on each SM."""
    warps = blocks * threads / 32 / gpu.sm_count
    return {
        "threads": blocks * threads,
        "blocks": blocks,
        "threads_per_block": threads,
        "warps_per_sm": int(warps) if warps == int(warps) else round(warps, 2),
    }
