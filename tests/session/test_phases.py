"""Do annotated phases reach the telemetry: which ones, in which reading, and for next to nothing?"""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripted_telemetry import NS, sampler

import probe
from probe.collectors import phases
from probe.collectors.phases import OpenPhases
from probe.collectors.sample_buffer import SampleBuffer
from probe.collectors.sampling import Tick
from probe.errors import RunError
from probe.examine import telemetry as run_telemetry
from probe.results.telemetry import InPhases, PhasesOfRows, Samples
from probe.runs import telemetry_files
from probe.runs.run import load
from probe.session import annotate, annotation, profile


def here() -> OpenPhases:
    return OpenPhases(threading.get_ident())


@pytest.fixture
def noted() -> Any:
    """Phases as a session's telemetry notes them."""
    phases = here()
    annotation.note_phases(phases)
    yield phases
    annotation.note_phases(None)


def path(told: PhasesOfRows | None, row: int) -> tuple[tuple[str, ...], int]:
    assert told is not None
    return told.paths[told.path[row]], int(told.whole[row])


def test_a_phase_counts_as_whole_only_where_it_was_open_all_the_while() -> None:
    phases = here()
    outer = phases.enter("outer")
    assert outer is not None
    begun = outer[1]
    inner = phases.enter("inner")
    assert inner is not None
    assert phases.at(begun - 1) == InPhases(("outer", "inner"), 0)
    assert phases.at(begun).whole >= 1 and phases.at(inner[1]) == InPhases(("outer", "inner"), 2)
    phases.leave(outer)  # as coroutines may: in any order
    assert phases.at(inner[1]).names == ("inner",)
    phases.leave(outer)
    phases.leave(inner)
    assert phases.at(time.perf_counter_ns()) == InPhases()


def test_blocks_functions_and_coroutines_are_phases_and_end_with_errors(noted: OpenPhases) -> None:
    @annotate("function", fast=True)
    def function() -> list[str]:
        with annotate("block"):
            return [name for name, _ in noted.open]

    @annotate("coroutine")
    async def coroutine() -> list[str]:
        await asyncio.sleep(0)
        return [name for name, _ in noted.open]

    async def two() -> list[list[str]]:
        return await asyncio.gather(coroutine(), coroutine())

    assert function() == ["function", "block"]
    assert asyncio.run(two()) == [["coroutine", "coroutine"], ["coroutine"]]
    with pytest.raises(KeyError), annotate("raises"):
        raise KeyError
    again = annotate("again")
    with again, again:
        assert [name for name, _ in noted.open] == ["again", "again"]
    assert noted.open == []


def test_other_threads_and_other_times_are_not_the_loops(noted: OpenPhases) -> None:
    seen: list[list[Any]] = []

    def elsewhere() -> None:
        with annotate("worker"):
            seen.append(list(noted.open))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [[]] and noted.open == []
    before = annotate("open while the session ends")
    with before:
        annotation.note_phases(None)
        with annotate("after the session"):
            assert [name for name, _ in noted.open] == ["open while the session ends"]
    assert noted.open == []


def test_each_reading_keeps_the_phases_it_fell_into(tmp_path: Path) -> None:
    phases = here()
    one = sampler(tmp_path, phases=phases)
    one.tick(Tick(0, 1 * NS))
    phases.open = [("step", 1 * NS), ("forward", 2 * NS - 1)]
    one.tick(Tick(0, 2 * NS))
    one.tick(Tick(0, 3 * NS))
    phases.open = [("step", 3 * NS + 1)]
    one.tick(Tick(0, 4 * NS))
    one.flush()
    ((samples,), warnings) = telemetry_files.read(tmp_path, 0)
    told = samples.phases
    assert warnings == () and "in_phase" not in samples.columns
    assert [path(told, row) for row in range(4)] == [
        ((), 0), (("step", "forward"), 1), (("step", "forward"), 2), (("step",), 0),
    ]  # fmt: skip


