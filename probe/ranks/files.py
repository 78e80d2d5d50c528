"""Find the trace files of the ranks of one job: in a directory, by a pattern, or as named, local or remote."""

from __future__ import annotations

import glob
import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from probe.errors import InputError, UsageError
from probe.readers import rank_names
from probe.readers.opening import cannot_read, file_system, is_url, shown
from probe.runs.run import is_run

DEPTH = 3  # levels of directories below the one that is named
_SQLITE = ".sqlite"


@dataclass(frozen=True)
class RankFile:
    """The trace file of one rank."""

    source: str  # path or URL
    rank: int | None  # as its name says; what the file itself says counts more
    size: int | None = None  # bytes; None where it is not known


@dataclass(frozen=True)
class Job:
    """The files of one job, rank by rank as far as their names say."""

    files: tuple[RankFile, ...]
    ignored: int = 0  # files beside them that are no traces, or not those of this job
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Entry:
    """A file that was found: where, and the parts of its path below what the user named."""

    source: str
    parts: tuple[str, ...]
    size: int | None

    @property
    def name(self) -> str:
        return self.parts[-1]

    @property
    def folder(self) -> str:
        return "/".join(self.parts[:-1])


@dataclass(frozen=True)
class _Found:
    """What one source holds."""

    entries: tuple[_Entry, ...]
    ignored: int = 0
    warnings: tuple[str, ...] = ()


def discover(sources: Sequence[str | Path]) -> Job:
    """The trace files in directories, matched by patterns, or named; InputError says where there are none."""
    if not sources:
        raise UsageError("no traces named; give a directory, a pattern or files")
    found = [_in(str(source), several=len(sources) > 1) for source in sources]
    entries = {entry.source: entry for one in found for entry in one.entries}
    latest, warnings = _latest_of_each_process(list(entries.values()))
    files = [RankFile(e.source, rank_names.rank_of(e.parts), e.size) for e in latest]
    files.sort(key=lambda f: (f.rank is None, f.rank or 0, rank_names.natural(f.source)))
    return Job(
        files=tuple(files),
        ignored=sum(one.ignored for one in found) + len(entries) - len(latest),
        warnings=(*(warning for one in found for warning in one.warnings), *warnings),
    )


def _in(source: str, several: bool) -> _Found:
    """What a source holds; of one of several files the directory's name may say the rank."""
    found = _remote(source) if is_url(source) else _local(source)
    if several and len(found.entries) == 1 and found.entries[0].source == source:
        return replace(found, entries=(replace(found.entries[0], parts=_split(source)[-2:]),))
    return found


def _local(source: str) -> _Found:
    """A directory that exists, a file, else a pattern."""
    path = Path(source)
    if path.is_dir():
        if is_run(path):
            raise InputError(f"{source}: a run of probe, not a directory of traces; analyze it by itself")
        return _in_directory(source, lambda depth: _walk(path, depth))
    if path.exists() or not glob.has_magic(source):
        if not path.exists():
            raise InputError(f"{source}: no such file or directory")
        return _Found((_Entry(source, (path.name,), path.stat().st_size),))
    matches = [Path(match) for match in glob.glob(source, recursive=True)]  # noqa: PTH207 (takes absolute patterns)
    return _matched(source, [(str(p), p.parts, p.stat().st_size) for p in matches if p.is_file()])


def _walk(root: Path, depth: int) -> Iterator[_Entry]:
    """The visible files in `root` and as many levels below."""
    for folder, folders, files in os.walk(root, onerror=_refuse):
        below = Path(folder).relative_to(root).parts
        folders[:] = [] if len(below) >= depth else sorted(f for f in folders if not rank_names.is_passing(f))
        for name in files:
            if not rank_names.is_passing(name):
                path = Path(folder, name)
                yield _Entry(str(path), (*below, name), path.stat().st_size if path.exists() else None)


def _refuse(error: OSError) -> None:
    raise cannot_read(error.filename or "directory", error, InputError) from None


def _remote(url: str) -> _Found:
    """The same behind a URL. A chain of file systems (simplecache::s3://…) or a web server's can only name one file."""
    if "::" in url or url.startswith(("http://", "https://")):
        return _Found((_Entry(url, (posixpath.basename(url),), None),))
    system, path = file_system(url)
    try:
        if system.isdir(path):
            return _in_directory(url, lambda depth: _remote_files(system, path, depth))
        if glob.has_magic(path) and not system.exists(path):
            matches = system.glob(path, detail=True).values()
            return _matched(url, [_described(system, about) for about in matches if about["type"] == "file"])
        about = system.info(path)
    except Exception as error:  # what a storage backend raises is its own affair
        raise cannot_read(url, error, InputError) from None
    return _Found((_Entry(url, (posixpath.basename(path),), about.get("size")),))


