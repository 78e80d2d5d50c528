"""What does a rank's part say at this moment? From the session's state to the part that probe.runs.run writes."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from probe.machine import environment
from probe.machine.device import Device
from probe.runs.run import PHASES, Cycle, Metric, RankPart, StepTimes
from probe.session.launch import Place
from probe.session.options import SNAPSHOT, Options
from probe.session.steps import COLUMNS, StepLog

MASK = "…"
_SECRET = re.compile(r"(token|key|secret|password|passwd|credentials?)$", re.IGNORECASE)


def describe(place: Place, options: Options, tags: Mapping[str, Any]) -> RankPart:
    """The part as the run begins: where it runs, on what, and what was asked for."""
    device = _device()
    return RankPart(
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        rank=place.rank,
        world_size=place.world_size,
        local_rank=place.local_rank,
        launch=place.launch,
        host=socket.gethostname() if place.world_size > 1 else "",  # to tell nodes apart; else nobody's business
        pid=os.getpid(),
        command={"argv": masked(sys.argv), "executable": sys.executable, "cwd": str(Path.cwd())},
        environment=environment.describe(device),
        device=device,
        options=asdict(options),
        tags={str(key): value if isinstance(value, (int, float, bool)) else str(value) for key, value in tags.items()},
    )


def masked(argv: Sequence[str]) -> list[str]:
    """The command line without the values of options whose names say that they are secret."""
    shown: list[str] = []
    hide = False
    for word in argv:
        name, equals, _ = word.partition("=")
        secret = _SECRET.search(name) is not None
        if hide and not word.startswith("--"):
            shown.append(MASK)
            hide = False
        else:
            shown.append(name + equals + MASK if secret and equals else word)
            hide = secret and not equals and word.startswith("-")
    return shown


def _device() -> Device:
    """The GPU this process uses, else the CPU. Imports no torch: one that nobody imported uses no GPU."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return environment.cuda_device(torch.cuda.current_device())
    return environment.cpu_device()


def step_times(log: StepLog, steps: int) -> StepTimes:
    """The kept steps of `steps`, as arrays."""
    rows = len(log.durations_ns)
    runs = log.phase_runs(steps)
    ends = np.cumsum([count for _, count in runs])
    codes = np.array([PHASES.index(phase) for phase, _ in runs], np.uint8)
    of_row = np.searchsorted(ends, np.arange(rows) * log.stride, side="right")
    columns = {name: log.column(name) for name in COLUMNS}
    return StepTimes(
        np.array(log.durations_ns, np.int64),
        codes[of_row] if rows else np.empty(0, np.uint8),
        log.stride,
        steps,
        **{name: None if column is None else np.array(column) for name, column in columns.items()},
    )


def metrics(log: StepLog) -> dict[str, Metric]:
    """The user's metrics."""
    return {name: Metric(s.unit, tuple(s.steps), tuple(s.values)) for name, s in log.series.items()}


def collected(
    options: Options,
    cycles: Sequence[Cycle],
    steps: int,
    reason: str | None,
    *,
    waits: bool,
    modules: bool,
    graph: bool | str | None,
    telemetry: bool | str,
) -> dict[str, bool | str]:
    """For each thing that can be collected: true, or why it was not. graph: None where it was not wanted."""
    traced = [cycle for cycle in cycles if cycle.file]
    no_trace = reason or "no cycle has ended yet"
    shaped = any(cycle.shapes for cycle in traced)
    unasked = "not asked for"
    return {
        "step_times": steps > 0 or "no step() was called",
        "data_wait": waits or "the loop did not go through session.batches()",
        "trace": bool(traced) or no_trace,
        "shapes": shaped or (traced[0].note or "left out to keep the pause short" if traced else no_trace),
        "tensors": any(cycle.tensors for cycle in traced)
        or "left out: it would have slowed a step too much, or ranks exchange meanwhile",
        "memory": (bool(traced) or no_trace) if options.memory else f"{unasked}: pass memory=True",
        "memory_snapshot": any(cycle.memory for cycle in traced) or _why_no_snapshot(options, cycles, no_trace),
        "stacks": (bool(traced) or no_trace) if options.stacks else f"{unasked}: pass stacks=True",
        "telemetry": telemetry if options.telemetry else unasked,
        "modules": (bool(traced) or no_trace) if modules else f"{unasked}: pass model=",
        "model": graph if graph is not None else f"{unasked}: pass model=",
    }


def _why_no_snapshot(options: Options, cycles: Sequence[Cycle], no_trace: str) -> str:
    if options.memory != SNAPSHOT:
        return f'not asked for: pass memory="{SNAPSHOT}"'
    return "no CUDA device was used, or it could not be written" if cycles else no_trace
