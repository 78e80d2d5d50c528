"""Tables as one JSON object, each a list a column; written a chunk of a column at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from probe.export.tables import NAMES, SCHEMA, Column, Export
from probe.export.written import Written, output
from probe.schema import to_jsonable
from probe.trace import Trace


def write(export: Export, path: Path, tables: Sequence[str] = NAMES) -> Written:
    """Write the tables, zipped for .gz; InputError where that cannot be done."""
    with output(path) as stream:
        for text in _object(export, tables):
            stream.write(text.encode())
    return Written(path, sum(export.rows(t) for t in tables), warnings=export.axis.warnings)


def _object(export: Export, tables: Sequence[str]) -> Iterator[str]:
    head = {
        "schema": SCHEMA,
        "origin_unix_ns": export.axis.origin_unix_ns,
        "traces": [_about(source.trace) for source in export.sources],
        "warnings": list(export.axis.warnings),
    }
    yield json.dumps(head, allow_nan=False)[:-1] + ', "tables": {'
    for number, table in enumerate(tables):
        yield ", " * (number > 0) + f"{json.dumps(table)}: {{"
        yield from _columns(export, table)
        yield "}"
    yield "}}\n"


def _columns(export: Export, table: str) -> Iterator[str]:
    for number, name in enumerate(export.kinds(table)):
        yield ", " * (number > 0) + f"{json.dumps(name)}: ["
        for at, chunk in enumerate(export.chunks(table)):
            yield ", " * (at > 0) + _values(chunk[name])[1:-1]
        yield "]"


def _values(column: Column) -> str:
    values = column.values()
    return json.dumps(to_jsonable(values) if column.kind == "real" else values, allow_nan=False)


def _about(trace: Trace) -> dict[str, object]:
    """What stands behind the rows of one rank."""
    return {
        "path": trace.path,
        "rank": trace.rank,
        "world_size": trace.world_size,
        "device": to_jsonable(trace.device),
        "quality": to_jsonable(trace.quality),
        "warnings": list(trace.warnings),
    }
