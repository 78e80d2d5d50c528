"""What is a stored baseline, and what can be held against it? Counts, memory, and times beyond its own noise.

A small JSON file meant to be committed and read in reviews (schema probe.gate-baseline/1): a line a count and an
operator, numbers of four digits. It keeps the blocks of every session, so that any later test can be made of them.
Times of another time, and all the more of another machine, differ for reasons that no test sees: on one machine the
same code differed by 10 to 19 % between processes. They fail a gate only on the same machine and beyond three times
what the baseline's own sessions differ by; else they are told.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from probe.analyzers.gates.evidence import Counted, Key, OperatorTimes
from probe.errors import InputError
from probe.gate.session import Alone
from probe.schema import to_jsonable
from probe.units import significant

SCHEMA = "probe.gate-baseline/1"
DIGITS = 4
FEWEST_S = 20e-6  # operators of less are not kept: the file is read by people


@dataclass(frozen=True)
class Operator:
    """Of one step: seconds without the operators called, how much sessions differ, calls, kernels."""

    name: str
    shapes: str | None
    seconds: float
    spread_fraction: float | None
    calls: float
    kernels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Baseline:
    """What one version of the code took, on one machine, at one time."""

    command: str
    commit: str | None
    created: str  # ISO 8601, UTC
    fingerprint: dict[str, Any]
    metric: str  # "cpu_time" | "wall_time"
    control_s: dict[str, float]  # of arithmetic and of copying, by which another machine is told from other code
    sessions: tuple[tuple[float, ...], ...]  # medians of blocks, seconds per step
    wall_sessions: tuple[tuple[float, ...], ...]
    counts: dict[str, Counted]
    operators: tuple[Operator, ...] = ()
    ceilings: dict[str, Any] = field(default_factory=dict)
    schema: str = SCHEMA

    @property
    def log_medians(self) -> list[float]:
        """Of each session."""
        return [math.log(statistics.median(session)) for session in self.sessions]

    @property
    def step_s(self) -> float:
        """The median of the sessions' medians."""
        return math.exp(statistics.median(self.log_medians))

    @property
    def noise_fraction(self) -> float | None:
        """How much sessions of the same code differ: the standard deviation of their log medians."""
        return statistics.stdev(self.log_medians) if len(self.sessions) > 1 else None

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        found: dict[str, Any] = to_jsonable(asdict(self))
        return found | {"step_s": self.step_s, "noise_fraction": self.noise_fraction}


def made_of(
    taken: Sequence[Alone], command: str, commit: str | None, fingerprint: dict[str, Any], control_s: dict[str, float],
    ceilings: dict[str, Any],
) -> Baseline:  # fmt: skip
    """A baseline of the sessions of one version."""
    counts: dict[str, Counted] = {}
    for alone in taken:
        for name, count in alone.counts.items():
            known = counts.get(name, count)
            counts[name] = Counted(min(known.least, count.least), max(known.most, count.most), known.n + count.n)
    return Baseline(
        command=command,
        commit=commit,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        fingerprint=fingerprint,
        metric="wall_time" if taken[0].ready.on_gpu else "cpu_time",
        control_s={name: _rounded(value) for name, value in control_s.items()},
        sessions=tuple(tuple(map(_rounded, alone.gating_s)) for alone in taken),
        wall_sessions=tuple(tuple(map(_rounded, alone.wall_s)) for alone in taken),
        counts=dict(sorted(counts.items())),
        operators=_operators([alone.operators for alone in taken]),
        ceilings=ceilings,
    )


def _operators(sides: Sequence[OperatorTimes]) -> tuple[Operator, ...]:
    keys = dict.fromkeys(key for side in sides for key in side.seconds)
    rows = [_operator(key, sides) for key in keys]
    kept = [row for row in rows if row.seconds >= FEWEST_S]
    return tuple(sorted(kept, key=lambda row: (row.name, row.shapes or "")))


def _operator(key: Key, sides: Sequence[OperatorTimes]) -> Operator:
    seconds = np.array([side.seconds.get(key, 0.0) for side in sides])
    mean = float(seconds.mean())
    spread = _rounded(float(seconds.std(ddof=1)) / mean) if len(seconds) > 1 and mean > 0 else None
    first = next((side for side in sides if key in side.calls), OperatorTimes())
    return Operator(key[0], key[1], _rounded(mean), spread, first.calls.get(key, 0.0), first.kernels.get(key[0], ()))


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def as_text(baseline: Baseline) -> str:
    """The file: a line for every count, operator and session, so that a diff shows what changed."""
    content = baseline.to_json()
    wide = {"operators", "counts", "sessions", "wall_sessions"}
    lines = []
    for name, value in sorted(content.items(), key=lambda item: (item[0] in wide, item[0])):
        if name in wide and isinstance(value, Mapping):
            rows = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()]
            lines.append(f'"{name}": {{\n' + ",\n".join(rows) + "\n}")
        elif name in wide:
            lines.append(f'"{name}": [\n' + ",\n".join(f"  {json.dumps(v)}" for v in value) + "\n]")
        else:
            lines.append(f'"{name}": {json.dumps(value, sort_keys=True)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read(path: Path) -> Baseline:
    """A stored baseline. Raises InputError for what is none, or of another schema."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: {(error.strerror or str(error)).lower()}; record one with probe gate record"
        ) from None
    try:
        schema = msgspec.json.decode(data, type=dict[str, Any]).get("schema")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise InputError(f"{path}: not whole JSON; record it again with probe gate record") from None
    if schema != SCHEMA:
        raise InputError(f"{path}: its schema is {schema}, this probe reads {SCHEMA}; record it again")
    try:
        return msgspec.json.decode(data, type=Baseline)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: damaged ({error}); record it again") from None


def described(baseline: Baseline, path: Path) -> str:
    """A stored baseline in a few words."""
    commit = f" of {baseline.commit[:8]}" if baseline.commit else ""
    return f"{path}{commit} from {baseline.created[:10]}"


def spread(baseline: Baseline) -> str:
    """Its noise in words."""
    return "–" if baseline.noise_fraction is None else f"±{significant(baseline.noise_fraction * 100, 2)} %"
