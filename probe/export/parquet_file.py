"""A table as Parquet, zstd-compressed; the clock's origin and the schema's name stand in its metadata."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from probe.errors import UnavailableError
from probe.export.tables import SCHEMA, Add, Columns, Export
from probe.export.written import Written, output

ROW_GROUP = 1 << 17  # rows; readers skip whole groups, and small ones compress badly


def require() -> Any:
    """pyarrow; UnavailableError says how to get it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UnavailableError("Parquet needs pyarrow; pip install 'torch-probe[export]'") from None
    return pyarrow


def write(export: Export, table: str, path: Path) -> Written:
    """Write one table; InputError where it cannot be written."""
    with opened(export, table, path) as add:
        rows = export.fill({table: add}, ROW_GROUP)
    return Written(path, rows[table], warnings=export.axis.warnings)


@contextmanager
def opened(export: Export, table: str, path: Path) -> Iterator[Add]:
    """What takes the rows of a table, a row group each time; the file is there when the block ends."""
    arrow = require()
    schema = _schema(arrow, export, table)

    def add(chunk: Columns) -> None:
        columns = zip(chunk.values(), schema, strict=True)
        arrays = [arrow.array(column.values(), field.type) for column, field in columns]
        writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))

    with output(path) as stream, arrow.parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        yield add


def _schema(arrow: Any, export: Export, table: str) -> Any:
    types = {"text": arrow.string(), "integer": arrow.int64(), "real": arrow.float64(), "boolean": arrow.bool_()}
    fields = [arrow.field(name, types[kind]) for name, kind in export.kinds(table).items()]
    about = {"schema": SCHEMA, "table": table, "origin_unix_ns": str(export.axis.origin_unix_ns)}
    return arrow.schema(fields, metadata=about)
