"""What is in a run directory, and how is it written and read? The only file that knows the keys of run.json.

A run directory holds one part for each rank (run.json of rank 0, run.rank<N>.json of the others) and the traces.
Every file appears whole or not at all, so that a run killed at any moment can be read. See docs/run_format.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from probe.errors import RunError
from probe.files import write_atomically
from probe.machine.device import Device
from probe.results.serving import RequestTimes
from probe.schema import to_jsonable

SCHEMA = "probe.run/1"
PHASES = ("wait", "calibrate", "warmup", "active", "after")  # the code of a phase is its index here

Times = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]

_SCHEMA = re.compile(r"probe\.run/(\d+)")
_PART = re.compile(r"run(\.rank\d+)?\.json")
_TENSORS = re.compile(r"tensors\.rank[0-9]{5,}\.cycle[0-9]+\.json\.gz")  # what tensors_name gives
_MEMORY = re.compile(r"memory\.rank[0-9]{5,}\.cycle[0-9]+\.pickle")  # what memory_name gives
_GRAPH = re.compile(r"graph\.rank[0-9]{5,}\.json")  # what graph_name gives
_TRACE = re.compile(r"trace\.rank[0-9]{5,}\.cycle[0-9]+\.json\.gz")  # what trace_name gives


@dataclass(frozen=True)
class Cycle:
    """One recording: which steps it covers, what it cost, where its trace is."""

    index: int
    file: str | None  # in the run directory: plain Kineto JSON, gzip; None where none was kept
    first_step: int  # the number in the trace's first ProfilerStep#<number>
    durations_ns: tuple[int, ...] = ()  # of its complete steps, profiled
    requested_steps: int = 0
    events: int | None = None
    bytes: int | None = None
    shapes: bool = True
    tensors: str | None = None  # file of the tensors that one step used, in the run directory
    partial: bool = False  # the loop ended, or the budget, before `requested_steps` were recorded
    pause_s: dict[str, float] = field(default_factory=dict)  # prepare, stop, export, compress
    predicted_pause_s: float | None = None  # of stop, export and compress together
    note: str | None = None  # why it is partial, or has no file
    memory: str | None = None  # file of the allocator's snapshot, a pickle for PyTorch's viewer
    trigger: str | None = None  # what asked for it; None: the schedule of wait, warmup and active

    @property
    def steps(self) -> int:
        """Number of complete steps recorded."""
        return len(self.durations_ns)

    @property
    def end_pause_s(self) -> float:
        """How long training stood still at the end of this recording."""
        return sum(self.pause_s.get(part, 0.0) for part in ("stop", "export", "compress"))


@dataclass(frozen=True)
class Metric:
    """A user's metric by step."""

    unit: str
    steps: tuple[int, ...]
    values: tuple[float | None, ...]


@dataclass(frozen=True, eq=False)
class StepTimes:
    """Every kept step of one rank. Row k is step k * stride; arrays have shape [rows]."""

    durations_ns: Times
    phases: npt.NDArray[np.uint8]  # codes: index into PHASES
    stride: int = 1
    total: int = 0  # steps of the run, kept or not
    samples: Numbers | None = None  # NaN where a step said none
    tokens: Numbers | None = None
    micro_batches: Numbers | None = None
    data_wait_ns: Numbers | None = None

    def __len__(self) -> int:
        return len(self.durations_ns)

    def of_phase(self, *names: str) -> npt.NDArray[np.bool_]:
        """Mask of the rows in the phases `names`."""
        return np.isin(self.phases, [PHASES.index(name) for name in names])

    @property
    def is_cold(self) -> npt.NDArray[np.bool_]:
        """Mask of the first step, which pays for allocation, autotuning and lazy initialisation."""
        mask = np.zeros(len(self), bool)
        mask[:1] = True
        return mask

    @property
    def is_bare(self) -> npt.NDArray[np.bool_]:
        """Mask of the steps that nothing recorded: waiting and after the last cycle, without the cold one."""
        return self.of_phase("wait", "after") & ~self.is_cold

    @property
    def bare_ns(self) -> Times:
        """Durations of the bare steps."""
        return self.durations_ns[self.is_bare]

    @property
    def profiled_ns(self) -> Times:
        """Durations of the steps in the traces."""
        return self.durations_ns[self.of_phase("active")]


def no_steps() -> StepTimes:
    """The step times of a rank that made no step."""
    return StepTimes(np.empty(0, np.int64), np.empty(0, np.uint8))


class _Begun(msgspec.Struct):
    """As much of a part as tells runs apart by age."""

    created: str = ""


