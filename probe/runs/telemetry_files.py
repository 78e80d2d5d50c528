"""How does telemetry lie in a run directory? The only file that knows the names and keys of its parts.

While a run goes on, each source writes parts of its own, each of which appears whole or not at all: numpy archives of
columns, telemetry.rank00000.nvml.0000.npz. When it ends they become one Parquet file a source, where pyarrow is
installed. Both hold the columns at_ns, unix_ns, entity and one for each quantity, and a head in JSON. pyarrow is not
used earlier: a worker that is forked while another thread is in it may hang. See docs/telemetry.md.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import itertools
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.errors import RunError
from probe.files import atomic_path
from probe.results.telemetry import PhasesOfRows, Samples

SCHEMA = "probe.telemetry/1"
MOST_BYTES = 256 << 20  # unpacked, of one part; ours have a few hundred kilobytes

_SCHEMA = re.compile(r"probe\.telemetry/(\d+)")
_PART = re.compile(r"telemetry\.rank(\d{5,})\.([a-z_]+)\.(\d{4,})\.(parquet|npz)")
_FIXED = ("at_ns", "unix_ns", "entity")
_PHASES = ("in_phase", "in_phase_whole")  # only where the loop annotated something
_HEAD = "probe"  # key of the head: Parquet's metadata, or an array of bytes in the archive


def has_parquet() -> bool:
    """Whether pyarrow is installed and can be imported."""
    if importlib.util.find_spec("pyarrow") is None:
        return False
    try:
        importlib.import_module("pyarrow.parquet")
    except Exception:  # one that does not fit the numpy that is here raises what it likes
        return False
    return True


def part_name(rank: int, source: str, number: int, ending: str = "npz") -> str:
    """File name of a part; a Parquet file replaces all archives of its source up to its number."""
    return f"telemetry.rank{rank:05d}.{source}.{number:04d}.{ending}"


def write_part(path: Path, samples: Samples, identity: Mapping[str, Any]) -> int:
    """Write, or replace, a part; its size in bytes. `identity` says whose it is. Raises OSError."""
    head = {
        "schema": SCHEMA,
        **identity,
        "source": samples.source,
        "entities": list(samples.entities),
        "about": samples.about,
    }
    columns: dict[str, npt.NDArray[Any]] = {
        "at_ns": samples.at_ns, "unix_ns": samples.unix_ns, "entity": samples.entity, **samples.columns,
    }  # fmt: skip
    if samples.phases is not None:
        head["phases"] = [list(path) for path in samples.phases.paths]
        columns |= dict(zip(_PHASES, (samples.phases.path, samples.phases.whole), strict=True))
    with atomic_path(path) as part:
        text = json.dumps(head, allow_nan=False).encode()
        if path.suffix == ".parquet":
            _write_parquet(part, columns, text)
        else:
            with part.open("wb") as file:
                np.savez(file, **{_HEAD: np.frombuffer(text, np.uint8)}, **columns)  # type: ignore[arg-type]
        return part.stat().st_size


def _write_parquet(path: Path, columns: Mapping[str, npt.NDArray[Any]], head: bytes) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Not pa.array(column): it imports pandas, for half a second at the end of each training.
    table = pa.table({
        name: pa.Array.from_buffers(
            pa.from_numpy_dtype(column.dtype), len(column), [None, pa.py_buffer(np.ascontiguousarray(column))]
        )
        for name, column in columns.items()
    })  # fmt: skip
    pq.write_table(table.replace_schema_metadata({_HEAD: head}), path, compression="zstd")


def parts(directory: Path, rank: int) -> tuple[Path, ...]:
    """The parts of a rank, by source and number."""
    found = [entry for entry in directory.iterdir() if (match := _PART.fullmatch(entry.name)) and int(match[1]) == rank]
    return tuple(sorted(found, key=_order))


def _order(path: Path) -> tuple[str, int, bool]:
    """Source, number, and whether it replaces the archives up to that number."""
    match = _PART.fullmatch(path.name)
    assert match is not None
    return match[2], int(match[3]), match[4] == "parquet"


def pack(directory: Path, rank: int, launch: str, identity: Mapping[str, Any]) -> None:
    """One Parquet file a source in place of its archives. Raises OSError, RunError; the archives stand then."""
    archives = [path for path in parts(directory, rank) if path.suffix == ".npz"]
    for source, group in itertools.groupby(archives, key=lambda path: _order(path)[0]):
        paths = list(group)
        joined = _joined([read_part(path, launch) for path in paths])
        write_part(directory / part_name(rank, source, _order(paths[-1])[1], "parquet"), joined, identity)
        for path in paths:
            path.unlink(missing_ok=True)


def read(
    directory: Path, rank: int, launch: str = "", clock: Sequence[int] | None = None
) -> tuple[tuple[Samples, ...], tuple[str, ...]]:
    """What each source said beside a rank, and a warning for each part that cannot be read or is another's.

    clock: monotonic and wall clock in ns when the rank's telemetry began; no other process has the same.
    """
    kept: dict[Path, Samples] = {}
    warnings: list[str] = []
    packed: dict[str, int] = {}  # source -> number up to which its archives are in a Parquet file that could be read
    for path in sorted(parts(directory, rank), key=lambda path: path.suffix != ".parquet"):
        source, number, replaces = _order(path)
        if not replaces and number <= packed.get(source, -1):
            continue  # the run was killed before the archive was removed
        try:
            kept[path] = read_part(path, launch, clock)
        except RunError as error:
            warnings.append(f"telemetry was left out: {error}")
            continue
        if replaces:
            packed[source] = max(number, packed.get(source, -1))
    ordered = [kept[path] for path in sorted(kept, key=_order)]
    merged = (list(group) for _, group in itertools.groupby(ordered, key=lambda one: one.source))
    return tuple(_joined(group) for group in merged), tuple(warnings)


def read_part(path: Path, launch: str = "", clock: Sequence[int] | None = None) -> Samples:
    """One part. Raises RunError in one line for one that is damaged, newer, or of another launch, rank or host."""
    try:
        head, columns = _read_parquet(path) if path.suffix == ".parquet" else _read_archive(path)
    except RunError:
        raise
    except Exception as error:  # pyarrow and zipfile raise many kinds for damaged bytes
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise RunError(f"{path}: damaged ({said}); the other parts stand") from error
    _check(head, path, launch)
    _check_origin(head, path, clock)
    try:
        return _samples(head, columns)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path}: damaged ({error}); the other parts stand") from error


def _read_parquet(path: Path) -> tuple[Any, dict[str, npt.NDArray[Any]]]:
    if importlib.util.find_spec("pyarrow") is None:
        raise RunError(f"{path}: it is Parquet; to read it: pip install 'torch-probe[export]'")
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
    if size > MOST_BYTES:
        raise ValueError(f"{size} bytes unpacked")
    table = file.read()
    head = json.loads((table.schema.metadata or {})[_HEAD.encode()])
    return head, {name: _numbers(table.column(name)) for name in table.column_names}


def _numbers(column: Any) -> npt.NDArray[Any]:
    """A column of pyarrow's. What probe wrote is read without its to_numpy(), which imports pandas."""
    import pyarrow.types as types

    whole = column.combine_chunks()
    plain = types.is_integer(column.type) or types.is_floating(column.type)
    if column.null_count or not plain or not hasattr(whole, "__dlpack__"):  # pyarrow has it from 15 on
        found: npt.NDArray[Any] = column.to_numpy()
        return found
    return np.from_dlpack(whole)


