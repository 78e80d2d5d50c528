"""The traces of several files one at a time: only the one read last is held, so that a job may have any size."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TypeAlias, overload

from probe.readers import formats
from probe.readers.narrow import Selection, narrow
from probe.readers.opening import shown
from probe.readers.rank_names import rank_of
from probe.trace import Trace

Told: TypeAlias = Callable[[str, int, int | None], None]  # what is done, how far, of how much


@dataclass(frozen=True)
class TraceFile:
    """A file with the trace of a rank."""

    source: str  # path or URL
    rank: int | None = None  # as its name says, for a trace that does not say it


def named(sources: Sequence[str]) -> tuple[TraceFile, ...]:
    """The files, with the ranks that their names or directories say where each says one of its own."""
    ranks = [rank_of(PurePath(source).parts[-2:]) for source in sources]
    if len(sources) == 1 or len(set(ranks) - {None}) < len(ranks):
        return tuple(map(TraceFile, sources))
    return tuple(map(TraceFile, sources, ranks))


class Traces(Sequence[Trace]):
    """Traces, or the selected parts of them, each read when it is asked for; a second look may find it in the cache.

    Asking raises what reading does: TraceError, InputError.
    """

    def __init__(
        self, files: Sequence[TraceFile], selection: Selection | None = None, progress: Told | None = None
    ) -> None:
        """progress: told how many of several files were read for the first time, or how far a single one is."""
        self.files = tuple(files)
        self.selection = selection or Selection()
        self._progress = progress
        self._seen = 0
        self._held: tuple[int, Trace] | None = None

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> Trace: ...

    @overload
    def __getitem__(self, index: slice) -> Traces: ...

    def __getitem__(self, index: int | slice) -> Trace | Traces:
        if isinstance(index, slice):
            return Traces(self.files[index], self.selection, self._progress)
        number = range(len(self))[index]
        if self._held is None or self._held[0] != number:
            self._held = None  # before the next is read: two would take twice the memory
            self._held = (number, self._read(number, self.selection))
        return self._held[1]

    @property
    def name(self) -> str:
        """The files in a few words."""
        first = shown(self.files[0].source)
        return first if len(self) == 1 else f"{first} and {len(self) - 1} more"

    @property
    def ranks(self) -> tuple[int | None, ...]:
        """The rank of each: as the files' names say, else as the traces do."""
        told = tuple(file.rank for file in self.files)
        return told if None not in told else tuple(self[number].rank for number in range(len(self)))

    def of(self, ranks: Collection[int]) -> Traces:
        """Those of these ranks."""
        files = [file for file, rank in zip(self.files, self.ranks, strict=True) if rank in ranks]
        return self if len(files) == len(self) else Traces(files, self.selection, self._progress)

    def whole_and_part(self, number: int) -> tuple[Trace, Trace]:
        """A trace in full, and the selected part of it."""
        if self.selection.everything:
            return self[number], self[number]
        self._held = None
        whole = self._read(number, Selection())
        return whole, narrow(whole, self.selection)

    def _read(self, number: int, selection: Selection) -> Trace:
        file = self.files[number]
        trace = formats.read(file.source, selection, self._bytes(file))
        self._seen = max(self._seen, number + 1)
        if self._progress is not None and len(self) > 1:
            self._progress("reading ranks", self._seen, len(self))
        return trace if trace.rank is not None or file.rank is None else replace(trace, rank=file.rank)

    def _bytes(self, file: TraceFile) -> Callable[[int, int | None], None] | None:
        """What is told the bytes of a single file."""
        told = self._progress
        if told is None or len(self) > 1:
            return None
        return lambda done, size: told(f"reading {shown(file.source)}", done, size)
