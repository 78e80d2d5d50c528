"""Summaries of the ranks of a job: a task reads and summarises each file, and only the summary travels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import count

from probe.errors import TraceError
from probe.executors.engine import Outcome, executor, run
from probe.ranks.asked import refuse_missing
from probe.ranks.files import Job
from probe.readers.narrow import Selection
from probe.readers.opening import shown
from probe.readers.rank_names import gaps, numbers
from probe.results.multirank import RankSummary

FileProgress = Callable[[int, int], None]  # files done, files in all
_TEXT_PER_ZIPPED_BYTE = 25  # real traces: 18–30
_MEMORY_PER_TEXT_BYTE = 0.4  # of reading and summarising; measured: 0.35 with 1.5 million events
_MEMORY_OF_A_WORKER = 100 << 20
_SMALL_TEXT = 64 << 20  # bytes: less than a second of reading, and a process needs half a second to start


@dataclass(frozen=True)
class RankTask:
    """One file to read."""

    source: str
    named: int | None  # the rank that its name says
    place: int  # a number of its own, where nobody says a rank
    alone: bool  # the only file
    selection: Selection | None = None  # what to read; None for all


@dataclass(frozen=True)
class RankRead:
    """What a task sends back."""

    task: RankTask
    summary: RankSummary
    known: bool  # whether the file or its name says the rank
    recorded_unix_ns: int
    truncated: bool
    warnings: tuple[str, ...] = ()


def summaries(
    job: Job,
    engine: str | Executor | None = None,
    jobs: int | None = None,
    selection: Selection | None = None,
    progress: FileProgress | None = None,
    ranks: Collection[int] | None = None,
) -> tuple[list[RankRead], list[str]]:
    """What was read of each rank in order of rank, and what to know of all; TraceError where no file could be read.

    ranks: only these; UsageError, which names those that are there, where one is not.
    """
    if engine is None and jobs is None and _is_small(job):
        jobs = 1

    def read(tasks: Sequence[RankTask]) -> list[Outcome[RankTask, RankRead]]:
        with executor(engine, jobs, tasks=len(tasks), bytes_per_task=_bytes_per_task(job)) as pool:
            return run(pool, read_rank, tasks, _counting(len(tasks), progress))

    tasks = _tasks(job, selection)
    found, warnings = combined(read(tasks)) if ranks is None else combined(_asked(tasks, ranks, read), partial=True)
    ignored = [f"other files left aside: {job.ignored}"] if job.ignored else []
    return found, [*job.warnings, *ignored, *warnings]


def _counting(files: int, progress: FileProgress | None) -> Callable[[Outcome[RankTask, RankRead]], None]:
    """Counts the files that are done, and tells it."""
    done = count(1)
    return lambda _: progress(next(done), files) if progress is not None else None


def _asked(
    tasks: Sequence[RankTask],
    ranks: Collection[int],
    read: Callable[[Sequence[RankTask]], list[Outcome[RankTask, RankRead]]],
) -> list[Outcome[RankTask, RankRead]]:
    """What became of the files of the asked ranks.

    Where every name says a rank of its own only those files are read, or one to see whether names tell the truth. A
    file counts more than its name: where one says another rank than its name does, all are read.
    """
    names = {task.named for task in tasks} - {None}
    where = _where(tasks)
    if len(names) == len(tasks):
        outcomes = read([task for task in tasks if task.named in ranks] or tasks[:1])
        if all(o.result is None or o.result.summary.rank == o.item.named for o in outcomes):
            refuse_missing(where, ranks, (name for name in names if name is not None))
            return outcomes
    outcomes = read(tasks)
    known = {o.result.summary.rank for o in outcomes if o.result is not None and o.result.known}
    refuse_missing(where, ranks, known, sum(o.result is not None and not o.result.known for o in outcomes))
    return [o for o in outcomes if o.result is None or (o.result.known and o.result.summary.rank in ranks)]


def _where(tasks: Sequence[RankTask]) -> str:
    """The files in a few words."""
    first = shown(tasks[0].source)
    return first if len(tasks) == 1 else f"{first} and {len(tasks) - 1} more"


def read_rank(task: RankTask) -> RankRead:
    """Read one file and summarise it; runs in a worker, which imports what it needs."""
    from probe.analyzers.ranks.summary import summarise
    from probe.readers import formats

    trace = formats.read(task.source, task.selection)
    rank = _rank(task, trace.rank, trace.world_size)
    return RankRead(
        task=task,
        summary=summarise(trace, task.place if rank is None else rank),
        known=rank is not None,
        recorded_unix_ns=trace.start_unix_ns,
        truncated=trace.quality.truncated,
        warnings=trace.warnings,
    )


def combined(
    outcomes: Sequence[Outcome[RankTask, RankRead]], *, partial: bool = False
) -> tuple[list[RankRead], list[str]]:
    """What was read of each rank in order of rank, and what is wrong with them as a whole.

    partial: more ranks are there than were asked for.
    """
    read = [o.result for o in outcomes if o.result is not None]
    failed = [o.error for o in outcomes if o.error is not None]
    if not read:
        others = f" (files that cannot be read: {len(failed)})" if len(failed) > 1 else ""
        raise TraceError((failed or ["no traces"])[0] + others)
    warnings = [f"{_with_source(o)}; this file is left out" for o in outcomes if o.error is not None]
    chosen, repeated = _one_per_rank([r for r in read if r.known])
    placed = _placed([r for r in read if not r.known], {r.summary.rank for r in chosen})
    kept = sorted([*chosen, *placed], key=lambda r: r.summary.rank)
    missing = () if partial else _missing(kept)
    return kept, [*warnings, *repeated, *_without_rank(kept, len(placed)), *missing, *_of_files(kept)]


def _tasks(job: Job, selection: Selection | None) -> list[RankTask]:
    """A task per file; files without a rank in their name have the free numbers as places, in order."""
    taken = {file.rank for file in job.files}
    free = (number for number in range(2 * len(job.files)) if number not in taken)
    alone = len(job.files) == 1
    return [
        RankTask(file.source, file.rank, next(free) if file.rank is None else file.rank, alone, selection)
        for file in job.files
    ]


def _text_bytes(job: Job) -> list[int]:
    """About how much text each file holds, where its size is known."""
    return [f.size * (_TEXT_PER_ZIPPED_BYTE if f.source.endswith(".gz") else 1) for f in job.files if f.size]


def _bytes_per_task(job: Job) -> int | None:
    """Memory that the largest file needs; None where sizes are not known."""
    sizes = _text_bytes(job)
    return int(max(sizes) * _MEMORY_PER_TEXT_BYTE) + _MEMORY_OF_A_WORKER if sizes else None


def _is_small(job: Job) -> bool:
    """Whether reading the files here takes no longer than starting processes for them."""
    sizes = _text_bytes(job)
    return len(sizes) == len(job.files) and sum(sizes) <= _SMALL_TEXT


def _rank(task: RankTask, recorded: int | None, world_size: int | None) -> int | None:
    """The rank in the file, else in its name. A job of one process says nothing of a file's place among several."""
    if recorded is not None and world_size is not None and (world_size > 1 or task.alone):
        return recorded
    if task.named is not None:
        return task.named
    return recorded if world_size is None else None


