"""How is one pattern of reading repeated in windows? Blocks of a file or whole small files, by one or several threads.

A cold window drops what it will read from the page cache first, outside the time measured, and remembers the largest
fraction that would not go.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from probe.microbench.harness import Clock, Variant, repeats_for
from probe.microbench.storage import file as storage_file
from probe.microbench.storage.file import Target

STEADY_BYTES = 32 << 20  # read-ahead starts small and ends in vain: shorter sequential windows are mostly that
Cache = Literal["cold", "warm", "direct"]
Order = Literal["sequential", "random"]


@dataclass
class Hands:
    """Who reads, by which clock, and in what random order."""

    pool: ThreadPoolExecutor
    clock: Clock
    generator: np.random.Generator = field(default_factory=np.random.default_rng)

    def seconds(self, tasks: Sequence[Callable[[], object]]) -> float:
        """From the first task's start to the last one's end, each in a thread of its own; one alone is called here."""
        start = self.clock()
        if len(tasks) == 1:
            tasks[0]()
        else:
            for future in [self.pool.submit(task) for task in tasks]:
                future.result()
        return self.clock() - start


@dataclass
class BlockReads:
    """Blocks of one file, in order (each reader its own part) or at random."""

    hands: Hands
    target: Target
    order: Order
    cache: Cache
    block: int
    readers: int
    region: int  # bytes from the start of the file that are read
    left_cached: float = 0.0
    _next: int = 0

    @property
    def most(self) -> int:
        """Blocks a reader can read without one being read twice."""
        return max(1, self.region // self.block // self.readers)

    @property
    def unit_bytes(self) -> int:
        """Bytes of one unit of work."""
        return self.block

    @property
    def steady(self) -> int:
        """Blocks a reader must read in one go to show its rate, where the kernel reads ahead; else 0."""
        return STEADY_BYTES // self.block if self.order == "sequential" and self.cache == "cold" else 0

    def window(self, n: int) -> float:
        """Seconds for n blocks a reader; when cold, at most as many as there are."""
        n = min(n, self.most) if self.cache == "cold" else n
        offsets = self._in_order(n) if self.order == "sequential" else self._at_random(n)
        if self.cache == "cold":
            self.left_cached = max(self.left_cached, self.target.evict())
        read = self.target.read
        return self.hands.seconds([partial(read, reader, self.block, mine) for reader, mine in enumerate(offsets)])

    def _in_order(self, n: int) -> list[list[int]]:
        """Go on where the last window ended; begin again where the part of a reader would be too short."""
        first = self._next if self._next + n <= self.most or self.cache != "cold" else 0
        self._next = (first + n) % self.most
        turns = [(first + i) % self.most for i in range(n)]
        return [[(reader * self.most + turn) * self.block for turn in turns] for reader in range(self.readers)]

    def _at_random(self, n: int) -> list[list[int]]:
        """None twice when cold: the second time it would be cached."""
        blocks, count = self.region // self.block, n * self.readers
        if self.cache == "cold":
            chosen = self.hands.generator.permutation(blocks)[:count]
        else:
            chosen = self.hands.generator.integers(0, blocks, count)
        offsets = (chosen * self.block).tolist()
        return [offsets[reader :: self.readers] for reader in range(self.readers)]


@dataclass
class FileReads:
    """Whole small files in random order: open, read, close."""

    hands: Hands
    paths: Sequence[Path]
    unit_bytes: int
    cache: Cache
    readers: int
    left_cached: float = 0.0

    steady = 0

    @property
    def most(self) -> int:
        """Files a reader can read without one being read twice."""
        return max(1, len(self.paths) // self.readers)

    def window(self, n: int) -> float:
        """Seconds for n files a reader; when cold, at most as many as there are."""
        n = min(n, self.most) if self.cache == "cold" else n
        chosen = self._chosen(n * self.readers)
        if self.cache == "cold":
            self.left_cached = max(self.left_cached, *(storage_file.evict_path(path) for path in chosen))
        parts = [chosen[reader :: self.readers] for reader in range(self.readers)]
        return self.hands.seconds([partial(read_files, part) for part in parts])

    def _chosen(self, count: int) -> list[Path]:
        generator, total = self.hands.generator, len(self.paths)
        numbers = generator.permutation(total)[:count] if self.cache == "cold" else generator.integers(0, total, count)
        return [self.paths[number] for number in numbers]


def read_files(paths: Sequence[Path]) -> None:
    """Read each file as a data set's `__getitem__` does."""
    for path in paths:
        with path.open("rb") as file:
            file.read()


def list_files(directory: Path, times: int) -> None:
    """List a directory, a name at a time."""
    for _ in range(times):
        for _ in os.scandir(directory):
            pass


Reads = BlockReads | FileReads


def variant(reads: Reads, name: str, window_s: float, longest_s: float, *, in_bytes: bool) -> Variant:
    """Windows of about `window_s`, up to `longest_s` where a rate needs that; the work is bytes, or units."""
    n = repeats_for(reads.window, window_s)
    n = max(n, min(reads.steady, int(n * longest_s / window_s)))
    if reads.cache == "cold":
        n = min(n, reads.most)
    work = n * reads.readers * (reads.unit_bytes if in_bytes else 1)
    return Variant(name, lambda: reads.window(n), work)