@dataclass(frozen=True, kw_only=True)
class _Head:
    """Everything of a part but the steps, as it stands in the file."""

    status: str = "running"  # "running" | "finished" | "raised: KeyError" | "interpreter exited"
    created: str = ""  # ISO 8601, UTC
    duration_s: float | None = None  # of the with block so far
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    launch: str = ""
    host: str = ""
    pid: int = 0
    command: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    device: Device | None = None
    options: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)
    cycles: tuple[Cycle, ...] = ()
    graph: str | None = None  # file of the model's graph, in the run directory
    closing_s: dict[str, float] = field(
        default_factory=dict
    )  # what leaving the block took: recording, graph, telemetry
    collected: dict[str, bool | str] = field(default_factory=dict)  # true, or why not
    telemetry: dict[str, Any] = field(default_factory=dict)  # clock, windows of steps, sources; see docs/telemetry.md
    requests: RequestTimes | None = None  # to a server, where session.request() marked them
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RankPart(_Head):
    """What one rank wrote."""

    steps: StepTimes = field(default_factory=no_steps)


@dataclass(frozen=True)
class Run:
    """A run directory with the parts of all its ranks, by rank."""

    path: Path
    parts: tuple[RankPart, ...]
    warnings: tuple[str, ...] = ()

    @property
    def main(self) -> RankPart:
        """The part of the lowest rank."""
        return self.parts[0]

    @property
    def traces(self) -> tuple[tuple[int, Cycle, Path], ...]:
        """Rank, cycle and file of every trace that is there, by rank and cycle."""
        found = ((part.rank, c, self.path / c.file) for part in self.parts for c in part.cycles if c.file)
        return tuple(entry for entry in found if entry[2].is_file())

    @property
    def world_size(self) -> int:
        """The number of ranks the launch had, whether or not each left a part."""
        return max(part.world_size for part in self.parts)


def part_name(rank: int) -> str:
    """File name of a rank's part."""
    return "run.json" if rank == 0 else f"run.rank{rank}.json"


def trace_name(rank: int, cycle: int) -> str:
    """File name of the trace that a rank recorded in its cycle `cycle`."""
    return f"trace.rank{rank:05d}.cycle{cycle}.json.gz"


def tensors_name(rank: int, cycle: int) -> str:
    """The file of a cycle's tensors, as torch's ExecutionTraceObserver writes it, gzip."""
    return f"tensors.rank{rank:05d}.cycle{cycle}.json.gz"


def memory_name(rank: int, cycle: int) -> str:
    """The file of a cycle's snapshot of CUDA's allocator, as https://pytorch.org/memory_viz opens it."""
    return f"memory.rank{rank:05d}.cycle{cycle}.pickle"


def graph_name(rank: int) -> str:
    """The file of the graph of a rank's model, schema probe.graph/1."""
    return f"graph.rank{rank:05d}.json"


def is_part(name: str) -> bool:
    """Whether a file of this name is a rank's part of a run."""
    return _PART.fullmatch(name) is not None


def is_run(path: Path) -> bool:
    """Whether `path` is a directory that holds a run, readable or not."""
    return path.is_dir() and any(_PART.fullmatch(entry.name) for entry in path.iterdir())


def created(path: Path) -> str:
    """When the run in `path` was begun, ISO 8601 in UTC; "" where that cannot be read."""
    for entry in sorted(path.iterdir()):
        if _PART.fullmatch(entry.name):
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                return msgspec.json.decode(entry.read_bytes(), type=_Begun).created
    return ""


def write_part(directory: Path, part: RankPart) -> None:
    """Write, or replace, a rank's part. Raises OSError."""
    write_atomically(directory / part_name(part.rank), encode(part))


def encode(part: RankPart) -> bytes:
    """A part as the JSON of schema probe.run/1."""
    head = {f.name: to_jsonable(getattr(part, f.name)) for f in dataclasses.fields(_Head)}
    return msgspec.json.encode({"schema": SCHEMA, **head, "steps": _encode_steps(part.steps)})


def _encode_steps(steps: StepTimes) -> dict[str, Any]:
    changes = np.flatnonzero(np.diff(steps.phases)) + 1
    edges = [0, *changes.tolist(), len(steps)] if len(steps) else []
    columns = {name: _encode_column(getattr(steps, name)) for name in _COLUMNS}
    return {
        "total": steps.total,
        "stride": steps.stride,
        "durations_ns": steps.durations_ns.tolist(),
        "phases": [[PHASES[steps.phases[a]], b - a] for a, b in itertools.pairwise(edges)],
        **columns,
    }


_COLUMNS = ("samples", "tokens", "micro_batches", "data_wait_ns")


def _encode_column(column: Numbers | None) -> list[float | None] | None:
    if column is None:
        return None
    return [value if value == value else None for value in column.tolist()]  # NaN differs from itself


@dataclass(frozen=True)
class _Steps:
    """The steps as they stand in the file."""

    total: int
    durations_ns: list[int]
    phases: list[tuple[str, int]]
    stride: int = 1
    samples: list[float | None] | None = None
    tokens: list[float | None] | None = None
    micro_batches: list[float | None] | None = None
    data_wait_ns: list[float | None] | None = None


