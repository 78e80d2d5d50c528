"""How is an export of Nsight Systems opened, and how do its tables become columns in bounded memory?"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from probe.errors import TraceError
from probe.readers.events import NONE
from probe.trace import Int64s

CHUNK = 1 << 16  # rows that exist as Python objects at one time
IDS = 20_000  # that one statement asks for: a statement may be a million characters long
MAGIC = b"SQLite format 3\0"
REPORTS = (".nsys-rep", ".qdrep", ".qdstrm")  # what nsys itself records, by age
_WAIT_S = 1.0  # for another program to finish writing

Columns = dict[str, Int64s]


class Database:
    """A read-only export; tables and columns that are not there are read as empty and as unknown."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_file(path)
        try:
            self._connection = sqlite3.connect(_uri(path), uri=True, timeout=_WAIT_S)
        except sqlite3.Error as error:
            raise TraceError(f"{path}: cannot be opened ({error}); check the path and your rights") from error
        self._connection.text_factory = _text
        self._columns: dict[str, frozenset[str]] = {}
        self.tables = frozenset(str(name) for (name,) in self.rows("SELECT name FROM sqlite_master"))

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def columns(self, table: str) -> frozenset[str]:
        """The names of the columns of a table; empty where the export does not have it."""
        if table not in self._columns:
            found = self.rows(f'PRAGMA table_info("{table}")') if table in self.tables else ()
            self._columns[table] = frozenset(str(row[1]) for row in found)
        return self._columns[table]

    def rows(self, statement: str, parameters: Sequence[object] = ()) -> Iterator[tuple[object, ...]]:
        """The rows of a statement, one after another. Raises TraceError where the file is damaged or in use."""
        for chunk in self.chunks(statement, parameters):
            yield from chunk

    def chunks(self, statement: str, parameters: Sequence[object] = ()) -> Iterator[list[tuple[object, ...]]]:
        """The same, some ten thousand rows at a time."""
        try:
            cursor = self._connection.execute(statement, parameters)
            while chunk := cursor.fetchmany(CHUNK):
                yield chunk
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: sqlite3.Error) -> TraceError:
        if "locked" in str(error) or "busy" in str(error):
            return TraceError(f"{self.path}: another program is writing to it; wait until the export has ended")
        return TraceError(f"{self.path}: damaged ({error}); export it again with nsys export --type sqlite")

    def integers(self, table: str, wanted: Mapping[str, str], process: int | None) -> Columns:
        """Columns of a table as integers, -1 where the export does not have the column or the value.

        `wanted` names for each result the column, or the first of several separated by `|` that is there. `process`
        keeps the rows of that one, where the table tells the process.
        """
        there = self.columns(table)
        chosen = {name: _first(columns, there) for name, columns in wanted.items()}
        selected = [name for name, column in chosen.items() if column is not None]
        found = self._matrix(table, [str(chosen[name]) for name in selected], process) if selected else None
        count = 0 if found is None else found.shape[0]
        result = {name: np.full(count, NONE, np.int64) for name in wanted}
        if found is not None:
            result.update({name: np.ascontiguousarray(found[:, i]) for i, name in enumerate(selected)})
        return result

    def _matrix(self, table: str, columns: Sequence[str], process: int | None) -> Int64s:
        """The columns of a table side by side, [rows, columns]."""
        listed = ", ".join(f'ifnull("{column}", {NONE})' for column in columns)
        condition, parameters = self.of_process(table, process)
        parts = [np.empty((0, len(columns)), np.int64)]
        try:
            for chunk in self.chunks(f'SELECT {listed} FROM "{table}"{condition}', parameters):
                parts.append(np.array(chunk, np.int64))
        except (ValueError, TypeError, OverflowError) as error:
            raise TraceError(
                f"{self.path}: table {table} has text where numbers belong; export it again with nsys export"
            ) from error
        return np.concatenate(parts)

    def of_process(self, table: str, process: int | None) -> tuple[str, tuple[int, ...]]:
        """The condition for rows of one process, and its parameters; none where the table does not tell the process."""
        column = self.process_column(table)
        if process is None or column is None:
            return "", ()
        return f' WHERE "{column}" >> 24 = ?', (process,)

    def process_column(self, table: str) -> str | None:
        """The column of a table that holds the process in its upper bits."""
        return _first("globalPid|globalTid", self.columns(table))

    def processes(self, table: str) -> dict[int, int]:
        """How many rows of a table each process has; rows of unknown processes are not counted."""
        column = self.process_column(table)
        if column is None:
            return {}
        counted = f'SELECT "{column}" >> 24, count(*) FROM "{table}" WHERE "{column}" IS NOT NULL GROUP BY 1'
        return {_integer(process): _integer(count) for process, count in self.rows(counted)}

    def count(self, table: str) -> int:
        """How many rows a table has, 0 where it is not there."""
        if table not in self.tables:
            return 0
        return sum(_integer(count) for (count,) in self.rows(f'SELECT count(*) FROM "{table}"'))

    def value(self, table: str, column: str) -> object:
        """The first value of a column, None where there is none."""
        if column not in self.columns(table):
            return None
        return next((row[0] for row in self.rows(f'SELECT "{column}" FROM "{table}" LIMIT 1')), None)

    def strings(self, ids: Int64s) -> dict[int, str]:
        """The texts of these ids; the table is large and has at best its own order for an index."""
        wanted = np.unique(ids[ids >= 0]).tolist() if {"id", "value"} <= self.columns("StringIds") else []
        found: dict[int, str] = {}
        for first in range(0, len(wanted), IDS):
            listed = ",".join(map(str, wanted[first : first + IDS]))
            pairs = self.rows(f'SELECT "id", "value" FROM "StringIds" WHERE "id" IN ({listed})')
            found |= {_integer(id): str(text) for id, text in pairs if text is not None}
        return found

    def table(self, name: str, columns: Sequence[str]) -> list[dict[str, object]]:
        """A small table, row by row; a column that is not there is None."""
        there = [column for column in columns if column in self.columns(name)]
        if not there:
            return []
        listed = ", ".join(f'"{column}"' for column in there)
        found = self.rows(f'SELECT {listed} FROM "{name}"')
        return [dict.fromkeys(columns) | dict(zip(there, row, strict=True)) for row in found]


def _check_file(path: Path) -> None:
    """Raise TraceError where the file cannot be an SQLite database."""
    if path.name.endswith(REPORTS):
        raise TraceError(f"{path}: a report of Nsight Systems; make a table of it: nsys export --type sqlite {path}")
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror}); check the path and your rights") from error
    if not head:
        raise TraceError(f"{path}: empty; export it again with nsys export --type sqlite")
    if head != MAGIC:
        raise TraceError(f"{path}: not an SQLite database; make one with nsys export --type sqlite REPORT.nsys-rep")


def _uri(path: Path) -> str:
    return f"file:{quote(str(path.absolute()).encode(errors='surrogateescape'))}?mode=ro"


def _text(raw: bytes) -> str:
    """Names come from programs: what is not UTF-8 is kept readable instead of failing the file."""
    return raw.decode(errors="replace")


def _first(columns: str, there: frozenset[str]) -> str | None:
    return next((column for column in columns.split("|") if column in there), None)


def _integer(value: object) -> int:
    """An integer of the database; -1 for anything else."""
    return value if isinstance(value, int) else NONE
