"""What a SOURCE is: a recorded run, one trace, or the traces of the ranks of a job."""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from probe.errors import InputError, RunError, UsageError
from probe.ranks.asked import refuse_missing
from probe.ranks.files import Job, RankFile, discover
from probe.readers import formats
from probe.readers.kineto_text import Text
from probe.readers.opening import cannot_read, is_url, open_stream, shown
from probe.runs import run as runs
from probe.runs.run import Run

RUNS = Path("runs")
Named: TypeAlias = str | Path | Sequence[str | Path] | None


def _size(file: Path) -> int | None:
    """Bytes; None of a file that is gone, which its reader will say."""
    return file.stat().st_size if file.exists() else None


@dataclass(frozen=True)
class RunSource:
    """A run directory that probe wrote."""

    run: Run

    @property
    def job(self) -> Job:
        """The last trace of each rank that has one."""
        last = {rank: file for rank, _, file in self.run.traces}
        return Job(tuple(RankFile(str(file), rank, _size(file)) for rank, file in sorted(last.items())))


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
    refuse_absent(*several)
    if len(several) > 1 and all(not is_url(one) and Path(one).is_dir() for one in several):
        return Jobs(tuple(_find_one(one) for one in several))
    return _find_one(several[0]) if len(several) == 1 else _job(several)


def refuse_absent(*sources: str | Path) -> None:
    """InputError for a name that names nothing, and for an address of a kind that is not read; nothing is opened."""
    for source in sources:
        if not str(source).strip():  # as a path it would be the current directory: mostly an unset variable of a shell
            raise InputError(f"{str(source)!r}: an empty name; give a run or a trace, or . for this directory")
        if is_url(source):
            _refuse_scheme(str(source))
            continue
        try:
            there = _readable(Path(source))
        except OSError as error:  # too long, or in a directory that is closed to the user
            raise cannot_read(source, error, InputError) from None
        if not there and not glob.has_magic(str(source)):
            raise InputError(f"{source}: no such file or directory; {_meant(Path(source))}")


def _readable(path: Path) -> bool:
    """Whether there is such a file or directory; OSError where it may not be read."""
    if path.is_dir():
        os.scandir(path).close()
    elif path.is_file():  # not of a pipe, which would wait for its other end
        path.open("rb").close()
    return path.exists()


def _refuse_scheme(url: str) -> None:
    from fsspec.registry import known_implementations, registry  # not cheap to import, and only addresses need it

    scheme = url.rpartition("::")[2].partition("://")[0]
    if scheme not in known_implementations and scheme not in registry:
        raise InputError(
            f"{shown(url)}: {scheme}:// is no kind of address that is read; give a path, or one of https://, s3:// "
            "(pip install 'torch-probe[s3]') and gs:// (pip install 'torch-probe[gcs]')"
        )


def _meant(path: Path) -> str:
    """What may have been meant by a name that is none."""
    if (RUNS / path).exists():
        return f"did you mean {RUNS / path}?"
    folder = path.parent
    beside = [child.name for child in folder.iterdir()] if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    return f"did you mean {folder / near[0]}?" if near else "probe ls lists the recorded runs"


def refuse_no_trace(file: Path) -> None:
    """TraceError for a file that is no trace, as far as its beginning tells: the rest of it is not read."""
    form = formats.format_of(file)
    if form.kind in ("nsys report", "perfetto"):
        formats.read(file)  # says what to do instead
    if form.kind == "kineto":
        with open_stream(file) as stream:
            next(Text(str(file), stream).texts(), None)


def refuse_unused(found: Found, scaling: object) -> None:
    """UsageError where jobs are to be compared by their sizes and one is named."""
    if scaling is not None and not isinstance(found, Jobs):
        raise UsageError(
            f"--scaling {scaling}: one job was named, and it compares jobs of several sizes; name a directory for each"
        )


def without_engine(found: Found, engine: object) -> tuple[str, ...]:
    """What to know where an engine was given and has nothing to do."""
    if isinstance(found, FileSource):
        several = False
    elif isinstance(found, Jobs):
        several = any(not isinstance(one, RunSource) for one in found.jobs)
    else:
        several = len(found.job.files) > 1
    if engine is None or several:
        return ()
    shown_engine = engine if isinstance(engine, str) else type(engine).__name__
    return (f"the engine {shown_engine} was not used: it reads traces of several ranks, and here are none",)


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
