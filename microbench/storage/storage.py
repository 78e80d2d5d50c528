"""What do a loader and a checkpoint get from a path: large files, random blocks, many small files, a written file?

Method: files of random bytes in a private directory of the path. Cold reads follow an eviction from the page cache
that is verified page by page (mincore), direct ones go past it, warm ones find everything there; one reader and
several threads. Small files have the size of a photograph: open, read, close; cold means their data, the directory
stays cached. A checkpoint is written as it should be: to a new file, synchronised, renamed over the last one, and the
directory synchronised. What a disk, a host or a server caches itself is beyond reach, so cold is not colder than that.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probe.errors import UnavailableError
from probe.machine import cpu_info
from probe.microbench import memory
from probe.microbench.cpu.pinning import working_cpus
from probe.microbench.harness import Effort, Timing, Variant, measure, paced, repeats_for, timed
from probe.microbench.storage import place as storage_place
from probe.microbench.storage.file import COLD_FRACTION, Target, can_evict, write_all, write_file, write_files
from probe.microbench.storage.reads import BlockReads, Cache, FileReads, Hands, Order, Reads, list_files, variant
from probe.microbench.storage.scratch import allowed_bytes, scratch
from probe.microbench.suite import Context, rate_measurement, time_measurement
from probe.results.measurement import Measurement
from probe.units import format_bytes

NAME = "storage"
SEQUENTIAL_BYTES = memory.MIB  # a read
RANDOM_BYTES = (4 * memory.KIB, 128 * memory.KIB)
FILE_BYTES = 100 * memory.KIB  # a photograph as data sets hold them
MOST_FILES = 500  # some file systems take milliseconds to remove each
WARM_BYTES = 64 * memory.MIB  # of the large file are read again and again
FEWEST_READERS, MOST_READERS = 4, 16  # threads of the reads by several; as many as CPUs between these
PREPARING_SHARE = 0.25  # of the budget, for writing what is read
LEAST_WINDOWS, ROUNDS = 4, 24
WINDOW_LIMITS_S = (1e-3, 50e-3)
CHECKPOINT_STEP_BYTES = 4 * memory.MIB  # a write


def run(context: Context) -> Iterator[Measurement]:
    """Metrics `bandwidth` (B/s), and `latency` (one reader) or `time` (several, or names listed) for each, in seconds.

    In the directory `context.path`, or the current one. UnavailableError where it cannot be written.
    """
    if not hasattr(os, "preadv"):
        raise UnavailableError("this system has no preadv(2), with which the reads are made")
    path = Path(context.path or Path.cwd()).absolute()
    readers = min(MOST_READERS, max(FEWEST_READERS, len(working_cpus())))
    try:
        with scratch(path) as directory, ThreadPoolExecutor(readers) as pool:
            bench = Bench(context, directory, Hands(pool, context.clock), readers)
            yield from bench.measurements()
    except OSError as error:
        raise UnavailableError(f"{path}: {error.strerror}; name another directory") from None


@dataclass(frozen=True)
class Planned:
    """One pattern of reading: what its result is called and says."""

    reads: Reads
    label: str
    params: dict[str, object]
    in_bytes: bool = False

    @property
    def name(self) -> str:
        """The measurement's name; short, for a column of a table."""
        return f"{self.label} {self.reads.cache} ×{self.reads.readers}"


