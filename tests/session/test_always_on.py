"""Does a loop that is watched for ever record when it should, keep what it may, and leave the rest alone?"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from probe.collectors import kineto_log
from probe.errors import UsageError
from probe.runs.run import Cycle, Run, load
from probe.session import profile, watch
from probe.session import session as sessions
from probe.session.options import KEPT, Options
from probe.session.rotation import rotated, superfluous
from probe.session.steps import StepLog
from probe.session.watch import TRIGGER, Watch

MS = 1_000_000
ones = torch.ones(16)


class Clock:
    """Time that only tests move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def watching(tmp_path: Path, log: StepLog, clock: Clock, **options: Any) -> Watch:
    asked = {"every_s": None, "slow": None, "on_demand": False, "lead": 3} | options
    return Watch(log, tmp_path, clock=clock, **asked)


def feed(log: StepLog, count: int, ms: float = 10) -> None:
    log.durations_ns.extend([int(ms * MS)] * count)


def test_the_clock_asks_again_and_again(tmp_path: Path) -> None:
    clock = Clock()
    told = watching(tmp_path, StepLog(), clock, every_s=600)
    assert told.look(1) is None and told.pace(10 * MS) == 100  # a second of steps
    clock.now += 599.9
    assert told.look(2) is None and told.pace(10 * MS) == 10
    clock.now += 0.1
    asked = told.look(3)
    assert asked is not None and asked.why == "every 600 s"
    told.rest(7)
    assert told.look(8) is None
    assert told.pace(30_000 * MS) == 1


def test_a_touched_file_asks_once_a_touch(tmp_path: Path) -> None:
    (tmp_path / TRIGGER).touch()  # left behind by an earlier run
    told = watching(tmp_path, StepLog(), Clock(), on_demand=True)
    deaf = watching(tmp_path, StepLog(), Clock(), every_s=600)
    assert told.look(1) is None
    now = (tmp_path / TRIGGER).stat().st_mtime_ns
    for number, touched in enumerate((now + 5, now - 3_600_000_000_000)):  # then the wall clock was set back
        os.utime(tmp_path / TRIGGER, ns=(touched, touched))
        asked = told.look(3 + 2 * number)
        assert asked is not None and "trigger" in asked.why and told.look(4 + 2 * number) is None
    (tmp_path / TRIGGER).unlink()
    assert told.look(7) is None
    (tmp_path / TRIGGER).touch()
    assert told.look(8) is not None
    assert deaf.look(9) is None


@pytest.fixture
def default_signal() -> Iterator[None]:
    before = signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGUSR2, before)


@pytest.mark.usefixtures("default_signal")
def test_a_signal_asks_only_where_the_program_has_no_handler(tmp_path: Path) -> None:
    told = watching(tmp_path, StepLog(), Clock(), on_demand=True)
    told.begin()
    os.kill(os.getpid(), signal.SIGUSR2)
    asked = told.look(1)
    assert asked is not None and asked.why == "SIGUSR2" and told.look(2) is None
    told.end()
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
    mine: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, frame: mine.append(number))
    told.begin()
    os.kill(os.getpid(), signal.SIGUSR2)
    assert mine == [signal.SIGUSR2] and told.look(3) is None
    handler = signal.getsignal(signal.SIGUSR2)
    told.end()
    assert signal.getsignal(signal.SIGUSR2) is handler


def test_a_slow_step_has_the_next_ones_recorded_but_not_too_often(tmp_path: Path) -> None:
    log, clock = StepLog(), Clock()
    told = watching(tmp_path, log, clock, slow=2.0)
    feed(log, 10)
    feed(log, 1, 90)
    assert told.look(11) is None  # too few to say what is slow
    feed(log, 30)
    feed(log, 1, 19)
    assert told.look(42) is None
    feed(log, 1, 50)
    asked = told.look(43)
    assert asked is not None and asked.step is None and asked.why.startswith("slow step 42: 50.0 ms, p95 1")
    told.rest(50)
    feed(log, 7, 10)  # the recorded ones, which do not count
    feed(log, 1, 70)
    feed(log, 100)
    assert told.look(151) is None  # within a minute of the last
    clock.now += watch.SLOW_REST_S
    feed(log, 1, 70)
    assert told.look(152) is not None


