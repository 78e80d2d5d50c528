"""Which reader a file is for, and reading it: from the cache of parsed traces where it was read before.

A further format is one module with a `read`, and one entry in FORMATS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from probe.errors import TraceError
from probe.readers import allocator_snapshot, cache, kineto, nsys
from probe.readers.kineto import Progress
from probe.readers.narrow import Selection, narrow
from probe.readers.nsys_database import MAGIC, REPORTS
from probe.readers.opening import is_url, shown
from probe.trace import Trace

_BEGINNING = 64  # bytes by which a format is told


class Format(NamedTuple):
    """A kind of file: `recognises` is given the name and the first bytes of a local file, none of a remote one."""

    kind: str
    recognises: Callable[[str, bytes], bool]
    read: Callable[[str | Path, Selection, Progress | None], Trace]


def _read_nsys(source: str | Path, selection: Selection, progress: Progress | None) -> Trace:
    if is_url(source):
        raise TraceError(f"{shown(source)}: exports of Nsight Systems are read from local files; copy it here first")
    return narrow(nsys.read(Path(source)), selection)


def _refuse_report(source: str | Path, selection: Selection, progress: Progress | None) -> Trace:
    remedy = f"nsys export --type sqlite {Path(source).name}"
    raise TraceError(f"{shown(source)}: a report of Nsight Systems, which only nsys reads; export it first: {remedy}")


def _refuse_snapshot(source: str | Path, selection: Selection, progress: Progress | None) -> Trace:
    raise TraceError(f"{shown(source)}: an allocator's snapshot, which holds no operators; analyze it alone")


def _refuse_perfetto(source: str | Path, selection: Selection, progress: Progress | None) -> Trace:
    raise TraceError(f"{shown(source)}: Perfetto's binary format is not read; export the trace as Chrome JSON")


FORMATS = (
    Format("nsys", lambda name, first: first.startswith(MAGIC) or name.endswith((".sqlite", ".db")), _read_nsys),
    Format("snapshot", allocator_snapshot.recognises, _refuse_snapshot),
    Format("nsys report", lambda name, first: name.endswith(REPORTS), _refuse_report),
    Format("perfetto", lambda name, first: name.endswith((".pftrace", ".perfetto-trace")), _refuse_perfetto),
    Format("kineto", lambda name, first: True, kineto.read),
)


def format_of(source: str | Path) -> Format:
    """The format of a file, by its content or, where that is not at hand, by its name."""
    first = b""
    if not is_url(source) and Path(source).is_file():
        with Path(source).open("rb") as file:
            first = file.read(_BEGINNING)
    return next(f for f in FORMATS if f.recognises(str(source).lower(), first))


def read(source: str | Path, selection: Selection | None = None, progress: Progress | None = None) -> Trace:
    """The trace in a local path or fsspec URL, or the selected part of it.

    Raises TraceError, in one line, where nothing of it can be read, and InputError where nothing would be selected.
    """
    selection = selection or Selection()
    if is_url(source):
        return format_of(source).read(source, selection, progress)
    kept = cache.lookup(source)
    if kept is not None:
        return narrow(kept, selection)
    try:
        trace = format_of(source).read(source, selection, progress)
    except OSError as error:
        raise TraceError(f"{source}: cannot be read: {error.strerror or error}") from None
    if not selection.everything:
        return trace
    why = cache.keep(source, trace)
    return replace(trace, warnings=(*trace.warnings, why)) if why else trace
