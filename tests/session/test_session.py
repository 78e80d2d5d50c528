"""Does `probe.profile` record what it says, where it says, within the pause it promises?"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_builders import timed_names

from probe.collectors.pause_budget import Plan
from probe.errors import RunError, UsageError
from probe.machine.device import Device
from probe.runs.run import PHASES, Run, load
from probe.session import annotate, profile
from probe.session import session as sessions
from probe.session.options import Options
from probe.session.snapshot import MASK, masked

ones = torch.ones(16)


def work(adds: int = 20) -> None:
    for _ in range(adds):
        torch.add(ones, ones)


def loop(prof: sessions.Session, steps: int, adds: int = 20) -> None:
    for _ in range(steps):
        work(adds)
        prof.step()


def names(run: Run, index: int = 0) -> Counter[str]:
    return Counter(timed_names(run.traces[index][2]))


def phases(run: Run) -> list[str]:
    return [PHASES[code] for code in run.main.steps.phases]


def test_a_loop_is_recorded_as_documented(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with profile(tmp_path / "exp1", tags={"team": "vision"}) as prof:
        loop(prof, 14)
    run = load(tmp_path / "exp1")
    assert run.warnings == run.main.warnings == tuple(prof.warnings) == ()
    assert run.main.status == "finished"
    assert phases(run) == ["wait"] * 4 + ["calibrate"] + ["warmup"] * 3 + ["active"] * 3 + ["after"] * 3
    assert (run.main.steps.durations_ns > 0).all()
    (cycle,) = run.main.cycles
    assert (cycle.first_step, cycle.steps, cycle.partial, cycle.shapes) == (8, 3, False, True)
    assert cycle.durations_ns == tuple(run.main.steps.profiled_ns)
    assert set(cycle.pause_s) == {"prepare", "stop", "export", "compress"}
    assert cycle.predicted_pause_s is not None
    found = names(run)
    assert found["aten::add"] == 60
    assert [found[f"ProfilerStep#{step}"] for step in range(7, 12)] == [0, 1, 1, 1, 0]
    assert cycle.events == sum(found.values()) + 21  # 20 additions and a mark, in the step recorded for its tensors
    assert run.main.collected["trace"] is run.main.collected["shapes"] is True
    assert run.main.collected["telemetry"] is True
    assert run.main.tags == {"team": "vision"}
    assert run.main.options["max_pause_s"] == 1.0
    assert run.main.environment["torch"] == torch.__version__
    assert prof.path == tmp_path / "exp1"
    assert {entry.name for entry in prof.path.iterdir() if not entry.name.startswith("telemetry.")} == {
        ".launch",
        "run.json",
        "tensors.rank00000.cycle0.json.gz",
        "trace.rank00000.cycle0.json.gz",
    }
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("probe: 3 steps recorded, pause 0.")
    assert line.endswith(f"run in {prof.path} — probe analyze {prof.path}")


def test_cycles_repeat_and_only_the_first_calibrates(tmp_path: Path) -> None:
    with profile(tmp_path / "r", wait=2, warmup=1, active=1, repeat=3) as prof:
        loop(prof, 14)
    run = load(tmp_path / "r")
    first = ["wait", "calibrate", "warmup", "active"]
    later = ["wait", "wait", "warmup", "active"]
    assert phases(run) == first + later * 2 + ["after"] * 2
    assert [cycle.first_step for cycle in run.main.cycles] == [3, 7, 11]
    assert [names(run, k)["aten::add"] for k in range(3)] == [20, 20, 20]


@pytest.mark.parametrize(
    ("wait", "warmup", "expected"),
    [
        (0, 2, ["calibrate", "warmup", "active", "after"]),
        (0, 0, ["active", "after", "after", "after"]),
        (1, 0, ["calibrate", "active", "after", "after"]),
        (0, 1, ["calibrate", "active", "after", "after"]),
    ],
)
def test_the_calibration_step_is_taken_where_there_is_one(
    tmp_path: Path, wait: int, warmup: int, expected: list[str]
) -> None:
    with profile(tmp_path / "r", wait=wait, warmup=warmup, active=1) as prof:
        loop(prof, 4)
    run = load(tmp_path / "r")
    assert phases(run) == expected
    assert names(run)["aten::add"] == 20


def test_a_run_is_kept_and_the_new_one_goes_beside_it(tmp_path: Path) -> None:
    for number, name in ((1, "exp1"), (2, "exp1-2"), (3, "exp1-3")):
        with profile(tmp_path / "exp1") as prof:
            loop(prof, 1)
        assert prof.path == tmp_path / name
        assert any("is kept" in warning for warning in prof.warnings) == (number > 1)


def test_without_a_path_the_run_is_under_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/some where/train it.py"])
    with profile() as prof:
        loop(prof, 1)
    assert prof.path is not None and prof.path.parent == Path("runs")
    assert prof.path.name.endswith("-train_it")


def test_throughput_metrics_and_waits_are_kept(tmp_path: Path) -> None:
    with profile(tmp_path / "r") as prof:
        for item in prof.batches([1, 2, 3]):
            prof.metric("loss", 1 / item, "nat")
            prof.step(samples=item, tokens=np.float32(item * 10), micro_batches=2)
    steps = load(tmp_path / "r").main.steps
    assert steps.samples is not None and steps.tokens is not None and steps.micro_batches is not None
    assert steps.samples.tolist() == [1, 2, 3]
    assert steps.tokens.tolist() == [10, 20, 30]
    assert steps.micro_batches.tolist() == [2, 2, 2]
    assert steps.data_wait_ns is not None and (steps.data_wait_ns > 0).all()
    metric = load(tmp_path / "r").main.metrics["loss"]
    assert (metric.unit, metric.steps, metric.values[0]) == ("nat", (0, 1, 2), 1.0)


def test_tensors_are_not_waited_for(tmp_path: Path) -> None:
    with profile(tmp_path / "r") as prof:
        prof.metric("loss", torch.ones(()), "nat")  # type: ignore[arg-type]
        prof.step(samples=torch.ones(()))  # type: ignore[arg-type]
    assert len(prof.warnings) == 3  # these two, and that the loop was too short
    assert "item()" in prof.warnings[0] and "Tensor" in prof.warnings[1]
    assert load(tmp_path / "r").main.steps.samples is None


def test_batches_is_the_iterable_but_for_the_clock(tmp_path: Path) -> None:
    class Loader:
        batch_size = 7

        def __iter__(self) -> Iterator[int]:
            yield 1
            raise KeyError("broken file")

        def __len__(self) -> int:
            return 12

    def endless() -> Iterator[int]:
        while True:
            yield 0

    with profile(tmp_path / "r") as prof:
        batches: Any = prof.batches(Loader())
        assert (len(batches), batches.batch_size) == (12, 7)
        with pytest.raises(KeyError, match="broken file"):
            list(batches)
        assert not prof.batches([])
        with pytest.raises(TypeError):
            len(prof.batches(endless()))  # type: ignore[arg-type]
        assert next(iter(prof.batches(endless()))) == 0
        assert list(prof.batches(iter([1, 2]))) == [1, 2]


def test_the_ranks_that_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        with profile(tmp_path / "first", wait=1, warmup=0, active=1) as prof:
            loop(prof, 3)
        with profile(tmp_path / "second", wait=1, warmup=0, active=1, ranks=[1]) as prof:
            loop(prof, 3)
    first, second = load(tmp_path / "first"), load(tmp_path / "second")
    assert [part.rank for part in first.parts] == [0, 1]
    assert [rank for rank, _, _ in first.traces] == [0]
    assert [rank for rank, _, _ in second.traces] == [1]
    assert "rank 1" in str(first.parts[1].collected["trace"])
    assert first.parts[1].warnings == ()  # nothing is wrong with a rank that was not asked to record
    assert len(first.parts[1].steps) == 3
    assert len(capsys.readouterr().err.splitlines()) == 2  # rank 0 speaks for all


class TwoRanks:
    """torch.distributed of rank 1, as far as probe uses it, with a store of torch's own."""

    def __init__(self) -> None:
        self.distributed_c10d = self
        self.store = torch.distributed.HashStore()

    def get_rank(self) -> int:
        return 1

    def get_world_size(self) -> int:
        return 2

    def _get_default_store(self) -> Any:
        return self.store


