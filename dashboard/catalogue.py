"""Which runs, traces and files of microbenchmarks can be looked at? Each under an opaque id that a browser may name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from probe.errors import InputError
from probe.readers.opening import is_url, shown
from probe.readers.rank_names import is_trace, natural
from probe.runs import run as runs

EntryKind = Literal["run", "trace", "job", "microbench"]
ID = re.compile(r"[0-9a-f]{12}")
LARGEST_RESULT_BYTES = 64 << 20
_HEAD_BYTES = 4096
RESULT = b'"probe.microbench/1"'
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Entry:
    """One thing to look at. `source` never leaves the server as something that a request could name."""

    id: str
    kind: EntryKind
    name: str
    source: str
    created: str = ""  # ISO 8601; "" where it is not known


class Catalogue:
    """What the sources hold, found anew each time it is asked: runs recorded meanwhile appear."""

    def __init__(self, sources: Sequence[str]) -> None:
        for source in sources:
            if not is_url(source) and not Path(source).exists():
                raise InputError(f"{source}: no such file or directory; name runs, traces, or a directory of them")
        self._sources = tuple(sources)

    def entries(self) -> tuple[Entry, ...]:
        """Everything there is now, the newest run first, then by name; each once."""
        found = {entry.id: entry for source in self._sources for entry in _in_source(source)}
        named = sorted(_told_apart(list(found.values())), key=lambda entry: natural(entry.name))
        return tuple(sorted(named, key=lambda entry: entry.created, reverse=True))

    def find(self, identity: str) -> Entry | None:
        """The entry of that id; None where there is none."""
        return next((entry for entry in self.entries() if entry.id == identity), None)


def _told_apart(entries: Sequence[Entry]) -> Iterator[Entry]:
    """The entries, with as many directories in the names of those that are called the same as tell them apart."""
    same: dict[str, list[Entry]] = {}
    for entry in entries:
        same.setdefault(entry.name, []).append(entry)
    for group in same.values():
        parts = [Path(entry.source).parts for entry in group]
        depth = 1
        while depth < max(map(len, parts)) and len({path[-depth:] for path in parts}) < len(group):
            depth += 1
        for entry, path in zip(group, parts, strict=True):
            yield replace(entry, name="/".join(path[-depth:])) if depth > 1 else entry


def _in_source(source: str) -> Iterator[Entry]:
    if is_url(source):
        yield _entry("trace", source, shown(source).rsplit("/", 1)[-1])
        return
    path = Path(source).resolve()
    if path.is_file():
        yield from _of_file(path.parent if path.name == "run.json" else path)
    elif path.is_dir():
        yield from _in_directory(path, deeper=True)


def _in_directory(path: Path, *, deeper: bool) -> Iterator[Entry]:
    """A run; else the runs, jobs, traces and results in it, and those one level below."""
    if runs.is_run(path):
        yield _of_run(path)
        return
    files = [child for child in sorted(path.iterdir()) if child.is_file()]
    traces = [child for child in files if is_trace(child.name) and b'"probe.' not in _head(child)]
    if len(traces) > 1 and len({_DIGITS.sub("#", child.name) for child in traces}) == 1:
        yield _entry("job", str(path), path.name)  # names that differ in numbers only: the ranks of a job
    else:
        yield from (_entry("trace", str(child), child.name) for child in traces)
    yield from (_entry("microbench", str(child), child.name) for child in files if _is_result(child))
    if deeper:
        for child in sorted(path.iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                yield from _in_directory(child, deeper=child.name == "runs")


def _of_run(path: Path) -> Entry:
    return _entry("run", str(path), path.name, runs.created(path))


def _of_file(path: Path) -> Iterator[Entry]:
    if path.is_dir():
        yield _of_run(path)
    elif _is_result(path):
        yield _entry("microbench", str(path), path.name)
    else:
        yield _entry("trace", str(path), path.name)


def _is_result(path: Path) -> bool:
    """Whether a file holds microbenchmarks, by its ends."""
    return path.suffix == ".json" and path.stat().st_size <= LARGEST_RESULT_BYTES and RESULT in _head(path)


def _head(path: Path) -> bytes:
    """Both ends of a JSON file, where probe's own objects name their schema; empty for what cannot be read."""
    if path.suffix != ".json":
        return b""
    try:
        with path.open("rb") as file:
            start = file.read(_HEAD_BYTES)
            file.seek(max(0, path.stat().st_size - _HEAD_BYTES))
            return start + file.read(_HEAD_BYTES)
    except OSError:
        return b""


def _entry(kind: EntryKind, source: str, name: str, created: str = "") -> Entry:
    return Entry(hashlib.sha256(source.encode()).hexdigest()[:12], kind, name, source, created)
