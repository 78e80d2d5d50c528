"""Do those who follow a run see its steps, and can they not harm it? TensorBoard for real, wandb by a stand-in."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from probe.errors import UnavailableError, UsageError
from probe.integrations import tensorboard, wandb
from probe.runs.run import load
from probe.session import profile
from probe.session.following import MOST_POINTS, Following
from probe.session.steps import StepLog

MS = 1_000_000


class Seen:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self.closed = 0

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        self.points.append((step, dict(values)))

    def close(self) -> None:
        self.closed += 1


def test_many_steps_are_told_as_means() -> None:
    log, seen = StepLog(), Seen()
    following = Following(log, seen, close=seen.close)
    for step in range(200):
        log.durations_ns.append((step + 1) * MS)
        log.note(step, tokens=10.0, data_wait_ns=float(MS))
    following.flush(200)
    assert len(seen.points) == MOST_POINTS and seen.points[0][0] == 3 and seen.points[-1][0] == 199
    first = seen.points[0][1]
    assert first == pytest.approx(
        {"probe/step_s": 0.0025, "probe/tokens_per_s": 40 / 0.010, "probe/data_wait_s": 0.001}
    )
    log.durations_ns.append(7 * MS)
    log.add_metric("loss", 200, 0.5, "")
    following.end(201)
    assert seen.points[-2:] == [(200, {"probe/step_s": pytest.approx(0.007)}), (200, {"loss": 0.5})]
    following.flush(201)
    assert len(seen.points) == MOST_POINTS + 2 and seen.closed == 1


def test_a_thinned_log_is_told_once() -> None:
    log, seen = StepLog(capacity=8), Seen()
    following = Following(log, seen)
    for step in range(20):
        if not step % log.stride:
            log.durations_ns.append(MS)
        log.thin()
        if step in (9, 19):
            following.flush(step + 1)
    steps = [step for step, _ in seen.points]
    assert steps == sorted(set(steps)) and steps[-1] >= 16


def test_a_run_is_told_while_it_goes_on_and_to_its_end(tmp_path: Path) -> None:
    seen = Seen()
    with profile(tmp_path / "r", wait=1000, telemetry=False) as prof:
        prof.follow(seen, every_s=0.0, close=seen.close)
        for step in range(5):
            prof.metric("loss", 1.0 / (step + 1))
            prof.step(samples=2)
        assert [step for step, values in seen.points if "probe/step_s" in values] == [0, 1, 2, 3, 4]
        assert seen.closed == 0
        prof.step()
    assert [values["loss"] for _, values in seen.points if "loss" in values] == [1.0, 0.5, 1 / 3, 0.25, 0.2]
    assert seen.points[-1][0] == 5 and seen.closed == 1
    prof.follow(seen)
    assert "outside of the `with`" in prof.warnings[-1]
    profile(enabled=False).follow(seen)


def test_who_raises_is_told_no_more_and_the_run_goes_on(tmp_path: Path) -> None:
    def broken(step: int, values: Mapping[str, float]) -> None:
        raise RuntimeError("the network is down")

    with profile(tmp_path / "r", wait=1000, telemetry=False) as prof:
        prof.follow(broken, every_s=0.0)
        for _ in range(5):
            prof.step()
    assert prof.warnings[0] == "one who follows the run is told no more: RuntimeError: the network is down"
    assert load(tmp_path / "r").main.steps.total == 5


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_shows_the_scalars(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with profile(tmp_path / "r", wait=1000, telemetry=False) as prof:
        tensorboard.follow(prof, tmp_path / "tb", every_s=0.0)
        for _ in range(4):
            prof.metric("loss", 0.5)
            prof.step(tokens=100)
    shown = EventAccumulator(str(tmp_path / "tb"))
    shown.Reload()
    assert {"probe/step_s", "probe/tokens_per_s", "loss"} <= set(shown.Tags()["scalars"])
    assert [event.step for event in shown.Scalars("probe/step_s")] == [0, 1, 2, 3]
    assert shown.Scalars("probe/step_s")[1].value == pytest.approx(
        load(tmp_path / "r").main.steps.durations_ns[1] * 1e-9
    )


def test_a_writer_of_the_users_is_left_open(tmp_path: Path) -> None:
    class Writer:
        def __init__(self) -> None:
            self.said: list[tuple[str, int]] = []

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.said.append((name, step))

        def flush(self) -> None:
            self.said.append(("flushed", -1))

    writer = Writer()
    with profile(tmp_path / "r", wait=1000, telemetry=False) as prof:
        tensorboard.follow(prof, writer)
        prof.step()
    assert writer.said == [("probe/step_s", 0), ("flushed", -1)]


def test_without_tensorboard_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UnavailableError, match="pip install tensorboard"):
        tensorboard.follow(None, tmp_path / "tb")


class Wandb:
    """As much of a run of wandb as is used."""

    def __init__(self) -> None:
        self.defined: list[tuple[str, str | None]] = []
        self.logged: list[dict[str, Any]] = []

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.defined.append((name, step_metric))

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)


def test_wandb_has_a_step_axis_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=run))
    with profile(tmp_path / "r", wait=1000, telemetry=False) as prof:
        wandb.follow(prof, every_s=0.0)
        prof.metric("loss", 2.0)
        prof.step()
        prof.step()
    assert run.defined == [("probe/step", None), ("probe/*", "probe/step")]
    assert {"probe/step": 0, "probe/loss": 2.0} in run.logged
    assert [values["probe/step"] for values in run.logged if "probe/step_s" in values] == [0, 1]
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=None))
    with pytest.raises(UsageError, match=r"wandb\.init"):
        wandb.follow(prof)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UnavailableError, match="pip install wandb"):
        wandb.follow(prof)
