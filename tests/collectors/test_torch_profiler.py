"""Is a window recorded whole, is its pause foreseen, and is another profiler left alone?"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probe.collectors import torch_profiler
from probe.collectors.pause_budget import ENOUGH_EVENTS, SAFETY, PauseModel, plan
from probe.collectors.torch_profiler import Recording, foreign_profiler, import_torch

ones = torch.ones(16)


def work(adds: int = 20) -> None:
    for _ in range(adds):
        torch.add(ones, ones)


def read(path: Path) -> dict[str, Any]:
    with gzip.open(path) as file:
        found: dict[str, Any] = json.load(file)
    return found


def names(trace: dict[str, Any]) -> Counter[str]:
    return Counter(event["name"] for event in trace["traceEvents"] if event.get("ph") == "X")


def record(path: Path, *, cut_short: int | None = None, **options: bool) -> tuple[Recording, dict[str, Any]]:
    import_torch()
    recording = Recording(shapes=options.pop("shapes", True), **options)
    recording.add_metadata("probe", rank=3)
    recording.prepare()
    recording.start()
    for step in (1, 11):
        recording.mark_step(step)
        work()
        recording.end_mark()
    recording.stop()
    recording.export(path, incomplete_step=cut_short)
    return recording, read(path)


def test_a_window_with_shapes_and_step_marks(tmp_path: Path) -> None:
    recording, trace = record(tmp_path / "t.json.gz")
    assert names(trace)["aten::add"] == 40
    assert names(trace)["ProfilerStep#1"] == names(trace)["ProfilerStep#11"] == 1
    add = next(event for event in trace["traceEvents"] if event["name"] == "aten::add")
    assert add["args"]["Input Dims"][0] == [16]
    assert trace["probe"] == {"rank": 3}
    assert trace["traceName"] == "t.json.gz"
    assert set(recording.pause_s) == {"prepare", "stop", "export", "compress"}
    assert recording.event_count() == sum(names(trace).values())
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["t.json.gz"]


def test_a_step_that_was_cut_short_is_no_step(tmp_path: Path) -> None:
    _, trace = record(tmp_path / "t.json.gz", cut_short=1)
    assert names(trace)["ProfilerStep#1"] == 0
    assert names(trace)["probe: incomplete step 1"] == 1
    assert names(trace)["ProfilerStep#11"] == 1  # not mistaken for step 1


def test_memory_and_stacks_are_recorded_on_request(tmp_path: Path) -> None:
    _, trace = record(tmp_path / "t.json.gz", shapes=False, memory=True, stacks=True)
    assert any(event["name"] == "[memory]" for event in trace["traceEvents"])
    assert any(event.get("cat") == "python_function" for event in trace["traceEvents"])


def test_a_calibration_counts_events_without_an_export() -> None:
    recording = Recording(shapes=False)
    recording.start()
    work(100)
    recording.stop()
    assert recording.event_count() == 100


def test_kineto_is_silent_and_the_users_level_is_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KINETO_LOG_LEVEL", raising=False)
    record(tmp_path / "t.json.gz")
    assert capfd.readouterr().err == ""
    monkeypatch.setenv("KINETO_LOG_LEVEL", "5")
    record(tmp_path / "u.json.gz")
    import os

    assert os.environ["KINETO_LOG_LEVEL"] == "5"


def test_a_missing_directory_and_an_unfinished_trace_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match="is gone"):
        record(tmp_path / "gone" / "t.json.gz")

    def cut(self: object, path: str) -> None:
        Path(path).write_text('{"traceEvents": [\n{"ph": "X"')  # what kineto leaves on a full disk

    monkeypatch.setattr(torch.profiler._KinetoProfile, "export_chrome_trace", cut)
    with pytest.raises(OSError, match="disk full"):
        record(tmp_path / "t.json.gz")
    assert [entry for entry in tmp_path.iterdir() if entry.is_file()] == []


def test_another_profiler_is_seen_in_all_its_states() -> None:
    assert foreign_profiler() is None
    schedule = torch.profiler.schedule(wait=1, warmup=1, active=1, repeat=1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], schedule=schedule) as theirs:
        for _ in range(3):
            assert foreign_profiler() is not None
            work(1)
            theirs.step()
    assert foreign_profiler() is None


def test_one_that_starts_while_ours_records_is_left_whole() -> None:
    ours = Recording(shapes=False)
    ours.start()
    assert not ours.lost
    theirs = torch.autograd.profiler.profile()  # not a torch.profiler.profile: only the flag tells
    with theirs:
        work(5)
        assert ours.lost
        ours.stop()
        work(5)
    assert [event.name for event in theirs.function_events].count("aten::add") == 10
    ours.abandon()
    assert foreign_profiler() is None


@pytest.mark.parametrize("leave", [Recording.end_mark, Recording.abandon, Recording.stop])
def test_a_mark_does_not_end_while_another_profiler_records(
    monkeypatch: pytest.MonkeyPatch, leave: Callable[[Recording], None]
) -> None:
    """torch has freed its event by then, and writes into it: with 300 000 events that was a segmentation fault."""
    left: list[object] = []
    monkeypatch.setattr(torch_profiler, "left_open", left)
    ours = Recording(shapes=False)
    ours.start()
    ours.mark_step(3)
    mark, ended = ours._mark, []
    monkeypatch.setattr(type(mark), "__exit__", lambda self, *error: ended.append(self))
    with torch.autograd.profiler.profile():
        leave(ours)
        assert ended == [] and left == [mark]  # kept, since dropping it would end it, too
    monkeypatch.undo()
    ours.abandon()
    mark.__exit__(None, None, None)


def test_one_that_ran_while_ours_was_prepared_does_no_harm(tmp_path: Path) -> None:
    ours = Recording(shapes=False)
    ours.prepare()
    with torch.autograd.profiler.profile() as theirs:
        work(5)
    ours.start()  # starting without preparing again is a segmentation fault in torch 2.13
    work(7)
    ours.stop()
    ours.export(tmp_path / "t.json.gz")
    assert len(theirs.function_events) == 5
    assert names(read(tmp_path / "t.json.gz"))["aten::add"] == 7


def test_abandoning_in_any_state_leaves_torch_usable() -> None:
    for steps in ([], ["prepare"], ["prepare", "start"], ["start", "stop"]):
        recording = Recording(shapes=False)
        for step in steps:
            getattr(recording, step)()
        recording.abandon()
        assert foreign_profiler() is None
        assert not torch.autograd.profiler._is_profiler_enabled
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as theirs:
            work(3)
        assert len(theirs.events()) == 3


# --- the pause


def test_a_short_step_is_recorded_as_asked() -> None:
    chosen = plan(PauseModel(), 1000, requested=3, max_pause_s=1.0)
    assert (chosen.steps, chosen.shapes, chosen.reason) == (3, True, None)


def test_steps_then_shapes_then_the_trace_are_given_up() -> None:
    fewer = plan(PauseModel(), 40_000, requested=3, max_pause_s=1.0)
    assert (fewer.steps, fewer.shapes) == (1, True)
    assert "1 of 3 steps" in (fewer.reason or "")
    bare = plan(PauseModel(), 80_000, requested=3, max_pause_s=1.0)
    assert (bare.steps, bare.shapes) == (1, False)
    assert "no shapes" in (bare.reason or "")
    none = plan(PauseModel(), 1_000_000, requested=3, max_pause_s=1.0)
    assert none.steps == 0
    assert "1000000 events" in (none.reason or "") and "max_pause_s=20" in (none.reason or "")
    assert plan(PauseModel(), 1_000_000, requested=1, max_pause_s=20).shapes


@given(st.floats(0, 1e7), st.integers(1, 100), st.floats(1e-3, 100), st.floats(0.1, 10))
def test_a_plan_never_exceeds_its_bound(events: float, requested: int, max_pause_s: float, machine: float) -> None:
    model = PauseModel(machine=machine)
    chosen = plan(model, events, requested, max_pause_s)
    assert 0 <= chosen.steps <= requested
    assert chosen.pause_s <= max_pause_s * SAFETY * (1 + 1e-9)
    assert (chosen.reason is None) == (chosen.steps == requested and chosen.shapes)


def test_the_model_learns_the_machine_and_then_the_truth() -> None:
    model = PauseModel()
    usual = model.pause_s(1000, shapes=True)
    model.calibrate(1.0, ENOUGH_EVENTS - 1)
    assert model.pause_s(1000, shapes=True) == usual  # a few events say nothing
    model.calibrate(4.0, 1_000_000)
    assert model.pause_s(1000, shapes=True) == pytest.approx(2 * usual)
    model.correct(0.5, 1000, shapes=True)
    assert model.pause_s(2000, shapes=True) == pytest.approx(1.0)
    assert model.pause_s(1000, shapes=False) < 0.5
