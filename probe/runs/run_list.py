"""Which runs are in a directory, and what did they use? One row a run, from its parts alone: no trace is opened.

What bounds a run is shown where it was analysed before (analysis_cache.py). Sums by a tag mark runs that used unusually
much: by more than FAR median absolute deviations above the median of their tag's runs, of which there must be FEWEST.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from probe.errors import InputError, RunError
from probe.price import Prices
from probe.runs import analysis_cache, run
from probe.runs.run import RankPart
from probe.schema import to_jsonable

SCHEMA = "probe.ls/1"
DEPTH = 4  # of directories in which runs are looked for
FAR = 3.0
FEWEST = 5
EVEN_FRACTION = 0.01  # of the median: runs that agree to the last digit have no deviation
ENERGY_SOURCES = ("nvml", "rapl")


@dataclass(frozen=True)
class ListedRun:
    """One run. What is not known is None; `problem` says what is damaged."""

    path: str
    created: str | None = None  # ISO 8601, UTC
    age_s: float | None = None
    status: str | None = None  # "finished", "running", "killed", "raised: …"; killed: so it seems from here
    problem: str | None = None
    script: str | None = None
    device: str | None = None
    device_kind: str | None = None
    ranks: int | None = None
    steps: int | None = None
    step_s: float | None = None  # median of the bare steps, of all where there are none
    duration_s: float | None = None
    device_hours: float | None = None  # duration times ranks
    energy_j: float | None = None  # of the whole run, all devices
    cost_usd: float | None = None
    bound: str | None = None
    idle_usd: float | None = None
    recoverable_usd: float | None = None
    traces: int | None = None
    bytes: int | None = None  # on disk
    tags: dict[str, Any] | None = None


@dataclass(frozen=True)
class Group:
    """All runs with one value of a tag."""

    value: str | None  # None: without the tag
    runs: int
    duration_s: float
    device_hours: float
    energy_j: float | None  # of the runs where it is known
    energy_runs: int
    cost_usd: float | None
    cost_runs: int
    unusual: tuple[str, ...]  # paths
    unusual_by: str | None  # "cost_usd", "energy_j" or "device_hours"


@dataclass(frozen=True)
class RunList:
    """The runs of a directory, the newest first."""

    directory: str
    runs: tuple[ListedRun, ...]
    by: str | None = None
    groups: tuple[Group, ...] = ()
    warnings: tuple[str, ...] = ()
    schema: str = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """The object that `probe ls --json` prints."""
        content: dict[str, Any] = to_jsonable(self)
        return {"schema": content.pop("schema"), **content}


def list_runs(directory: Path, prices: Prices, by: str | None = None, now: datetime | None = None) -> RunList:
    """The runs in `directory` and below. Raises InputError where there is no such directory, or it cannot be read."""
    try:
        os.scandir(directory).close()
    except PermissionError as error:
        raise InputError(f"{directory}: cannot be read: {error.strerror}; have yourself given the right to") from None
    except OSError:
        raise InputError(
            f"{directory}: no such directory; name one that holds runs, or record one: probe.profile()"
        ) from None
    at = now or datetime.now(UTC)
    rows = [_listed(path, size, prices, at) for path, size in _found(directory, DEPTH)]
    rows.sort(key=lambda row: (row.created or "", row.path), reverse=True)
    groups = tuple(_groups(rows, by)) if by is not None else ()
    return RunList(str(directory), tuple(rows), by, groups, tuple(_warnings(rows, by)))


def _found(directory: Path, depth: int) -> Iterator[tuple[Path, int]]:
    """Run directories with their sizes in bytes. What cannot be looked into is passed over."""
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return
    if any(run.is_part(entry.name) for entry in entries):
        yield directory, sum(_size(entry) for entry in entries)
        return
    for entry in entries if depth else ():
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from _found(Path(entry.path), depth - 1)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size if entry.is_file(follow_symlinks=False) else 0
    except OSError:  # removed meanwhile
        return 0


def _listed(path: Path, size: int, prices: Prices, now: datetime) -> ListedRun:
    try:
        found = run.load(path)
    except RunError as error:
        return ListedRun(str(path), status=None, problem=str(error), bytes=size)
    row = _described(found, prices, now)
    hurt = [text for text in found.warnings if "still running" not in text]
    return replace(row, bytes=size, problem="; ".join(hurt) or None)


def _described(found: run.Run, prices: Prices, now: datetime) -> ListedRun:
    main = found.main
    created = _moment(main.created)
    seconds = max((part.duration_s or 0.0 for part in found.parts), default=0.0)
    price = prices(main.device.name if main.device else None)
    brief = analysis_cache.find(found.path, main.created)
    spent = None if price is None else price.of(seconds, found.world_size)
    return ListedRun(
        path=str(found.path),
        created=main.created or None,
        age_s=None if created is None else (now - created).total_seconds(),
        status=_status(found),
        script=_script(main),
        device=main.device.name if main.device else None,
        device_kind=main.device.kind if main.device else None,
        ranks=found.world_size,
        steps=main.steps.total,
        step_s=_step_s(main),
        duration_s=seconds,
        device_hours=seconds * found.world_size / 3600,
        energy_j=_energy_j(found),
        cost_usd=spent,
        bound=brief.bound if brief else None,
        idle_usd=_share(spent, brief.idle_s if brief else None, brief),
        recoverable_usd=_share(spent, brief.recoverable_s if brief else None, brief),
        traces=len(found.traces),
        tags=main.tags,
    )


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _share(spent: float | None, seconds: float | None, brief: analysis_cache.Brief | None) -> float | None:
    """What this part of each step cost over the whole run."""
    if spent is None or seconds is None or brief is None or not brief.step_s:
        return None
    return spent * min(1.0, seconds / brief.step_s)


def _status(found: run.Run) -> str:
    """The worst of all ranks. A run that never ended is running where its process is there to be seen."""
    states = [part.status for part in found.parts]
    ended = [state for state in states if state != "running"]
    if len(ended) < len(states):
        return "running" if any(_alive(part) for part in found.parts) else "killed"
    return next((state for state in states if state != "finished"), "finished")


def _alive(part: RankPart) -> bool:
    """Whether the process that writes this part still runs on this machine: its number, begun before the run was."""
    begun = _moment(part.created)
    if not part.pid or begun is None:
        return False
    try:
        return bool(psutil.Process(part.pid).create_time() <= begun.timestamp() + 1.0)
    except psutil.Error:
        return False


def _script(part: RankPart) -> str | None:
    argv = part.command.get("argv")
    first = argv[0] if isinstance(argv, list) and argv and isinstance(argv[0], str) else ""
    return Path(first).name or None


def _step_s(part: RankPart) -> float | None:
    bare = part.steps.bare_ns
    times = bare if len(bare) else part.steps.durations_ns
    return float(np.median(times)) * 1e-9 if len(times) else None


def _energy_j(found: run.Run) -> float | None:
    """Of the whole run by the devices' counters, each device once; None where a rank's is not known."""
    kind = found.main.device.kind if found.main.device else "unknown"
    source = ENERGY_SOURCES[0] if kind != "cpu" else ENERGY_SOURCES[1]
    devices: dict[str, float] = {}
    for part in found.parts:
        told = (part.telemetry.get("sources") or {}).get(source) or {}
        used = told.get("energy_used_j") or {}
        if not used and kind != "cpu":
            return None
        for device, joules in used.items():
            devices[f"{part.host}/{device}"] = max(devices.get(f"{part.host}/{device}", 0.0), float(joules))
    return sum(devices.values()) if devices else None


def _groups(rows: Sequence[ListedRun], by: str) -> Iterator[Group]:
    told = [row for row in rows if row.tags is not None]
    values = {None if by not in (row.tags or {}) else str((row.tags or {})[by]) for row in told}
    groups = [_group([r for r in told if _value(r, by) == value], value) for value in values]
    yield from sorted(groups, key=lambda group: (group.cost_usd or 0.0, group.device_hours), reverse=True)


def _value(row: ListedRun, by: str) -> str | None:
    return str(row.tags[by]) if row.tags and by in row.tags else None


def _group(rows: Sequence[ListedRun], value: str | None) -> Group:
    energies = [row.energy_j for row in rows if row.energy_j is not None]
    costs = [row.cost_usd for row in rows if row.cost_usd is not None]
    unusual_by, unusual = _unusual(rows)
    return Group(
        value, len(rows), sum(row.duration_s or 0.0 for row in rows), sum(row.device_hours or 0.0 for row in rows),
        sum(energies) if energies else None, len(energies), sum(costs) if costs else None, len(costs),
        unusual, unusual_by,
    )  # fmt: skip


def _unusual(rows: Sequence[ListedRun]) -> tuple[str | None, tuple[str, ...]]:
    """The runs that spent far more than the group's others: in money where each has a price, else energy, else time."""
    for measure in ("cost_usd", "energy_j", "device_hours"):
        spent = {row.path: getattr(row, measure) for row in rows}
        if len(spent) >= FEWEST and all(amount is not None for amount in spent.values()):
            most = limit(list(spent.values()))
            return measure, tuple(path for path, amount in spent.items() if amount > most)
    return None, ()


def limit(amounts: Sequence[float]) -> float:
    """The amount above which one of these is unusual."""
    middle = statistics.median(amounts)
    deviation = statistics.median(abs(amount - middle) for amount in amounts)
    return middle + FAR * max(deviation, EVEN_FRACTION * abs(middle))


def _warnings(rows: Sequence[ListedRun], by: str | None) -> Iterator[str]:
    if by is None:
        return
    if rows and not any(by in (row.tags or {}) for row in rows):
        known = sorted({name for row in rows for name in row.tags or {}})
        yield f"no run has the tag {by!r}; there are: {', '.join(known) or 'none'}"
    unread = sum(row.tags is None for row in rows)
    if unread:
        yield f"{unread} runs cannot be read and are in no sum"