def test_rows_without_phases_take_no_space_and_parts_with_and_without_are_joined(tmp_path: Path) -> None:
    def part(number: int, *paths: tuple[str, ...]) -> None:
        buffer = SampleBuffer("host")
        for row, names in enumerate(paths):
            buffer.add(10 * number + row, 0, "host", {"x": 1.0}, InPhases(names, len(names)))
        name = telemetry_files.part_name(0, "host", number)
        telemetry_files.write_part(tmp_path / name, buffer.samples({}), {})

    part(0, (), ())
    with np.load(tmp_path / telemetry_files.part_name(0, "host", 0)) as archive:
        assert set(archive.files) == {"probe", "at_ns", "unix_ns", "entity", "x"}
    part(1, ("b",), ("a", "b"))
    part(2, ("a", "b"), ())
    ((samples,), _) = telemetry_files.read(tmp_path, 0)
    expected = [(), (), ("b",), ("a", "b"), ("a", "b"), ()]
    assert [path(samples.phases, row) for row in range(6)] == [(names, len(names)) for names in expected]


@pytest.mark.parametrize("number", [2, -1])
def test_phases_that_cannot_be_are_refused(tmp_path: Path, number: int) -> None:
    def written(last: int) -> Path:
        told = PhasesOfRows(np.array([0, last], np.int32), np.zeros(2, np.int32), ((), ("a",)))
        at = np.arange(2, dtype=np.int64)
        samples = Samples("host", at, at, np.zeros(2, np.int32), ("host",), {"x": np.ones(2)}, {}, told)
        file = tmp_path / telemetry_files.part_name(0, "host", 0)
        telemetry_files.write_part(file, samples, {})
        return file

    assert path(telemetry_files.read_part(written(1)).phases, 1) == (("a",), 0)
    with pytest.raises(RunError, match="a phase beyond the 2"):
        telemetry_files.read_part(written(number))


def test_names_that_never_recur_do_not_pile_up() -> None:
    buffer = SampleBuffer("host", capacity=10)
    for number in range(1000):
        buffer.add(number, number, "e", {"x": 1.0}, InPhases((f"step {number}",), 1))
    told = buffer.samples({})
    assert len(buffer._paths) <= 21
    assert [path(told.phases, row)[0] for row in range(len(told))] == [(f"step {number}",) for number in told.at_ns]


def test_a_session_joins_phases_and_readings(tmp_path: Path) -> None:
    fast = {"host_hz": 100, "machine_hz": 0, "nvml_hz": 0, "dcgm_hz": 0, "rapl_hz": 0}
    with profile(tmp_path / "r", wait=30, telemetry=fast) as prof:
        for _ in range(4):
            with annotate("forward"):
                torch.add(torch.ones(4), 1)
                time.sleep(0.08)
            with annotate("short", fast=True):
                time.sleep(0.001)
            prof.step()
    assert annotation._phases is None
    told = run_telemetry.read(tmp_path / "r", load(tmp_path / "r").main).of("host")
    assert told is not None and told.phases is not None
    names = {told.phases.paths[number] for number in told.phases.path}
    assert ("forward",) in names and names <= {(), ("forward",), ("short",)}
    forward = told.phases.path == told.phases.paths.index(("forward",))
    assert 0 < (told.phases.whole[forward] == 1).sum() <= forward.sum()


def test_without_telemetry_nothing_is_noted(tmp_path: Path) -> None:
    with profile(tmp_path / "r", telemetry=False) as prof, annotate("forward"):
        assert annotation._phases is None
        prof.step()
    with profile(enabled=False), annotate("forward"):
        assert annotation._phases is None
    with probe.profile(tmp_path / "s") as prof:
        assert annotation._phases is not None
        with profile(tmp_path / "inner"):
            assert annotation._phases is not None
        assert annotation._phases is not None, "a session inside of another takes nothing from it"
        prof.step()


def test_a_range_asks_the_clock_once_beside_a_session_and_never_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def clock() -> int:
        asked.append(1)
        return len(asked)

    monkeypatch.setattr(phases, "perf_counter_ns", clock)
    for fast in (False, True):
        with annotate("bare", fast=fast):
            pass
        with profile(tmp_path / f"off{fast}", telemetry=False) as prof, annotate("bare", fast=fast):
            prof.step()
    assert asked == []
    with profile(tmp_path / "on") as prof:
        for fast in (False, True):
            with annotate("phase", fast=fast):
                pass
        prof.step()
    assert len(asked) == 2
