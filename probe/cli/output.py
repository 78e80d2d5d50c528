"""Where a command's output goes: rich text to the terminal, one JSON object, or a file that is never half written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from probe.errors import InputError, UsageError
from probe.files import write_atomically


class _Console(Console):
    """rich's console, with a reader that goes away left to `main`."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console(stderr: bool = False) -> Console:
    """A console that shows no colour codes off a terminal, and is then 80 columns wide."""
    stream = sys.stderr if stderr else sys.stdout
    return _Console(file=stream, width=None if stream.isatty() else 80, highlight=False, soft_wrap=False)


def print_json(content: dict[str, Any]) -> None:
    """One JSON object on standard output and nothing else."""
    sys.stdout.write(json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a report; InputError where the path cannot be written. A link is followed, a device or pipe written to."""
    target = path.resolve() if path.is_symlink() else path
    if target.is_dir():
        raise InputError(f"{path}: is a directory; give the name of a file")
    try:
        if target.exists() and not target.is_file():
            target.write_text(text, encoding="utf-8")
        else:
            write_atomically(target, text.encode())
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


def refuse_overwrite(path: Path | None, force: bool) -> None:
    """UsageError where `path` exists and --force was not given; called before any work is done."""
    if path is not None and path.exists() and not force:
        raise UsageError(f"{path}: exists already and is kept; give another name or --force")