class Bench:
    """The files, and the groups of questions put to them."""

    def __init__(self, context: Context, directory: Path, hands: Hands, readers: int) -> None:
        """Writes the files, for a quarter of the budget at most and as much as the free space allows."""
        self._context, self._directory, self._hands, self._readers = context, directory, hands, readers
        self._started = context.clock()
        self._allowed = allowed_bytes(directory.parent, quick=context.quick)
        self._place = self._find_place()
        budget_s = PREPARING_SHARE * context.budget_s
        self._large = directory / "large"
        size = self._allowed // 2 // memory.MIB * memory.MIB
        written = write_file(self._large, size, budget_s * 0.6, context.clock)
        self._write_s_per_byte = (context.clock() - self._started) / written
        count = min(MOST_FILES, self._allowed // 8 // FILE_BYTES)
        self._small = write_files(
            directory / "small", count, FILE_BYTES, budget_s * 0.4, context.clock, self._hands.pool
        )

    def _find_place(self) -> storage_place.Place:
        """Where the files lie; what a reader must know about it becomes a warning."""
        mounts = cpu_info.read_text(storage_place.MOUNTINFO) or ""
        parent = self._directory.resolve().parent
        place = storage_place.find(parent, mounts)
        if (warning := place.warning(parent)) is not None:
            self._context.warnings.append(f"storage: {warning}")
        return place

    def measurements(self) -> Iterator[Measurement]:
        """Group after group; each group's patterns are interleaved."""
        context = self._context
        groups: list[Callable[[float], Iterator[Measurement]]] = [self._checkpoint]
        with Target(self._large, self._readers, SEQUENTIAL_BYTES) as target:
            if self._can_be_cold(target):
                groups += [
                    lambda share: self._blocks(target, "sequential", "cold", share),
                    lambda share: self._blocks(target, "random", "cold", share),
                    lambda share: self._files("cold", share),
                ]
            groups += [
                lambda share: self._blocks(target, "sequential", "warm", share),
                lambda share: self._blocks(target, "random", "warm", share),
                lambda share: self._files("warm", share),
            ]
            left_s = context.budget_s - (context.clock() - self._started)
            for group, share_s in paced(groups, left_s, context.clock, context.report):
                yield from group(share_s)

    def _can_be_cold(self, target: Target) -> bool:
        """Whether the file leaves the page cache when asked to; a warning if it does not."""
        if not can_evict():
            self._context.warnings.append("storage: no cold reads: this system cannot drop a file from its page cache")
            return False
        left = target.evict()
        if left > 0.5:
            kind = self._place.type or "this file system"
            self._context.warnings.append(
                f"storage: no cold reads: {left:.0%} of a file on {kind} stays in memory when it is dropped"
            )
        return left <= 0.5

    def _blocks(self, target: Target, order: Order, cache: Cache, share_s: float) -> Iterator[Measurement]:
        """Reads of the large file, by one reader and several; beside the cold ones those past the page cache."""
        started = self._context.clock()
        region = min(target.size, WARM_BYTES) if cache == "warm" else target.size
        planned = self._block_plans(target, order, cache, region)
        if cache == "warm":
            target.read(0, SEQUENTIAL_BYTES, range(0, region - SEQUENTIAL_BYTES + 1, SEQUENTIAL_BYTES))
            yield from self._timed(planned, share_s - (self._context.clock() - started))
            self._note_evictions(target.cached(region))
            return
        direct = self._direct()
        if direct is None:
            yield from self._timed(planned, share_s)
            return
        with direct:
            planned += self._block_plans(direct, order, "direct", region)
            yield from self._timed(planned, share_s)

    def _block_plans(self, target: Target, order: Order, cache: Cache, region: int) -> list[Planned]:
        """One pattern for each size of block and number of readers."""
        plans = []
        for block in (SEQUENTIAL_BYTES,) if order == "sequential" else RANDOM_BYTES:
            for readers in (1, self._readers):
                reads = BlockReads(self._hands, target, order, cache, block, readers, region)
                params: dict[str, object] = {"pattern": order, "block_bytes": block, "size_bytes": region}
                label = "sequential" if order == "sequential" else format_bytes(block)
                plans.append(Planned(reads, label, params, in_bytes=order == "sequential"))
        return plans

    def _direct(self) -> Target | None:
        """The large file past the page cache; None where there is no such way or it is a detour through memory."""
        if not hasattr(os, "O_DIRECT") or self._place.kind == "memory":
            return None
        try:
            return Target(self._large, self._readers, SEQUENTIAL_BYTES, direct=True)
        except OSError as error:
            text = f"storage: no direct reads: {self._place.type or 'the file system'} refuses them ({error.strerror})"
            if text not in self._context.warnings:
                self._context.warnings.append(text)
            return None

    def _files(self, cache: Cache, share_s: float) -> Iterator[Measurement]:
        """Whole small files by one reader and several; warm, the directory is listed as well."""
        params = {"pattern": "files", "file_bytes": FILE_BYTES, "files": len(self._small)}
        label = f"{format_bytes(FILE_BYTES)} file"
        planned = [
            Planned(FileReads(self._hands, self._small, FILE_BYTES, cache, readers), label, params)
            for readers in (1, self._readers)
        ]
        if cache == "cold":
            yield from self._timed(planned, share_s)
            return
        yield from self._timed(planned, share_s * 0.8)
        yield self._listing(share_s * 0.2)

    def _listing(self, share_s: float) -> Measurement:
        """Seconds for each name of the directory of small files."""
        folder = self._small[0].parent
        clock = self._context.clock
        n = repeats_for(lambda times: timed(lambda: list_files(folder, times), clock)(), WINDOW_LIMITS_S[0])
        only = Variant("listing", timed(lambda: list_files(folder, n), clock), n * len(self._small))
        (timing,) = measure([only], Effort(share_s, least=LEAST_WINDOWS), clock)
        params = {"pattern": "listing", "files": len(self._small), "cache": "warm", **self._where()}
        return time_measurement(NAME, "name listed", "time", timing, params)

    def _timed(self, planned: list[Planned], share_s: float) -> Iterator[Measurement]:
        """Measure the patterns in turn, in windows of which each gets several in the time."""
        clock = self._context.clock
        started = clock()
        shortest, longest = WINDOW_LIMITS_S
        window_s = min(longest, max(shortest, share_s / ROUNDS / len(planned)))
        longest_s = max(window_s, share_s / LEAST_WINDOWS / len(planned))
        variants = [variant(plan.reads, plan.name, window_s, longest_s, in_bytes=plan.in_bytes) for plan in planned]
        left_s = max(0.0, share_s - (clock() - started))
        timings = measure(variants, Effort(left_s, least=LEAST_WINDOWS), clock)
        for plan, timing in zip(planned, timings, strict=True):
            yield self._measurement(plan, timing)

    def _measurement(self, plan: Planned, timing: Timing) -> Measurement:
        reads = plan.reads
        params = {**plan.params, "cache": reads.cache, "readers": reads.readers, **self._where()}
        flags = ("cached",) if reads.left_cached > COLD_FRACTION else ()
        if plan.in_bytes:
            return rate_measurement(NAME, plan.name, "bandwidth", "B/s", timing, params, flags=flags)
        per_s = 1 / timing.seconds.median
        params |= {"images_per_s" if isinstance(reads, FileReads) else "reads_per_s": per_s}
        params["bytes_per_s"] = per_s * reads.unit_bytes
        metric = "latency" if reads.readers == 1 else "time"
        return time_measurement(NAME, plan.name, metric, timing, params, flags=flags)

    def _note_evictions(self, cached: float) -> None:
        if cached < 1 - COLD_FRACTION:
            self._context.warnings.append(
                f"storage: the warm reads were not all warm: {1 - cached:.0%} of the file had left the page cache, "
                "as happens when memory is short"
            )

    def _where(self) -> dict[str, object]:
        return {"filesystem": self._place.type, "device": self._place.device}

    def _checkpoint(self, share_s: float) -> Iterator[Measurement]:
        """Bytes per second of a checkpoint that survives a power cut, and the share that synchronising takes."""
        affordable = int(share_s / (LEAST_WINDOWS + 2) / self._write_s_per_byte)
        size = min(self._allowed // 8, max(CHECKPOINT_STEP_BYTES, affordable))
        steps = max(1, size // CHECKPOINT_STEP_BYTES)
        checkpoint = Checkpoint(self._directory, steps, self._context)
        only = Variant("checkpoint", checkpoint.window, steps * CHECKPOINT_STEP_BYTES)
        (timing,) = measure([only], Effort(share_s, least=LEAST_WINDOWS), self._context.clock)
        params = {
            "pattern": "checkpoint",
            "size_bytes": steps * CHECKPOINT_STEP_BYTES,
            "checkpoint_s_per_gib": timing.seconds.median * (1 << 30),
            "fsync_fraction": statistics.median(checkpoint.fsync_fractions),
            **self._where(),
        }
        yield rate_measurement(NAME, "checkpoint", "bandwidth", "B/s", timing, params)


class Checkpoint:
    """A file that is written anew and renamed over its predecessor; other bytes each time."""

    def __init__(self, directory: Path, steps: int, context: Context) -> None:
        self._directory, self._steps, self._clock = directory, steps, context.clock
        self._words = np.frombuffer(bytearray(np.random.default_rng().bytes(CHECKPOINT_STEP_BYTES)), np.uint64)
        self.fsync_fractions: list[float] = []

    def window(self) -> float:
        """Seconds to write it, until neither it nor its name can be lost."""
        self._words[::512] += 1  # once in 4 KiB, so that no block is one the file system knows already
        new, final = self._directory / "checkpoint.new", self._directory / "checkpoint"
        start = self._clock()
        with new.open("wb", buffering=0) as file:
            for _ in range(self._steps):
                write_all(file.fileno(), self._words.data.cast("B"))
            written = self._clock()
            os.fsync(file.fileno())
        new.replace(final)
        sync_directory(self._directory)
        end = self._clock()
        self.fsync_fractions.append((end - written) / (end - start))
        return end - start


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
