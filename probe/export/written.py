"""What an export wrote, and how its file appears whole or not at all."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from probe.errors import InputError
from probe.files import atomic_path

_LEVEL = 6  # of gzip: 9 takes three times as long for 2 % less


@dataclass(frozen=True)
class Written:
    """One file that an export wrote."""

    path: Path
    rows: int
    unit: str = "rows"  # "events" of a Chrome trace, where metadata and arrows are not counted
    warnings: tuple[str, ...] = ()


def told(progress: Callable[[str, int, int | None], None] | None, number: int, count: int) -> None:
    """Tell that the trace of this number, of so many, is written."""
    if progress is not None:
        progress("writing ranks" if count > 1 else "writing", number + 1, count)


@contextmanager
def output(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content becomes the file `path` when the block ends, zipped where the name ends in .gz.

    A link is followed, a device or pipe written to. InputError where nothing can be written there.
    """
    try:
        target = path.resolve() if path.is_symlink() else path
        if target.is_dir():
            raise InputError(f"{path}: is a directory; give the name of a file in it")
        if not target.parent.is_dir():
            raise InputError(f"{path}: there is no directory {target.parent}; make it or give another name")
        if target.exists() and not target.is_file():
            with target.open("wb") as stream, _zipped(stream, path) as out:
                yield out
        else:
            with atomic_path(target) as part, part.open("wb") as stream, _zipped(stream, path) as out:
                yield out
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}; nothing was left there") from None


@contextmanager
def _zipped(stream: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    """The stream itself, or one that zips into it; the same content makes the same bytes."""
    if not path.name.lower().endswith(".gz"):
        yield stream
        return
    with gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=stream, mtime=0) as zipped:
        yield cast(BinaryIO, zipped)
