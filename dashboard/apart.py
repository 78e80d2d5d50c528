"""How is a source read so that only what is shown of it stays? A large one in a process that ends with the reading.

A reading makes many times what is kept of it, as small objects. Python gives a page of those back when the last of
them is gone, and what is kept lies among them: on a million events a third of what a server held was such pages.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from probe.errors import ProbeError, UnavailableError
from probe.executors.processes import Processes
from probe.files import write_atomically
from probe.units import format_bytes

if TYPE_CHECKING:
    from probe.report.timeline.index import Index
    from probe.results.analysis import Analysis

Told = Callable[[str], None]
T = TypeVar("T")
LARGE_BYTES = 4 << 20  # of files; less is read before a process has started
LOOKED_AT_S = 0.3  # how often it is asked how far a reading is


def analysed(source: str, told: Told) -> Analysis:
    """The analysis of a source, with the verdicts on its suggestions that are known."""
    from probe.changes.verifying import remembered
    from probe.examine.examine import Request, examine

    told("reading the trace")
    return remembered(examine(source, Request(progress=lambda *news: told(_progress(*news)))))


def laid_out(source: str, analysis: Analysis, told: Told) -> Index:
    """The timeline of a source."""
    from probe.examine.timelines import timeline

    return timeline(source, analysis, told=told)


class Readings:
    """The readings that a server has under way, until it ends."""

    def __init__(self) -> None:
        self._running: set[Processes] = set()
        self._ended = False

    def read(self, function: Callable[..., T], source: str, *more: Any, told: Told) -> T:
        """What `function(source, *more, told)` makes; in a process of its own where the source is large."""
        if not _large(source):
            return function(source, *more, told)
        with tempfile.TemporaryDirectory() as folder, Processes(1) as worker:
            self._running.add(worker)
            try:
                return self._read(worker, Path(folder) / "progress", function, source, *more, told=told)
            except (RuntimeError, CancelledError):  # the worker takes no more, or was told to forget what it has
                if not self._ended:
                    raise
                raise _nobody_waits() from None
            finally:
                self._running.discard(worker)

    def _read(
        self, worker: Processes, news: Path, function: Callable[..., T], source: str, *more: Any, told: Told
    ) -> T:  # fmt: skip
        if self._ended:
            raise _nobody_waits()
        future = worker.submit(_reporting, function, source, more, news)
        while not future.done():
            wait([future], LOOKED_AT_S)
            if news.exists():
                told(news.read_text(encoding="utf-8"))
        found: T = future.result()
        return found

    def end(self) -> None:
        """End the readings that still run, and begin no more: nobody will see what comes of them."""
        self._ended = True
        for worker in tuple(self._running):
            worker.shutdown(wait=False, cancel_futures=True)


def _nobody_waits() -> UnavailableError:
    return UnavailableError("the dashboard has ended; start it again")


def _reporting(function: Callable[..., T], source: str, more: tuple[Any, ...], news: Path) -> T:
    """`function` in the process of its own, which writes how far it is to a file, no more often than that is read."""
    last, due_s = "", 0.0

    def told(text: str) -> None:
        nonlocal last, due_s
        if text != last and time.monotonic() >= due_s:  # each waits for the disk
            last, due_s = text, time.monotonic() + LOOKED_AT_S
            write_atomically(news, text.encode())

    return function(source, *more, told)


def _large(source: str) -> bool:
    """Whether a source is large, or at an address where that is not known."""
    from probe.examine.sources import files_of
    from probe.readers.opening import is_url

    if is_url(source):
        return True
    try:
        return sum(Path(file).stat().st_size for file in files_of(source)) >= LARGE_BYTES
    except (ProbeError, OSError):
        return False  # reading it says what is wrong


def _progress(what: str, done: int, total: int | None) -> str:
    """The last part of the name that is read, and how far."""
    words = what.split(" ")
    short = " ".join([*words[:-1], words[-1].rsplit("/", 1)[-1]])
    if not total:
        return f"{short}, {format_bytes(done)}"
    return f"{short}, {done / total:.0%}"
