"""Where a command's output goes: rich text to the terminal, one JSON object, or a file that is never half written."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from rich.console import Console

from probe.errors import UsageError
from probe.files import write_report
from probe.report.text import printable, shorten

if TYPE_CHECKING:
    from rich.progress import TaskID


class _Console(Console):
    """rich's console, with a reader that goes away left to `main`."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console(stderr: bool = False) -> Console:
    """A console that shows no colour codes off a terminal, and is then 80 columns wide."""
    stream = sys.stderr if stderr else sys.stdout
    return _Console(file=stream, width=None if stream.isatty() else 80, highlight=False, soft_wrap=False)


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int | None], None] | None]:
    """A bar on standard error that is told (what, done, of how much); None off a terminal. It leaves nothing behind."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def told(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(shorten(printable(what), 50), total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield told


def print_json(content: dict[str, Any]) -> None:
    """One JSON object on standard output and nothing else."""
    sys.stdout.write(json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a report; InputError where the path cannot be written."""
    write_report(path, text.encode())


def refuse_unwritable(*paths: Path | None) -> None:
    """UsageError where a file cannot be made, or two are to be the same one; called before any work is done."""
    given = [path for path in paths if path is not None]
    for path in given:
        if not path.parent.is_dir():
            raise UsageError(f"{path}: there is no directory {path.parent}; make it or give another name")
        if path.is_dir():
            raise UsageError(f"{path}: is a directory; give the name of a file")
        if path.exists() and not path.is_file():
            continue  # a device or pipe is written to as it is
        if [other.resolve() for other in given].count(path.resolve()) > 1:
            raise UsageError(f"{path}: the same file is named twice; give each report a name of its own")
        refuse_closed(path, path.resolve().parent)


def refuse_closed(path: Path, directory: Path) -> None:
    """UsageError where no file can be made in the directory that `path` needs: tried, as rights alone do not tell."""
    try:
        with TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise UsageError(
            f"{path}: nothing can be written in {directory} ({error.strerror or error}); give another place"
        ) from None


def refuse_overwrite(path: Path | None, force: bool) -> None:
    """UsageError where `path` is a file and --force was not given; called before any work is done."""
    if path is not None and path.is_file() and not force:
        raise UsageError(f"{path}: exists already and is kept; give another name or --force")
