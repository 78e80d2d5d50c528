"""A table as CSV: RFC 4180 with a header, UTF-8, empty cells for what is not known.

Names come from traces that anybody may have recorded, and people open CSV in spreadsheets, which take a cell that
begins with = + - or @ for a formula, however it is quoted, and run it. Such text is data here: it gets an apostrophe in
front, which spreadsheets read as "text follows". Text that begins with an apostrophe gets a second one, so that taking
one away always gives the recorded text. Numbers are left alone. Parquet and JSON hold the text as recorded.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from probe.export.tables import Add, Column, Columns, Export
from probe.export.written import Written, output

_ACTIVE = tuple("=+-@\t\r\n'＝＋－＠")  # the wide forms count as formulas in Japanese and Chinese settings


def write(export: Export, table: str, path: Path) -> Written:
    """Write one table, zipped for .gz; InputError where it cannot be written."""
    with opened(export, table, path) as add:
        rows = export.fill({table: add})
    return Written(path, rows[table], warnings=export.axis.warnings)


@contextmanager
def opened(export: Export, table: str, path: Path) -> Iterator[Add]:
    """What takes the rows of a table, whose file is there when the block ends; InputError as for `write`."""
    with output(path) as stream:
        stream.write(_lines([list(export.kinds(table))]))
        yield lambda chunk: _written(stream, chunk)


def _written(stream: BinaryIO, chunk: Columns) -> None:
    stream.write(_lines(zip(*map(_cells, chunk.values()), strict=True)))


def _lines(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _cells(column: Column) -> list[Any]:
    values = column.values()
    return [inert(v) if v is not None else None for v in values] if column.kind == "text" else values


def inert(text: str) -> str:
    """The text so that no spreadsheet runs it."""
    return f"'{text}" if text.startswith(_ACTIVE) else text