@pytest.mark.parametrize(("other", "recorded"), [(3.6e12, 0), (0.0, 1), (None, 0)])
def test_the_slowest_rank_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: float | None, recorded: int
) -> None:
    """Rank 0's steps take an hour, or no time; or it has no session and is not waited for."""
    distributed = TwoRanks()
    monkeypatch.setattr("probe.session.launch.initialised_distributed", lambda: distributed)
    monkeypatch.setattr("probe.session.schedule.initialised_distributed", lambda: distributed)
    monkeypatch.setattr("probe.session.schedule.SLOWEST_WAIT_S", 0.2)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    prof = profile(tmp_path / "r", wait=3, warmup=0, active=1, ranks="slowest")
    with prof:
        if other is not None:
            place = prof._place
            distributed.store.set(f"probe/{place.launch}/r/0", repr(other))
        loop(prof, 6)
    assert prof.path is not None
    assert len(load(prof.path).traces) == recorded
    assert any("not every rank told" in warning for warning in prof.warnings) == (other is None)


def test_slowest_without_torch_distributed_records_rank_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with profile(tmp_path / "r", ranks="slowest") as prof:
        loop(prof, 12)
    assert any("torch.distributed" in warning for warning in prof.warnings)
    assert len(load(tmp_path / "r").traces) == 1


