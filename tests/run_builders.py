"""Run directories of several ranks, and directories of their traces, as a training writes them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import builders
import numpy as np

from probe.machine.device import Device
from probe.runs.run import Cycle, RankPart, StepTimes, part_name, trace_name, write_part
from probe.trace import TENSORS_MARK

STEPS_NS = 90_000  # of a bare step of rank 0; each further rank takes a tenth more


def steps_of(rank: int, rows: int = 12, step_ns: int = STEPS_NS) -> StepTimes:
    """Six waiting steps, one active one, and others after it; each rank a tenth slower than the one before."""
    phases = np.array([0] * 6 + [3] + [4] * (rows - 7), np.uint8)
    durations = np.full(rows, step_ns + rank * step_ns // 10, np.int64)
    return StepTimes(durations, phases, total=rows, samples=np.full(rows, 8.0))


def record(
    directory: Path, world_size: int = 2, traced: Collection[int] | None = None, step_ns: int = STEPS_NS, **head: Any
) -> Path:
    """A run directory: a part of every rank, and a trace of the ranks `traced`, by default all."""
    directory.mkdir(parents=True, exist_ok=True)
    for rank in range(world_size):
        recorded = traced is None or rank in traced
        cycles = (Cycle(0, trace_name(rank, 0), 6, (100_000,), 1),) if recorded else ()
        write_part(
            directory,
            RankPart(
                status="finished", rank=rank, world_size=world_size, device=Device("cuda", "NVIDIA Test GPU"),
                environment={"torch": "2.9"}, cycles=cycles, steps=steps_of(rank, step_ns=step_ns),
            ),
        )  # fmt: skip
        if recorded:
            about = {"distributedInfo": {"rank": rank, "world_size": world_size}, "deviceProperties": builders.GPU}
            builders.write(directory, builders.gpu_step(), trace_name(rank, 0), **{**about, **head})
    assert (directory / part_name(0)).is_file()
    return directory


def traces(directory: Path, world_size: int = 2, name: str = "rank{}.json", steps: int = 1, late: float = 0.0) -> Path:
    """A directory with a trace of each rank, `late` microseconds of each step more than 50."""
    directory.mkdir(parents=True, exist_ok=True)
    for rank in range(world_size):
        events = []
        for number in range(steps):
            start = number * (60 + late)
            events += [builders.step(number, start, 50 + late), builders.op("aten::mm", start + 1, 40 + late)]
        about = {"distributedInfo": {"rank": rank, "world_size": world_size}}
        builders.write(directory, events, name.format(rank), **about)
    return directory


def timed_names(path: Path) -> list[str]:
    """The names of the events of a recorded trace, without those of the step that was recorded for its tensors."""
    with gzip.open(path) as file:
        events = [e for e in json.load(file)["traceEvents"] if e.get("ph") == "X"]
    mark = next((e for e in events if e["name"] == TENSORS_MARK), None)
    return [e["name"] for e in events if mark is None or not mark["ts"] <= e["ts"] <= mark["ts"] + mark["dur"]]
