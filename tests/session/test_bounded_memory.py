"""Do memory and disk stay within what is stated, however long a loop goes on?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from prepared_torch import Prepared

from probe.collectors.sample_buffer import CAPACITY, SampleBuffer
from probe.collectors.telemetry import MOST_WINDOWS, Here, Settings, Telemetry
from probe.results.telemetry import InPhases
from probe.runs.run import Cycle, load
from probe.session import profile, rotation, schedule, steps, watch

MILLION = 1_000_000
MIB = 2**20

# Steps of ten operators each, watched for a recording that never comes; a child, because its own memory is the measure.
WAITING = """
import os, sys, torch
from probe.session import annotate, profile
ones = torch.ones(16)
hot = annotate("hot", fast=True)
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
options = {"repeat": 0, "every_s": 1e9, "slow": 1e9, "telemetry": {"host_hz": 100, "nvml_hz": 0, "dcgm_hz": 0}}
with profile(sys.argv[1], **options) as prof:
    prof.quiet = True
    for count in (20_000, 80_000):
        for _ in range(count):
            with hot:
                for _ in range(10):
                    torch.add(ones, ones)
            prof.step(samples=1)
        print(resident(), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_million_operators_take_no_more_than_the_log_of_their_steps(tmp_path: Path, prepared: Prepared) -> None:
    done = prepared.run("-c", WAITING, tmp_path / "r", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    early, late = (int(line) / MIB for line in done.stdout.split())
    assert late - early < 12, (early, late)  # the log: 80 000 rows of 16 bytes; 5 bytes an operator would be too much
    assert load(tmp_path / "r").main.steps.total == 100_000


def test_a_million_steps_are_the_most_that_are_kept() -> None:
    log = steps.StepLog()
    for step in range(3 * MILLION // 1000):
        log.durations_ns.extend([1] * (1000 // log.stride))
        if (step + 1) * 1000 >= log.full_at:
            log.thin()
    assert log.stride == 4 and len(log.durations_ns) <= steps.CAPACITY
    assert log.durations_ns.itemsize * log.durations_ns.buffer_info()[1] <= 8 * MILLION


def test_a_buffer_that_is_never_written_stays_at_its_bound() -> None:
    buffer = SampleBuffer("nvml")
    values = {f"x{number}": 1.0 for number in range(30)}
    most = 0
    for number in range(5 * CAPACITY):
        buffer.add(number, number, f"GPU-{number % 8}", values, InPhases((f"step {number}",), 1))
        most = max(most, len(buffer))
    assert most == 2 * CAPACITY and len(buffer) + buffer.dropped == 5 * CAPACITY
    held = sum(len(column) * column.itemsize for column in buffer._columns.values())
    assert held <= 2 * CAPACITY * len(values) * 8 and len(buffer._paths) <= 2 * CAPACITY + 1


def test_windows_of_steps_are_the_newest(tmp_path: Path) -> None:
    told = Telemetry(Settings(), Here(tmp_path), lambda text: None)
    for number in range(MOST_WINDOWS + 100):
        told.mark("active", number, 2 * number, 2 * number + 1)
    windows = told.describe()["windows"]
    assert len(windows) == MOST_WINDOWS and windows[-1]["first_step"] == MOST_WINDOWS + 98


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at after every step."""
    monkeypatch.setattr(watch.Watch, "pace", lambda self, step_ns: 1)


@pytest.mark.usefixtures("often")
def test_a_loop_that_is_recorded_for_ever_keeps_its_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "MOST_TOLD", 3)
    ones, seen = torch.ones(16), []
    options: dict[str, Any] = {"every_s": 1e-9, "max_pause_s": 30.0, "telemetry": False}

    def recorded() -> dict[str, int]:
        kinds = ("trace.", "tensors.", "memory.")
        return {path.name: path.stat().st_size for path in (tmp_path / "r").iterdir() if path.name.startswith(kinds)}

    with profile(tmp_path / "r", wait=2, warmup=2, active=1, max_bytes=20_000, **options) as prof:
        for _ in range(80):
            for _ in range(20):
                torch.add(ones, ones)
            prof.step()
            files = recorded()
            newest = [size for name, size in files.items() if f"cycle{len(seen)}" in name]
            seen.append(sum(files.values()) - sum(newest))
    part = load(tmp_path / "r").main
    assert max(seen) <= 20_000 and sum(recorded().values()) > 0
    assert part.cycles[-1].index >= 9, "too few recordings to fill the disk"
    assert sum(cycle.file is None for cycle in part.cycles) == 3
    assert any(name.startswith("tensors.") for name in recorded()), "tensors count, too"


def test_all_files_of_a_cycle_count(tmp_path: Path) -> None:
    cycles = [
        Cycle(k, f"trace.rank00000.cycle{k}.json.gz", k, (10,), bytes=10, tensors=f"tensors.rank00000.cycle{k}.json.gz")
        for k in range(4)
    ]
    for cycle in cycles:
        (tmp_path / str(cycle.file)).write_bytes(b"x" * 10)
        (tmp_path / str(cycle.tensors)).write_bytes(b"x" * 30)
    kept = rotation.rotated(cycles, tmp_path, None, 90)
    assert sum(cycle.file is not None for cycle in kept) == 2
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 80


def test_a_step_too_large_to_count_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "TELLING_S", 0.0)
    ones = torch.ones(16)
    with profile(tmp_path / "r", wait=2, max_pause_s=1e-4, telemetry=False) as prof:
        for _ in range(4):
            for _ in range(3000):
                torch.add(ones, ones)
            prof.step()
    assert any(warning.startswith("counting the 3000 events of one step paused") for warning in prof.warnings)