# --- the pause


def test_fewer_steps_are_recorded_where_the_pause_would_be_too_long(tmp_path: Path) -> None:
    with profile(tmp_path / "r", wait=1, warmup=0, active=50, max_pause_s=0.2) as prof:
        loop(prof, 60, adds=600)  # with shapes at least 600 * 50 * 12 µs / 8 ...
    run = load(tmp_path / "r")
    (cycle,) = run.main.cycles
    assert 1 <= cycle.steps < 50 and cycle.partial
    assert any("max_pause_s" in warning for warning in run.main.warnings)
    assert cycle.note is not None and f"{cycle.steps} of 50 steps" in cycle.note


def test_a_loop_that_ends_early_says_one_number_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("probe.session.schedule.plan", lambda *_: Plan(6, True, 0.1, "6 of 40 steps: many events"))
    with profile(tmp_path / "r", wait=1, warmup=0, active=40, telemetry=False) as prof:
        loop(prof, 5)
    (cycle,) = load(tmp_path / "r").main.cycles
    assert (cycle.steps, cycle.requested_steps) == (4, 40)
    assert cycle.note == "4 of 40 steps: the loop ended while it was being recorded"
    assert prof.warnings == [f"recorded less than asked: {cycle.note}"]
    line = capsys.readouterr().err
    assert line.startswith("probe: 4 of 40 steps recorded, ") and "6 of" not in line


def test_of_many_cycles_that_lack_something_one_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = (Plan(1, True, 0.1, f"1 of 3 steps: {events} events") for events in range(10))
    monkeypatch.setattr("probe.session.schedule.plan", lambda *_: next(plans))
    with profile(tmp_path / "r", wait=1, warmup=0, repeat=3, telemetry=False) as prof:
        loop(prof, 10)
    assert [cycle.note for cycle in load(tmp_path / "r").main.cycles] == [f"1 of 3 steps: {n} events" for n in range(3)]
    assert prof.warnings == ["recorded less than asked: 1 of 3 steps: 0 events; pass a larger max_pause_s= for more"]


def test_no_trace_where_one_step_is_too_much(tmp_path: Path) -> None:
    with profile(tmp_path / "r", wait=1, warmup=1, active=1, max_pause_s=1e-6) as prof:
        loop(prof, 5)
    run = load(tmp_path / "r")
    assert run.traces == ()
    assert phases(run) == ["calibrate", *["after"] * 4]
    reason = str(run.main.collected["trace"])
    assert "events" in reason and "pass max_pause_s=" in reason
    assert prof.warnings == [f"no trace: {reason}"]


def test_shapes_are_dropped_before_the_trace_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.session.schedule.plan", lambda *_: Plan(1, False, 0.1, "no shapes: too many events"))
    with profile(tmp_path / "r", wait=1, warmup=0) as prof:
        loop(prof, 5)
    run = load(tmp_path / "r")
    assert not run.main.cycles[0].shapes
    assert "no shapes" in str(run.main.collected["shapes"])
    assert "no shapes" in prof.warnings[0]


def test_without_calibration_the_steps_duration_is_the_bound(tmp_path: Path) -> None:
    with profile(tmp_path / "r", wait=0, warmup=0, active=1000, max_pause_s=0.05) as prof:
        loop(prof, 500, adds=200)
    (cycle,) = load(tmp_path / "r").main.cycles
    assert 1 <= cycle.steps < 500


def test_a_pause_over_the_bound_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.session.schedule.plan", lambda *_: Plan(3, True, 0.1))
    with profile(tmp_path / "r", max_pause_s=1e-5) as prof:
        loop(prof, 12)
    assert any("paused training for" in warning for warning in prof.warnings)


# --- annotations


def test_annotations_are_in_the_trace(tmp_path: Path) -> None:
    @annotate("function")
    def function(x: int) -> int:
        """Doc."""
        return x + 1

    @annotate("coroutine")
    async def coroutine() -> int:
        return 5

    block = annotate("block")
    with profile(tmp_path / "r", wait=1, warmup=0, active=1) as prof:
        for _ in range(4):
            with block, block:
                assert function(1) == 2
                assert asyncio.run(coroutine()) == 5
            prof.step()
    found = names(load(tmp_path / "r"))
    assert (found["function"], found["coroutine"], found["block"]) == (1, 1, 2)
    assert (function.__name__, function.__doc__) == ("function", "Doc.")
    with pytest.raises(KeyError), annotate("failing"):
        raise KeyError


# --- options