def decode(data: bytes, where: str) -> RankPart:
    """The part in `data`; `where` names it in errors. Raises RunError in one line."""
    if not data.strip():
        raise RunError(f"{where}: empty; the run was interrupted while it began, record it again")
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RunError(f"{where}: not whole JSON ({error}); copy the run again, or record it again") from error
    _check_schema(raw, where)
    try:
        head = msgspec.convert({key: raw[key] for key in raw if key != "steps"}, _Head)
        _check_files(head.cycles)
        if head.graph is not None and not _GRAPH.fullmatch(head.graph):
            raise ValueError(f"it names {head.graph!r}, which is no file of a run")
        steps = msgspec.convert(raw.get("steps"), _Steps)
        return RankPart(**vars(head), steps=_decode_steps(steps))
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        raise RunError(f"{where}: damaged ({error}); copy the run again, or record it again") from error


def _check_schema(raw: Any, where: str) -> None:
    schema = raw.get("schema") if isinstance(raw, dict) else None
    match = _SCHEMA.fullmatch(schema) if isinstance(schema, str) else None
    if match is None:
        raise RunError(f"{where}: its schema is {schema!r}, not {SCHEMA!r}; it is not a run that probe wrote")
    if int(match[1]) != 1:
        raise RunError(f"{where}: written in {schema}, this probe reads {SCHEMA}; update torch-probe to read it")


def _check_files(cycles: tuple[Cycle, ...]) -> None:
    """ValueError for a trace whose name could lead out of the run directory."""
    for cycle in cycles:
        if cycle.file is not None and not _TRACE.fullmatch(cycle.file):
            raise ValueError(f"cycle {cycle.index} names {cycle.file!r}, which is no trace of a run")
        for name, pattern in ((cycle.tensors, _TENSORS), (cycle.memory, _MEMORY)):
            if name is not None and not pattern.fullmatch(name):
                raise ValueError(f"cycle {cycle.index} names {name!r}, which is no file of a run")


def _decode_steps(steps: _Steps) -> StepTimes:
    rows = len(steps.durations_ns)
    unknown = {name for name, _ in steps.phases} - set(PHASES)
    if unknown or any(count < 0 for _, count in steps.phases):
        raise ValueError(f"phases {sorted(unknown) or 'of negative length'}")
    codes = [PHASES.index(name) for name, _ in steps.phases]
    phases = np.repeat(np.array(codes, np.uint8), [count for _, count in steps.phases])
    columns = {name: _decode_column(getattr(steps, name), rows) for name in _COLUMNS}
    if len(phases) != rows or steps.stride < 1:
        raise ValueError(f"{len(phases)} phases for {rows} durations, stride {steps.stride}")
    return StepTimes(np.array(steps.durations_ns, np.int64), phases, steps.stride, steps.total, **columns)


def _decode_column(column: list[float | None] | None, rows: int) -> Numbers | None:
    if column is None:
        return None
    if len(column) != rows:
        raise ValueError(f"a column of {len(column)} values for {rows} durations")
    return np.array([np.nan if value is None else value for value in column], np.float64)


def load(path: Path | str) -> Run:
    """Read a run directory (or its run.json) and merge its ranks. Raises RunError in one line."""
    directory = Path(path)
    if directory.is_file() and _PART.fullmatch(directory.name):
        directory = directory.parent
    if not directory.is_dir():
        raise RunError(f"{directory}: no such directory; give the directory that probe.profile wrote")
    parts, warnings = _read_parts(directory)
    parts.sort(key=lambda part: part.rank)
    return Run(directory, tuple(parts), (*warnings, *_missing(directory, parts)))


def _read_parts(directory: Path) -> tuple[list[RankPart], list[str]]:
    """The readable parts, and a warning for each other; the only or last error where none can be read."""
    files = sorted(entry for entry in directory.iterdir() if _PART.fullmatch(entry.name))
    if not files:
        raise RunError(f"{directory}: no run.json in it; give a directory that probe.profile wrote")
    parts: list[RankPart] = []
    errors: list[RunError] = []
    for file in files:
        try:
            parts.append(_read_part(file))
        except RunError as error:
            errors.append(error)
    if not parts:
        raise errors[0]
    return parts, [f"a part was left out: {error}" for error in errors]


def _read_part(file: Path) -> RankPart:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise RunError(f"{file}: {error.strerror or error}; make it readable") from error
    part = decode(data, str(file))
    if file.name != part_name(part.rank):
        raise RunError(f"{file}: it is the part of rank {part.rank}; its name should be {part_name(part.rank)}")
    return part


def _missing(directory: Path, parts: list[RankPart]) -> list[str]:
    """What a whole run would have and this one has not."""
    world = max(part.world_size for part in parts)
    ranks = sorted(set(range(world)) - {part.rank for part in parts})
    names = ", ".join(map(str, ranks[:8])) + (", …" if len(ranks) > 8 else "")
    warnings = [f"{len(ranks)} of {world} ranks left no readable part: {names}"] if ranks else []
    for part in parts:
        lost = [cycle.file for cycle in part.cycles if cycle.file and not (directory / cycle.file).is_file()]
        warnings.extend(f"{directory / file}: the trace is missing" for file in lost)
        if part.status == "running":
            warnings.append(f"rank {part.rank} is still running, or was killed: its part ends with its last cycle")
    return warnings