def test_slow_steps_that_come_evenly_are_waited_for(tmp_path: Path) -> None:
    log, clock = StepLog(), Clock()
    told = watching(tmp_path, log, clock, slow=3.0, lead=4)
    feed(log, 41)
    assert told.look(41) is None
    for number in range(3):
        feed(log, 1, 80)
        feed(log, 49)
        asked = told.look(len(log.durations_ns))
        assert (asked is not None) == (number == 0)
    assert told.distance() == 50  # steps 41, 91, 141; it is 191 now, and the next one comes too soon
    begin = told.until(191)
    assert begin == 241 - 4 and told.look(236) is None
    asked = told.look(237)
    assert asked is not None and asked.step == 241 and "one every 50 steps, so 241 is recorded" in asked.why


def test_uneven_slow_steps_are_not_foretold(tmp_path: Path) -> None:
    told = watching(tmp_path, StepLog(), Clock(), slow=3.0)
    for steps, distance in (((10, 20), None), ((10, 20, 45), None), ((10, 11, 12), None), ((5, 105, 207), 102)):
        told._slow_steps.clear()
        told._slow_steps.extend(steps)
        assert told.distance() == distance


def cycles(*sizes: int, slow: int | None = None) -> list[Cycle]:
    return [
        Cycle(k, f"trace.rank00000.cycle{k}.json.gz", 10 * k, (90 if k == slow else 10,), bytes=size)
        for k, size in enumerate(sizes)
    ]


def test_the_newest_and_the_slowest_are_kept() -> None:
    assert superfluous(cycles(1, 1, 1, 1, 1, slow=1), 2, None) == {0, 2}
    assert superfluous(cycles(1, 1, 1, slow=2), 5, None) == set()
    assert superfluous(cycles(5, 5, 5, 5, slow=1), None, 10) == {0, 2}
    assert superfluous(cycles(5, 5, 50, slow=0), None, 10) == {0, 1}  # the newest stays, however large
    assert superfluous([], 1, 1) == set()


def test_files_go_and_the_cycle_says_so(tmp_path: Path) -> None:
    told = cycles(1, 1, 1, slow=0)
    for cycle in told:
        (tmp_path / str(cycle.file)).touch()
    kept = rotated(told, tmp_path, 1, None)
    assert [cycle.file is None for cycle in kept] == [False, True, False] and "make room" in str(kept[1].note)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [kept[0].file, kept[2].file]
    assert rotated(kept, tmp_path, 1, None) == kept