def _read_archive(path: Path) -> tuple[Any, dict[str, npt.NDArray[Any]]]:
    data = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > MOST_BYTES:
        raise ValueError(f"{size} bytes unpacked")
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        columns = {name: archive[name] for name in archive.files}
    return json.loads(columns.pop(_HEAD).tobytes()), columns


def _check(head: Any, path: Path, launch: str) -> None:
    schema = head.get("schema") if isinstance(head, dict) else None
    match = _SCHEMA.fullmatch(schema) if isinstance(schema, str) else None
    if match is None:
        raise RunError(f"{path}: its schema is {schema!r}, not {SCHEMA!r}; it is not telemetry that probe wrote")
    if int(match[1]) != 1:
        raise RunError(f"{path}: written in {schema}, this probe reads {SCHEMA}; update torch-probe to read it")
    other = head.get("launch", "")
    if launch and other and other != launch:
        raise RunError(f"{path}: telemetry of another launch, on host {head.get('host') or 'unknown'}; remove it")


def _check_origin(head: Mapping[str, Any], path: Path, clock: Sequence[int] | None) -> None:
    """Whether the part was written where its name and its run say: times of another process mean nothing here."""
    host = head.get("host") or "an unknown host"
    match = _PART.fullmatch(path.name)
    rank, named = head.get("rank"), int(match[1]) if match else None
    if isinstance(rank, int) and named is not None and rank != named:
        raise RunError(f"{path}: telemetry of rank {rank} on {host}, named as rank {named}'s; remove it")
    written = head.get("clock")
    if clock is not None and isinstance(written, list) and written != list(clock):
        raise RunError(f"{path}: telemetry of another process, on {host}, with a clock of its own; remove it")