def _remote_files(system: Any, root: str, depth: int) -> Iterator[_Entry]:
    for about in system.find(root, maxdepth=depth + 1, detail=True).values():
        source, parts, size = _described(system, about)
        below = parts[len(_split(root)) :]
        if below and not any(rank_names.is_passing(part) for part in below):
            yield _Entry(source, below, size)


def _described(system: Any, about: dict[str, Any]) -> tuple[str, tuple[str, ...], int | None]:
    return system.unstrip_protocol(about["name"]), _split(about["name"]), about.get("size")


def _split(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part)


def _in_directory(source: str, files: Callable[[int], Iterator[_Entry]]) -> _Found:
    """The traces directly in it, else those of the newest iteration below it, else those below it."""
    here = _traces(list(files(0)))
    if here.entries:
        return here
    every = list(files(DEPTH))
    below = _newest_iteration(source, _traces(every))
    if not below.entries:
        also = f"; other files there: {len(every)}" if every else ""
        looked = _patterns(source) if is_url(source) else f"run.json, {_patterns(source)}"
        raise InputError(f"{shown(source)}: no traces in it or {DEPTH} levels below: looked for {looked}{also}")
    folders = sorted({entry.folder for entry in below.entries}, key=rank_names.natural)
    if len(folders) > 1 and not _are_ranks_of_one_job(below.entries):
        some = ", ".join(folders[:3]) + (", …" if len(folders) > 3 else "")
        raise InputError(f"{shown(source)}: traces in {len(folders)} directories below it ({some}); name one of them")
    return below


def _matched(source: str, found: list[tuple[str, tuple[str, ...], int | None]]) -> _Found:
    """What a pattern matched, each with its path below the directory that all of them share."""
    visible = [one for one in found if not rank_names.is_passing(one[1][-1])]
    levels = zip(*(parts[:-1] for _, parts, _ in visible), strict=False)
    shared = len(list(takewhile(lambda level: len(set(level)) == 1, levels)))
    chosen = _traces([_Entry(name, parts[shared:], size) for name, parts, size in visible])
    if not chosen.entries:
        what = "only files that are no traces match" if visible else "nothing matches"
        raise InputError(f"{shown(source)}: {what}; looked for {_patterns(source)} (put the pattern in quotes)")
    return _newest_iteration(source, chosen)


def _patterns(source: str) -> str:
    """What traces are called; databases are read from local files only."""
    return "*.json and *.json.gz" if is_url(source) else f"*.json, *.json.gz and *{_SQLITE}"


def _traces(entries: list[_Entry]) -> _Found:
    """Those whose names say a rank or torch's handler, else every JSON file, else every export of Nsight Systems."""
    likely = [e for e in entries if rank_names.is_trace(e.name)]
    marked = [e for e in likely if rank_names.handler(e.name) or rank_names.rank_of(e.parts) is not None]
    chosen = marked or likely or [e for e in entries if e.name.endswith(_SQLITE)]
    return _Found(tuple(chosen), ignored=len(entries) - len(chosen))


def _newest_iteration(source: str, found: _Found) -> _Found:
    """Only the traces below the iteration directory with the highest number, where there are such directories."""
    iterations = {entry.source: _iteration(entry) for entry in found.entries}
    several = {number for number in iterations.values() if number is not None}
    if len(several) < 2:
        return found
    last = max(several)
    kept = tuple(e for e in found.entries if iterations[e.source] == last)
    warning = f"{shown(source)}: {len(several)} iterations; only the last, {last}, is read; name another to read that"
    return replace(found, entries=kept, ignored=found.ignored + len(found.entries) - len(kept), warnings=(warning,))


def _iteration(entry: _Entry) -> int | None:
    """The highest number of an iteration that a directory above the file has."""
    numbers = (rank_names.iteration_of(part) for part in entry.parts[:-1])
    return max((number for number in numbers if number is not None), default=None)


def _are_ranks_of_one_job(entries: Sequence[_Entry]) -> bool:
    """Whether each file's path says a rank, and none says the same as another's."""
    ranks = [rank_names.rank_of(entry.parts) for entry in entries]
    return None not in ranks and len(set(ranks)) == len(ranks)


def _latest_of_each_process(entries: list[_Entry]) -> tuple[list[_Entry], list[str]]:
    """Of the files that torch's handler wrote, the last of each process: it writes one per cycle of the schedule."""
    latest: dict[tuple[str, str], _Entry] = {}
    others: list[_Entry] = []
    for entry in entries:
        written = rank_names.handler(entry.name)
        if written is None:
            others.append(entry)
            continue
        key = (entry.folder, written[0])
        known = latest.get(key)
        if known is None or written[1] > (rank_names.handler(known.name) or ("", 0))[1]:
            latest[key] = entry
    dropped = len(entries) - len(others) - len(latest)
    warning = f"{dropped} files are earlier recordings of the same processes; only the last of each is read"
    return others + list(latest.values()), [warning] if dropped else []