@pytest.mark.parametrize(
    "options",
    [{"every_s": 0}, {"every_s": "often"}, {"slow": 1.0}, {"slow": True}, {"keep": 0}, {"keep": 1.5},
     {"max_bytes": -1}, {"every_s": float("inf")}, {"repeat": 0}],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        profile(**options)


def test_what_is_kept_by_default() -> None:
    assert Options().kept is None and Options(every_s=1.0).kept == KEPT and Options(slow=2.0, keep=3).kept == 3
    assert not profile(repeat=1).options.on_demand and profile(every_s=5).options.on_demand
    assert not profile(every_s=5, on_demand=False).options.on_demand


def loop(prof: sessions.Session, steps: int) -> None:
    for _ in range(steps):
        torch.add(ones, ones)
        prof.step()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at after every step."""
    monkeypatch.setattr(Watch, "pace", lambda self, step_ns: 1)


def files(run: Run) -> list[str]:
    return [path.name for _, _, path in run.traces]


@pytest.mark.flaky(reruns=2)
@pytest.mark.usefixtures("often", "default_signal")
def test_recordings_on_demand_follow_the_schedule(tmp_path: Path) -> None:
    with profile(tmp_path / "r", wait=2, warmup=1, active=1, on_demand=True, keep=2, telemetry=False) as prof:
        loop(prof, 8)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGUSR2)
            loop(prof, 6)
    run = load(tmp_path / "r")
    assert prof.warnings == [] and signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
    told = run.main.cycles
    assert [cycle.trigger for cycle in told] == [None, "SIGUSR2", "SIGUSR2", "SIGUSR2"]
    assert [cycle.first_step for cycle in told] == [3, 10, 16, 22]
    assert len(files(run)) in (2, 3) and files(run)[-1] == "trace.rank00000.cycle3.json.gz"
    assert any(cycle.file is None and "make room" in str(cycle.note) for cycle in told)
    assert sorted(p.name for p in (tmp_path / "r").glob("trace.*")) == sorted(files(run))


@pytest.mark.flaky(reruns=2)
@pytest.mark.usefixtures("often")
def test_without_a_schedule_only_the_file_asks(tmp_path: Path) -> None:
    with profile(tmp_path / "r", warmup=2, active=2, repeat=0, on_demand=True, telemetry=False) as prof:
        loop(prof, 5)
        assert prof.path is not None
        (prof.path / TRIGGER).touch()
        later = prof.path.stat().st_mtime_ns + 10**9
        os.utime(prof.path / TRIGGER, ns=(later, later))
        loop(prof, 10)
    run = load(tmp_path / "r")
    (cycle,) = run.main.cycles
    assert (cycle.trigger, cycle.steps) == (f"the file {TRIGGER}", 2) and prof.warnings == []
    with profile(tmp_path / "none", repeat=0, on_demand=True, telemetry=False) as prof:
        loop(prof, 30)
    assert prof.warnings == ["no trace: nothing asked for a recording"]


@pytest.mark.flaky(reruns=2)
@pytest.mark.usefixtures("often")
def test_a_profiler_of_the_programs_own_is_waited_for(tmp_path: Path) -> None:
    with profile(tmp_path / "r", warmup=0, active=1, repeat=0, every_s=1e-9, telemetry=False) as prof:
        with kineto_log.silenced(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
            loop(prof, 4)
        loop(prof, 4)
    assert any("left out: another torch profiler" in warning for warning in prof.warnings)
    assert [cycle.trigger for cycle in load(tmp_path / "r").main.cycles][:1] == ["every 1e-09 s"]


@pytest.mark.usefixtures("often")
def test_the_slow_step_itself_is_recorded_where_it_comes_evenly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0]
    monkeypatch.setattr(sessions, "perf_counter_ns", lambda: now[0])
    options: dict[str, Any] = {"warmup": 1, "active": 3, "repeat": 0, "slow": 3.0, "max_pause_s": 30.0}
    with profile(tmp_path / "r", telemetry=False, **options) as prof:
        for step in range(240):
            torch.add(ones, ones)
            now[0] += 90 * MS if step >= 50 and step % 30 == 20 else 10 * MS
            prof.step()
    run = load(tmp_path / "r")
    triggers = [str(cycle.trigger) for cycle in run.main.cycles]
    assert triggers[0].startswith("slow step 50: 90.0 ms, p95 10.0 ms")  # seen too late: the next ones were recorded
    assert max(run.main.cycles[0].durations_ns) == 10 * MS
    assert "one every 30 steps, so 140 is recorded" in triggers[1]
    planned = run.main.cycles[1]
    assert max(planned.durations_ns) == 90 * MS
    assert planned.first_step <= 140 < planned.first_step + planned.steps
    assert len(triggers) == 2  # within a minute no more


@pytest.mark.usefixtures("often")
def test_looks_leave_one_window_of_telemetry(tmp_path: Path) -> None:
    seen: list[int] = []
    options: dict[str, Any] = {"telemetry": {"nvml_hz": 0, "dcgm_hz": 0, "rapl_hz": 0, "machine_hz": 0}}
    with profile(tmp_path / "r", repeat=0, every_s=1e6, **options) as prof:
        prof.follow(lambda step, values: seen.append(step), every_s=0.0)
        loop(prof, 50)
    windows = load(tmp_path / "r").main.telemetry["windows"]
    assert [(one["phase"], one["first_step"]) for one in windows] == [("after", 0)] and len(seen) >= 50


@pytest.mark.usefixtures("default_signal")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_its_signal_back(tmp_path: Path) -> None:
    with profile(tmp_path / "r", repeat=0, on_demand=True, telemetry=False) as prof:
        loop(prof, 2)
        child = os.fork()
        if child == 0:
            os._exit(0 if signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert signal.getsignal(signal.SIGUSR2) is not signal.SIG_DFL
