"""Read what Nsight Compute printed as CSV (ncu --csv): what was measured of each kernel launch.

Bytes are dram__bytes.sum, time is gpu__time_duration.sum. FLOP are counted from instructions, as NERSC's roofline
method does: additions and multiplications once, fused multiply-adds twice, over double, single and half precision.
Instructions of tensor cores do not count towards them, and what one of those computes depends on architecture and
shape: FLOP are known only of a launch in which tensor cores ran none.

Numbers. ncu writes them as the machine's language has them, so that "117.344" can mean 117344. A file is read where
its numbers show that a point separates decimals: one with both separators ("2,000.00"), several commas ("27,595,520"),
a fraction that is not of three digits ("65.77"), or ungrouped thousands ("27595520"). Numbers that show the contrary
("27.595.520", "65,77"), and "117.344" in a file without such a sign, are refused. Units are scaled by thousands.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from probe.errors import InputError

_PRECISIONS = {"d": "double", "f": "single", "h": "half"}
_FLOPS = {"add": 1, "mul": 1, "fma": 2}
_INSTRUCTIONS = "sass_thread_inst_executed_op_{}_pred_on.sum"  # of the SMs (sm__) or of their quarters (smsp__)
_TIME, _BYTES, _READ, _WRITTEN = (
    "gpu__time_duration.sum", "dram__bytes.sum", "dram__bytes_read.sum", "dram__bytes_write.sum",
)  # fmt: skip
_TENSOR = "sm__inst_executed_pipe_tensor.sum"
_ANY_TENSOR = re.compile(r"(?:sm|smsp)__inst_executed_pipe_tensor\w*\.sum")

METRICS = (
    _TIME, _BYTES, _TENSOR,
    *(f"smsp__{_INSTRUCTIONS.format(p + op)}" for p in _PRECISIONS for op in _FLOPS),
)  # fmt: skip  # what `ncu --metrics` should be given
REMEDY = "print it again with ncu --csv --page raw --print-units base --print-fp under an English locale"

_PREFIXES = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
_TIMES = _SECONDS | {f"{prefix.rstrip('s')}second": scale for prefix, scale in _SECONDS.items()}
_BYTE_UNITS = {f"{prefix}byte": scale for prefix, scale in _PREFIXES.items()}
_COUNTS = {f"{prefix}inst": scale for prefix, scale in _PREFIXES.items()} | {"": 1.0}
_UNITS = {**_TIMES, **_BYTE_UNITS, **_COUNTS}  # to seconds, bytes and instructions

_NUMBER = re.compile(r"\d[\d.,]*(?:[eE][+-]?\d+)?")
_POINT = re.compile(  # a number that only a decimal point explains
    r"\d{1,3}(?:,\d{3})+\.\d+|\d{1,3}(?:,\d{3}){2,}|\d+\.(?:\d{1,2}|\d{4,})|0\.\d+|\d{4,}\.\d+|[\d.]+[eE][+-]?\d+"
)
_COMMA = re.compile(  # and one that only a decimal comma does
    r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}|\d+,(?:\d{1,2}|\d{4,})|0,\d+|\d{4,},\d+"
)
_UNGROUPED = re.compile(r"\d{4,}")  # where thousands are not set apart, a separator is a decimal one
_UNREAD = ("", "n/a", "nan", "-nan")


@dataclass(frozen=True)
class KernelCounters:
    """What was measured of one launch of a kernel; None for what was not, with the reason in `unknown`."""

    id: int  # ncu's count of launches
    name: str
    grid: tuple[int, ...]  # () where not printed
    block: tuple[int, ...]
    duration_s: float | None
    bytes: float | None  # to and from DRAM
    flops: float | None
    scalar_flops: float | None  # of the instructions outside tensor cores
    tensor_instructions: float | None
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Cell:
    """A printed number and where it stands."""

    line: int
    metric: str
    unit: str
    text: str


@dataclass
class _Launch:
    """A launch while its metrics are collected."""

    id: int
    name: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    cells: dict[str, _Cell] = field(default_factory=dict)


def read(path: Path | str) -> tuple[KernelCounters, ...]:
    """The launches in the order in which ncu measured them. Raises InputError."""
    path = Path(path)
    launches = _launches(path, *_table(path))
    cells = [cell for launch in launches for cell in launch.cells.values()]
    _check_language(path, cells)
    if not any(_used(cell.metric) for cell in cells):
        raise InputError(
            f"{path}: none of the metrics needed ({_BYTES}, …); record with ncu --metrics {','.join(METRICS)}"
        )
    return tuple(_counters(path, launch) for launch in launches)


def _table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and the rows with their line; what the program and ncu print around the table is passed over."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            lines = list(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and your rights") from error
    begin = next((i for i, line in enumerate(lines) if line.startswith('"ID","')), None)
    if begin is None:
        advice = "make one of a report with ncu --import REPORT.ncu-rep --csv --page raw"
        raise InputError(f'{path}: not a table of Nsight Compute (no line begins with "ID"); {advice}')
    try:
        reader = csv.reader(lines[begin:], strict=True)
        header = next(reader)
        rows = [(begin + reader.line_num, row) for row in reader if len(row) == len(header)]
    except csv.Error as error:
        raise InputError(f"{path}: line {begin + reader.line_num}: not CSV ({error}); {REMEDY}") from error
    if "Kernel Name" not in header:
        raise InputError(f"{path}: line {begin + 1}: no column Kernel Name; {REMEDY}")
    return header, [(line, row) for line, row in rows if row != header]


def _launches(path: Path, header: list[str], rows: list[tuple[int, list[str]]]) -> list[_Launch]:
    """The launches of a table with one row a metric, or one row a launch and the units in the row after the header."""
    long = {"Metric Name", "Metric Unit", "Metric Value"} <= set(header)
    metrics = [name for name in header if "__" in name]
    units: dict[str, str] = {}
    found: dict[tuple[str, str], _Launch] = {}
    for line, row in rows:
        told = dict(zip(header, row, strict=True))
        if not told["ID"]:
            units = told
            continue
        launch = found.setdefault((told.get("Process ID", ""), told["ID"]), _launch(path, line, told))
        if long:
            cells = [_Cell(line, told["Metric Name"], told["Metric Unit"], told["Metric Value"])]
        else:
            cells = [_Cell(line, name, units.get(name, ""), told[name]) for name in metrics]
        launch.cells.update({cell.metric: cell for cell in cells})
    return list(found.values())


def _launch(path: Path, line: int, told: dict[str, str]) -> _Launch:
    if not told["ID"].isdecimal():
        raise InputError(f"{path}: line {line}: ID {told['ID']!r} is not a number; {REMEDY}")
    sizes = {
        what: tuple(int(n) for n in re.findall(r"\d+", told.get(f"{what} Size", ""))) for what in ("Grid", "Block")
    }
    return _Launch(int(told["ID"]), told["Kernel Name"], sizes["Grid"], sizes["Block"])


def _check_language(path: Path, cells: Sequence[_Cell]) -> None:
    """Raise InputError where the numbers do not show that a point separates decimals, and one of them needs it."""
    numbers = [cell for cell in cells if cell.unit in _UNITS or cell.unit == "%"]
    for cell in numbers:
        if _COMMA.fullmatch(cell.text):
            raise _refused(path, cell, "a number in another language's form")
    if any(_POINT.fullmatch(cell.text) for cell in numbers):
        return
    unsure = "," if any(_UNGROUPED.fullmatch(cell.text) for cell in numbers) else ".,"
    for cell in numbers:
        if _used(cell.metric) and set(unsure) & set(cell.text):
            raise _refused(path, cell, "it can be read in two ways, and nothing else in the file decides")


def _refused(path: Path, cell: _Cell, why: str) -> InputError:
    unit = f" {cell.unit}" if cell.unit else ""
    return InputError(f"{path}: line {cell.line}: {cell.metric} is {cell.text!r}{unit}: {why}; {REMEDY}")


def _used(metric: str) -> bool:
    return metric in (*METRICS, _READ, _WRITTEN) or "sass_thread_inst" in metric or bool(_ANY_TENSOR.fullmatch(metric))


def _value(path: Path, launch: _Launch, metric: str, units: dict[str, float]) -> float | None:
    """A metric in the base unit, None where it was not measured. Raises InputError for what cannot be read."""
    cell = launch.cells.get(metric)
    if cell is None or cell.text.lower() in _UNREAD:
        return None
    if cell.unit not in units:
        raise _refused(path, cell, f"the unit is not one of {', '.join(filter(None, units))}")
    if not _NUMBER.fullmatch(cell.text):
        raise _refused(path, cell, "not a number")
    try:
        return float(cell.text.replace(",", "")) * units[cell.unit]
    except ValueError:
        raise _refused(path, cell, "not a number") from None


def _counters(path: Path, launch: _Launch) -> KernelCounters:
    duration = _value(path, launch, _TIME, _TIMES)
    moved = _bytes(path, launch)
    scalar, missing = _scalar_flops(path, launch)
    tensor = _tensor_instructions(path, launch)
    unknown = {
        f"time: {_TIME} was not collected": duration is None,
        f"bytes: {_BYTES} was not collected": moved is None,
        f"FLOP: {', '.join(missing)} not collected": bool(missing),
        f"FLOP: {_TENSOR} was not collected, and tensor cores may have run": tensor is None,
        f"FLOP: tensor cores ran {tensor or 0:.0f} instructions; what one computes depends on the GPU": bool(tensor),
    }
    return KernelCounters(
        id=launch.id,
        name=launch.name,
        grid=launch.grid,
        block=launch.block,
        duration_s=duration,
        bytes=moved,
        flops=scalar if tensor == 0 else None,
        scalar_flops=scalar,
        tensor_instructions=tensor,
        unknown=tuple(reason for reason, applies in unknown.items() if applies),
    )


def _bytes(path: Path, launch: _Launch) -> float | None:
    """DRAM traffic; where only the two directions were measured, their sum."""
    total = _value(path, launch, _BYTES, _BYTE_UNITS)
    if total is not None:
        return total
    ways = [_value(path, launch, metric, _BYTE_UNITS) for metric in (_READ, _WRITTEN)]
    return None if None in ways else sum(way for way in ways if way is not None)


def _scalar_flops(path: Path, launch: _Launch) -> tuple[float | None, list[str]]:
    """FLOP outside tensor cores, and the precisions that were not measured whole: without one the sum is not known."""
    counts = dict(_instructions(path, launch))
    missing = [name for p, name in _PRECISIONS.items() if any(counts[p + op] is None for op in _FLOPS)]
    if missing:
        return None, [f"instructions of {name} precision" for name in missing]
    return sum((counts[p + op] or 0) * flops for p in _PRECISIONS for op, flops in _FLOPS.items()), []


def _instructions(path: Path, launch: _Launch) -> Iterator[tuple[str, float | None]]:
    for operation in (p + op for p in _PRECISIONS for op in _FLOPS):
        metric = _INSTRUCTIONS.format(operation)
        quarters = _value(path, launch, f"smsp__{metric}", _COUNTS)
        yield operation, _value(path, launch, f"sm__{metric}", _COUNTS) if quarters is None else quarters


def _tensor_instructions(path: Path, launch: _Launch) -> float | None:
    """Instructions of tensor cores: the total, else, where a part of it was measured and is not 0, at least that."""
    total = _value(path, launch, _TENSOR, _COUNTS)
    if total is not None:
        return total
    parts = [_value(path, launch, metric, _COUNTS) for metric in launch.cells if _ANY_TENSOR.fullmatch(metric)]
    return sum(part or 0 for part in parts) or None