def _with_source(outcome: Outcome[RankTask, RankRead]) -> str:
    """The error with the file in front, which a reader's own message has there."""
    name, error = shown(outcome.item.source), outcome.error or ""
    return error if error.startswith(name) else f"{name}: {error}"


def _one_per_rank(read: Sequence[RankRead]) -> tuple[list[RankRead], list[str]]:
    """Of several files of a rank the one recorded last, a whole one before a truncated one."""
    by_rank: dict[int, list[RankRead]] = defaultdict(list)
    for one in read:
        by_rank[one.summary.rank].append(one)
    chosen = {rank: max(files, key=lambda r: (r.recorded_unix_ns, not r.truncated)) for rank, files in by_rank.items()}
    several = {rank: files for rank, files in by_rank.items() if len(files) > 1}
    warnings = [
        f"rank {rank}: {len(files)} files; only the one recorded last is used, {shown(chosen[rank].task.source)}"
        for rank, files in sorted(several.items())
    ]
    return list(chosen.values()), warnings


def _placed(unknown: Sequence[RankRead], taken: set[int]) -> list[RankRead]:
    """The files without a rank, in their order on the numbers that are free."""
    free = (number for number in range(len(unknown) + len(taken)) if number not in taken)
    return [
        replace(one, summary=replace(one.summary, rank=number))
        for one, number in zip(sorted(unknown, key=lambda r: r.task.place), free, strict=False)
    ]


def _without_rank(kept: Sequence[RankRead], placed: int) -> Iterator[str]:
    if placed and len(kept) > 1:
        yield f"{placed} of {len(kept)} files say no rank, nor do their names; they are numbered in order of name"


def _missing(kept: Sequence[RankRead]) -> Iterator[str]:
    """Which ranks lack, where no file says how many there were; else the comparison of the ranks tells it."""
    if len(kept) == 1 or any(r.summary.world_size not in (None, 1) for r in kept):
        return  # one file may be all
    have = [r.summary.rank for r in kept]
    lacking, missing = gaps(have, max(have) + 1)
    if lacking:
        yield f"{lacking} of at least {max(have) + 1} ranks missing: {missing}"


def _of_files(kept: Sequence[RankRead]) -> Iterator[str]:
    """What is wrong with single files; the same text for several ranks once."""
    ranks: dict[str, list[int]] = defaultdict(list)
    for one in kept:
        if one.truncated:
            ranks["the file breaks off; what was read is used"].append(one.summary.rank)
        for warning in one.warnings:
            ranks[warning].append(one.summary.rank)
    for text, of in ranks.items():
        yield f"rank{'s' if len(of) > 1 else ''} {numbers(of)}: {text}"
