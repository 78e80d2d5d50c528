"""Tables as one JSON object, each a list a column.

Columns of all ranks stand one after another, and ranks are read one at a time, so that each column is gathered in a
temporary file beside the one that is written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from probe.export.outlines import Outline
from probe.export.tables import NAMES, SCHEMA, Column, Columns, Export
from probe.export.traces import Told
from probe.export.written import Written, output
from probe.schema import to_jsonable

_IN_MEMORY = 1 << 16  # bytes of a column, of which there are about a hundred


def write(export: Export, path: Path, tables: Sequence[str] = NAMES, *, progress: Told | None = None) -> Written:
    """Write the tables, zipped for .gz; InputError where that cannot be done."""
    with output(path) as stream, ExitStack() as files:
        gathered = {t: {name: files.enter_context(_spooled(path)) for name in export.kinds(t)} for t in tables}
        rows = export.fill({table: partial(_gather, columns) for table, columns in gathered.items()}, progress=progress)
        stream.write(f'{_head(export)[:-1]}, "tables": {{'.encode())
        for number, (table, columns) in enumerate(gathered.items()):
            stream.write(f"{', ' * (number > 0)}{json.dumps(table)}: {{".encode())
            _lists(stream, columns)
            stream.write(b"}")
        stream.write(b"}}\n")
    return Written(path, sum(rows.values()), warnings=export.axis.warnings)


def _head(export: Export) -> str:
    head = {
        "schema": SCHEMA,
        "origin_unix_ns": export.axis.origin_unix_ns,
        "traces": [_about(trace) for trace in export.lineup.outlines],
        "warnings": list(export.axis.warnings),
    }
    return json.dumps(head, allow_nan=False)


def _spooled(path: Path) -> BinaryIO:
    """A nameless file on the disk that the export goes to; where it goes to a pipe or device, on that of the system."""
    beside = None if path.exists() and not path.is_file() else str(path.resolve().parent)
    return cast(BinaryIO, SpooledTemporaryFile(_IN_MEMORY, dir=beside))


def _gather(files: Mapping[str, BinaryIO], chunk: Columns) -> None:
    """Append the rows of each column to its file."""
    for name, file in files.items():
        separator = ", " if file.tell() else ""
        file.write(f"{separator}{_values(chunk[name])[1:-1]}".encode())


def _lists(stream: BinaryIO, files: Mapping[str, BinaryIO]) -> None:
    for number, (name, file) in enumerate(files.items()):
        stream.write(f"{', ' * (number > 0)}{json.dumps(name)}: [".encode())
        file.seek(0)
        shutil.copyfileobj(file, stream)
        stream.write(b"]")
        file.close()  # gives its room back


def _values(column: Column) -> str:
    values = column.values()
    return json.dumps(to_jsonable(values) if column.kind == "real" else values, allow_nan=False)


def _about(trace: Outline) -> dict[str, object]:
    """What stands behind the rows of one rank."""
    return {
        "path": trace.path,
        "rank": trace.rank,
        "world_size": trace.world_size,
        "device": to_jsonable(trace.device),
        "quality": to_jsonable(trace.quality),
        "warnings": list(trace.warnings),
    }
