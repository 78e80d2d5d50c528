"""Where does an export go: which format, one file or a directory with one a table, under which name?

The format is the one asked for, else that of the name's ending, else a Chrome trace. A Chrome trace and JSON are one
file. CSV and Parquet hold one table a file: in a directory (which exists, or whose name has no ending, or by default)
each table gets one, in a file named with -o stands the table asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, cast, get_args

from probe.errors import InputError, UsageError
from probe.export import chrome, csv_file, json_file, parquet_file
from probe.export.tables import CHUNK, NAMES, Export
from probe.export.traces import Told
from probe.export.written import Written
from probe.files import MAX_SIBLINGS
from probe.trace import Trace

Format: TypeAlias = Literal["chrome", "csv", "parquet", "json"]
FORMATS: tuple[str, ...] = get_args(Format)
_BY_ENDING = {".csv": "csv", ".csv.gz": "csv", ".parquet": "parquet", ".pq": "parquet"}
_CHROME = (".json", ".json.gz", ".gz", ".trace")
_ENDING = {"chrome": "-chrome.json.gz", "json": "-tables.json", "csv": ".csv", "parquet": ".parquet"}
_RECORDED = re.compile(r"(\.pt)?(\.trace)?\.(json|json\.gz|sqlite|nsys-rep)$", re.IGNORECASE)  # endings of sources


@dataclass(frozen=True)
class Target:
    """What is written where."""

    format: Format
    path: Path
    tables: tuple[str, ...] = ()  # none for a Chrome trace
    is_folder: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that will be written."""
        return tuple(self._file(t) for t in self.tables) if self.is_folder else (self.path,)

    def _file(self, table: str) -> Path:
        return self.path / f"{table}{_ENDING[self.format]}"


def choose(source: str, output: str | None, format: str | None, tables: Sequence[str] = ()) -> Target:
    """The target that these options ask for; UsageError where they contradict each other. Nothing is made yet."""
    with _reachable(output or source):
        return _chosen(source, output, format, tables)


@contextmanager
def _reachable(name: str | Path) -> Iterator[None]:
    """InputError for a name that cannot even be looked up: too long, or in a directory that is closed to the user."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{name}: cannot be reached: {error.strerror or error}; give another name with -o") from None


def _chosen(source: str, output: str | None, format: str | None, tables: Sequence[str]) -> Target:
    kind = _format(output, format)
    unknown = [t for t in tables if t not in NAMES]
    if unknown:
        raise UsageError(f"--table {unknown[0]}: no such table; choose from {', '.join(NAMES)}")
    if kind == "chrome" and tables:
        raise UsageError(f"--table {tables[0]}: a Chrome trace has no tables; add --format csv, parquet or json")
    wanted = tuple(dict.fromkeys(tables))
    if kind in ("csv", "parquet"):
        return _of_tables(kind, source, output, wanted)
    path = Path(output) if output is not None else _free(Path(_stem(source) + _ENDING[kind]))
    if path.is_dir():
        path = path / f"{_stem(source)}{_ENDING[kind]}"
    return Target(kind, path, () if kind == "chrome" else wanted or NAMES)


def _format(output: str | None, format: str | None) -> Format:
    if format is not None and format not in FORMATS:
        raise UsageError(f"--format {format}: choose from {', '.join(FORMATS)}")
    name = Path(output).name.lower() if output is not None else ""
    by_name = next((kind for ending, kind in _BY_ENDING.items() if name.endswith(ending)), None)
    plain = by_name is None and Path(name).suffix and not name.endswith(_CHROME) and not Path(output or "").is_dir()
    if format is None and plain:
        known = ", ".join((*_CHROME[:2], *_BY_ENDING))
        raise UsageError(f"-o {output}: its ending says no format; end it in {known}, or add --format")
    return cast(Format, format or by_name or "chrome")


def _of_tables(kind: Format, source: str, output: str | None, tables: tuple[str, ...]) -> Target:
    """One table in a file, or several in a directory."""
    if output is None:
        if len(tables) == 1:
            return Target(kind, _free(Path(f"{_stem(source)}-{tables[0]}{_ENDING[kind]}")), tables)
        return Target(kind, _free(Path(f"{_stem(source)}-{kind}")), tables or NAMES, is_folder=True)
    path = Path(output)
    if path.is_dir() or output.endswith("/") or (not path.exists() and not path.suffix):
        return Target(kind, path, tables or NAMES, is_folder=True)
    if len(tables) > 1:
        raise UsageError(f"-o {output}: a {kind} file holds one table, not {len(tables)}; give the name of a directory")
    return Target(kind, path, tables or ("ops",))


def _stem(source: str) -> str:
    """The last part of a path or address, without the endings of traces."""
    name = source.partition("?")[0].replace("\\", "/").rstrip("/").rpartition("/")[2]
    if name in ("", ".", ".."):
        name = Path(source).resolve().name
    return _RECORDED.sub("", name).lstrip(".") or "trace"


def _free(path: Path) -> Path:
    """The path, or the first of name-2, name-3, … that nothing has."""
    ending = next((e for e in (".json.gz", path.suffix) if path.name.endswith(e)), "")
    stem = path.name.removesuffix(ending)
    names = (path, *(path.with_name(f"{stem}-{number}{ending}") for number in range(2, MAX_SIBLINGS)))
    return next((p for p in names if not p.exists() and not p.is_symlink()), path)


def refuse(target: Target, source: str, force: bool) -> None:
    """UsageError where a file would be lost, UnavailableError without pyarrow; called before any work is done."""
    for file in target.files:
        with _reachable(file):
            _refuse(file, source, force)
    if target.format == "parquet":
        parquet_file.require()


def _refuse(file: Path, source: str, force: bool) -> None:
    if not file.is_file():
        return
    if Path(source).exists() and file.samefile(source):
        raise UsageError(f"{file}: is the trace that is to be exported; give another name")
    if not force:
        raise UsageError(f"{file}: exists already and is kept; give another name or --force")


def write(target: Target, traces: Sequence[Trace], progress: Told | None = None) -> tuple[Written, ...]:
    """Write what was chosen, one trace a rank; a directory that an error leaves empty is removed again."""
    if target.format == "chrome":
        return (chrome.write(traces, target.path, progress=progress),)
    export = Export(traces)
    if target.format == "json":
        return (json_file.write(export, target.path, target.tables, progress=progress),)
    if not target.is_folder:
        return _write_tables(export, target, progress)
    made = not target.path.exists()
    try:
        target.path.mkdir(exist_ok=True)
        return _write_tables(export, target, progress)
    except OSError as error:
        raise InputError(f"{target.path}: cannot be made: {error.strerror or error}; give another name") from None
    finally:
        if made:
            with suppress(OSError):  # not empty, as it should be
                target.path.rmdir()


def _write_tables(export: Export, target: Target, progress: Told | None) -> tuple[Written, ...]:
    """A file each, all open at the same time: a trace is read once for all of them."""
    module, size = (csv_file, CHUNK) if target.format == "csv" else (parquet_file, parquet_file.ROW_GROUP)
    places = dict(zip(target.tables, target.files, strict=True))
    with ExitStack() as files:
        sinks = {table: files.enter_context(module.opened(export, table, path)) for table, path in places.items()}
        rows = export.fill(sinks, size, progress)
    return tuple(Written(path, rows[table], warnings=export.axis.warnings) for table, path in places.items())