def _samples(head: Mapping[str, Any], columns: dict[str, npt.NDArray[Any]]) -> Samples:
    """The columns as they must be; ValueError where they are not."""
    lengths = {column.shape for column in columns.values()}
    entities = tuple(str(name) for name in head["entities"])
    at, unix, entity = (np.asarray(columns.pop(name)) for name in _FIXED)
    phases = _phases(head, columns)
    if len(lengths) != 1 or at.ndim != 1:
        raise ValueError(f"columns of unequal shapes: {sorted(map(str, lengths))}")
    if not all(np.issubdtype(column.dtype, np.integer) for column in (at, unix, entity)):
        raise ValueError("times or entities that are no whole numbers")
    if len(entity) and not 0 <= int(entity.min()) <= int(entity.max()) < len(entities):
        raise ValueError(f"an entity beyond the {len(entities)} that are named")
    about = head.get("about")
    return Samples(
        str(head["source"]), at.astype(np.int64), unix.astype(np.int64), entity.astype(np.int32), entities,
        {name: np.asarray(column, np.float64) for name, column in columns.items()},
        about if isinstance(about, dict) else {}, phases,
    )  # fmt: skip


def _phases(head: Mapping[str, Any], columns: dict[str, npt.NDArray[Any]]) -> PhasesOfRows | None:
    """What the loop had annotated; ValueError where that cannot be."""
    if "phases" not in head:
        return None
    paths = tuple(tuple(str(name) for name in path) for path in head["phases"])
    path, whole = (np.asarray(columns.pop(name)) for name in _PHASES)
    if not all(np.issubdtype(column.dtype, np.integer) for column in (path, whole)):
        raise ValueError("phases that are no whole numbers")
    if len(path) and not 0 <= int(path.min()) <= int(path.max()) < len(paths):
        raise ValueError(f"a phase beyond the {len(paths)} that are named")
    return PhasesOfRows(path.astype(np.int32), whole.astype(np.int32), paths)


def _joined(group: Sequence[Samples]) -> Samples:
    """Parts of one source as one, in order of time."""
    if len(group) == 1:
        return group[0]
    entities = tuple(dict.fromkeys(name for one in group for name in one.entities))
    number = {name: index for index, name in enumerate(entities)}
    names = dict.fromkeys(name for one in group for name in one.columns)
    at = np.concatenate([one.at_ns for one in group])
    order = np.argsort(at, kind="stable")
    entity = [np.array([number[name] for name in one.entities] or [0], np.int32)[one.entity] for one in group]
    columns = {name: np.concatenate(list(_column(group, name)))[order] for name in names}
    unix = np.concatenate([one.unix_ns for one in group])
    return Samples(
        group[0].source, at[order], unix[order], np.concatenate(entity)[order], entities, columns, group[-1].about,
        _joined_phases(group, order),
    )  # fmt: skip


def _joined_phases(group: Sequence[Samples], order: npt.NDArray[np.intp]) -> PhasesOfRows | None:
    if not any(one.phases for one in group):
        return None
    each = [one.phases or _no_phases(len(one)) for one in group]
    paths = tuple(dict.fromkeys(path for one in each for path in one.paths))
    number = {path: index for index, path in enumerate(paths)}
    path = [np.array([number[path] for path in one.paths], np.int32)[one.path] for one in each]
    return PhasesOfRows(
        np.concatenate(path)[order], np.concatenate([one.whole for one in each])[order].astype(np.int32), paths
    )


def _no_phases(rows: int) -> PhasesOfRows:
    none = np.zeros(rows, np.int32)
    return PhasesOfRows(none, none, ((),))


def _column(group: Sequence[Samples], name: str) -> Iterator[npt.NDArray[np.float64]]:
    for one in group:
        yield one.columns[name] if name in one.columns else np.full(len(one), np.nan)