@pytest.mark.parametrize(
    "options",
    [
        {"active": 0},
        {"wait": -1},
        {"warmup": 1.5},
        {"repeat": 0},
        {"wait": True},
        {"ranks": "bogus"},
        {"ranks": []},
        {"ranks": [-1]},
        {"ranks": ["0"]},
        {"ranks": 3},
        {"ranks": "slowest", "wait": 1},
        {"max_pause_s": 0},
        {"max_pause_s": float("nan")},
        {"max_pause_s": "1"},
        {"tags": ["a"]},
        {"path": 7},
    ],
)
def test_options_that_make_no_sense_are_refused_before_training(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        profile(**options)
    assert "\n" not in str(caught.value)


def test_options_keep_their_defaults() -> None:
    options = Options()
    assert (options.wait, options.warmup, options.active, options.repeat, options.ranks) == (5, 3, 3, 1, "first")
    assert (options.memory, options.stacks, options.telemetry, options.max_pause_s) == (False, False, True, 1.0)


# --- the interface


def test_disabled_is_one_object_with_the_whole_interface(tmp_path: Path, capsys: Any) -> None:
    off = profile(tmp_path / "r", enabled=False, active=-5)
    assert off is profile(enabled=False)
    data = [1, 2]
    with off as prof:
        assert prof.batches(data) is data
        prof.step()
        prof.step(samples=1, tokens=2, micro_batches=3)
        prof.metric("loss", 1.0, "nat")
    assert (off.path, list(off.warnings)) == (None, [])
    assert "disabled" in str(off.analysis())
    public = {name for name in dir(sessions.Session) if not name.startswith("_")}
    assert public - {"process_exits", "process_forked"} <= set(dir(off))
    assert not hasattr(off, "__dict__")
    assert list(tmp_path.glob("r*")) == []
    assert capsys.readouterr().err == ""


def test_the_analysis_is_the_analyzers_or_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = profile(tmp_path / "r")
    assert str(fresh.analysis()).startswith("probe: no analysis: ")
    with fresh as prof:
        loop(prof, 1)
    monkeypatch.setattr(sessions, "ANALYSE", None)
    assert f"probe analyze {prof.path}" in str(prof.analysis())
    monkeypatch.setattr(sessions, "ANALYSE", lambda path: f"report of {path}")
    assert prof.analysis() == f"report of {prof.path}"

    def refuse(path: Path) -> None:
        raise RunError(f"{path}: no trace")

    monkeypatch.setattr(sessions, "ANALYSE", refuse)
    assert str(prof.analysis()) == f"probe: no analysis: {prof.path}: no trace"
    monkeypatch.setattr(sessions, "ANALYSE", lambda path: 1 / 0)
    assert "ZeroDivisionError" in str(prof.analysis())


def test_the_line_goes_nowhere_where_there_is_no_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with profile(tmp_path / "r") as prof:
        loop(prof, 1)
    assert load(tmp_path / "r").main.status == "finished"


def test_steps_of_another_thread_are_not_the_loops(tmp_path: Path) -> None:
    with profile(tmp_path / "r") as prof:
        loop(prof, 2)
        thread = threading.Thread(target=lambda: (prof.step(), prof.step(), prof.metric("a", 1)))  # type: ignore[func-returns-value]
        thread.start()
        thread.join()
        loop(prof, 1)
    assert load(tmp_path / "r").main.steps.total == 3
    assert sum("another thread" in warning for warning in prof.warnings) == 2


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["--hf-token", "X", "--lr", "1"], ["--hf-token", MASK, "--lr", "1"]),
        (["--hf-token=X=="], [f"--hf-token={MASK}"]),
        (["--API_KEY", "-X", "-secret", "X"], ["--API_KEY", MASK, "-secret", MASK]),
        (["--password=X", "--passwd=X", "--aws-credentials=X", "--credential=X"], None),
        (["wandb.api_key=X", "lr=1"], [f"wandb.api_key={MASK}", "lr=1"]),
        (["--use-key", "--lr", "1"], ["--use-key", "--lr", "1"]),
        (["--use-key", "--hf-token=X"], ["--use-key", f"--hf-token={MASK}"]),
        (["--token", "key", "X.py"], ["--token", MASK, "X.py"]),
        (["train.py", "--max-tokens", "8", "--keys=2"], ["train.py", "--max-tokens", "8", "--keys=2"]),
        (["--token"], ["--token"]),
    ],
)
def test_secrets_on_the_command_line_are_masked(argv: list[str], shown: list[str] | None) -> None:
    found = masked(argv)
    assert found == shown if shown else not any("X" in word for word in found)


def test_the_part_says_the_device_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--hf-token", "hf_abc"])
    with profile(path=tmp_path / "run"):
        pass
    assert b"hf_abc" not in (tmp_path / "run" / "run.json").read_bytes()
    part = load(tmp_path / "run").main
    assert part.command["argv"] == ["train.py", "--hf-token", MASK]
    assert isinstance(part.device, Device)
