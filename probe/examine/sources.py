"""What a SOURCE is: a recorded run, one trace, or the traces of the ranks of a job."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from probe.errors import InputError, RunError, UsageError
from probe.ranks.asked import refuse_missing
from probe.ranks.files import Job, RankFile, discover
from probe.readers.opening import is_url, shown
from probe.runs import run as runs
from probe.runs.run import Run

RUNS = Path("runs")
Named: TypeAlias = str | Path | Sequence[str | Path] | None


@dataclass(frozen=True)
class RunSource:
    """A run directory that probe wrote."""

    run: Run

    @property
    def job(self) -> Job:
        """The last trace of each rank that has one."""
        last = {rank: str(file) for rank, _, file in self.run.traces}
        return Job(tuple(RankFile(file, rank) for rank, file in sorted(last.items())))


@dataclass(frozen=True)
class FileSource:
    """One trace."""

    source: str  # path or URL


@dataclass(frozen=True)
class JobSource:
    """The traces of several ranks."""

    name: str
    job: Job


@dataclass(frozen=True)
class Jobs:
    """Jobs of several sizes, to compare."""

    jobs: tuple[RunSource | FileSource | JobSource, ...]


Found: TypeAlias = RunSource | FileSource | JobSource | Jobs


def find(source: Named) -> Found:
    """What `source` names, by default the newest run; InputError, in one line, where there is nothing."""
    if source is None:
        return RunSource(runs.load(newest_run(RUNS)))
    several = [source] if isinstance(source, (str, Path)) else list(source)
    if "" in several:  # as a path it would be the current directory: mostly a shell's variable that is not set
        raise InputError("'': an empty name; give a run or a trace, or . for this directory")
    if len(several) > 1 and all(not is_url(one) and Path(one).is_dir() for one in several):
        return Jobs(tuple(_find_one(one) for one in several))
    return _find_one(several[0]) if len(several) == 1 else _job(several)


def _find_one(only: str | Path) -> RunSource | FileSource | JobSource:
    path = Path(only)
    if is_url(only):
        return _job([only])
    if path.is_file() and path.name == "run.json":
        return RunSource(runs.load(path.parent))
    if path.is_dir():
        return RunSource(runs.load(path)) if runs.is_run(path) else _job([only])
    return _job([only]) if glob.has_magic(str(only)) and not path.exists() else FileSource(str(only))


def _job(sources: Sequence[str | Path]) -> FileSource | JobSource:
    """The files that directories, patterns, addresses or a list name."""
    job = discover(sources)
    if len(job.files) == 1 and not job.warnings:
        return FileSource(job.files[0].source)
    return JobSource(" ".join(shown(s) for s in sources[:2]) + (" …" if len(sources) > 2 else ""), job)


def only(job: Job, ranks: frozenset[int] | None) -> Job:
    """The job with the asked ranks, as the names of the files say them: for those that are not read at once."""
    if ranks is None:
        return job
    names = [f.rank for f in job.files]
    known = [rank for rank in names if rank is not None]
    first = shown(job.files[0].source) if job.files else "no files"
    where = first if len(names) < 2 else f"{first} and {len(names) - 1} more"
    refuse_missing(where, ranks, known, len(names) - len(known))
    return replace(job, files=tuple(f for f in job.files if f.rank in ranks))


def trace_of(run: Run) -> str:
    """The last trace of the lowest rank that has one."""
    files = RunSource(run).job.files
    if not files:
        raise RunError(f"{run.path}: no trace was recorded: {_why_no_trace(run)}")
    return files[0].source


def newest_run(directory: Path) -> Path:
    """The run directory under `directory` that was begun last."""
    found = [p for p in directory.iterdir() if runs.is_run(p)] if directory.is_dir() else []
    if not found:
        raise RunError(f"{directory}: no run in it; name a run or a trace, or record one with probe.profile()")
    return max(found, key=runs.created)


def _why_no_trace(run: Run) -> str:
    notes = [cycle.note for part in run.parts for cycle in part.cycles if cycle.note]
    reasons = [*notes, *(w for part in run.parts for w in part.warnings), *run.warnings]
    return reasons[0] if reasons else "the loop ended before the recorded steps; run more steps or wait less"


def files_of(source: Named) -> tuple[str, ...]:
    """The trace files that `source` names, one a rank."""
    found = find(source)
    if isinstance(found, Jobs):
        raise UsageError(f"several jobs were named: {', '.join(map(name_of, found.jobs))}; name one")
    if isinstance(found, FileSource):
        return (found.source,)
    if isinstance(found, RunSource):
        trace_of(found.run)  # says why there is none
    files = found.job.files
    if not files:
        raise InputError(f"{name_of(found)}: no traces there; name a trace or a directory of traces")
    return tuple(f.source for f in files)


def name_of(found: RunSource | FileSource | JobSource) -> str:
    """What was named, as messages may show it."""
    if isinstance(found, RunSource):
        return str(found.run.path)
    return shown(found.source) if isinstance(found, FileSource) else found.name
