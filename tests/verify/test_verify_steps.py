"""`probe verify --apply`: whole programs with and without a change; what it changed, its losses, its memory."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import forked_workers
import pytest

from probe.analyzers.gates.sequential import bounds
from probe.changes.applying import _apart, _verdict, checked, recorded_command
from probe.cli import main
from probe.errors import UsageError
from probe.gate.command import Command
from probe.runs.run import RankPart, Run
from probe.verify.verdict import Memory

PROGRAM = """
import torch
torch.manual_seed(0)
torch.set_num_threads(1)

class Slow(torch.nn.Module):
    def forward(self, x):
        for _ in range(8):
            x = x + 0.0 * torch.tanh(x)
        return x

model = torch.nn.Sequential(torch.nn.Linear(32, 64), Slow(), torch.nn.Linear(64, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
while True:
    x = torch.randn(128, 32)
    loss = (model(x) - x.sum(-1, keepdim=True)).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
CHANGES = """
import torch

def faster(model):
    model[1].forward = lambda x: x

def learns_otherwise(model):
    model[1].forward = lambda x: 1.5 * x

def everywhere():
    original = torch.nn.Linear.forward
    torch.nn.Linear.forward = lambda self, x: original(self, x)

def breaks(model):
    raise ValueError("not today")
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a program and changes of it, as current directory."""
    forked_workers.install(monkeypatch)
    (tmp_path / "train.py").write_text(PROGRAM)
    (tmp_path / "changes.py").write_text(CHANGES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def applied(capsys: pytest.CaptureFixture[str], function: str, *more: str) -> tuple[int, dict[str, Any], str]:
    code = main(["verify", "unused", "--apply", function, "--budget", "1", "--json", *more, "--", "train.py"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


@pytest.mark.flaky(reruns=2)
def test_a_faster_step_that_learns_the_same(
    program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forked_workers.install(monkeypatch, real=2)  # those of the first session watch for torch before it is imported
    code, found, _ = applied(capsys, "changes:faster")
    assert code == 0 and found["verdict"] in ("accept", "inconclusive")
    assert found["speedup"] > 1 and found["sessions"] >= 2
    assert found["changed"] == ["1: forward replaced"]
    assert found["loss_steps"] >= 20
    assert found["loss_difference"] == found["loss_difference_of_itself"] == 0
    assert found["peak_bytes_after"] < found["peak_bytes_before"]


@pytest.mark.flaky(reruns=2)
def test_a_change_that_learns_otherwise_is_rejected(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, found, _ = applied(capsys, "changes.py:learns_otherwise")
    assert found["verdict"] == "reject"
    assert found["reason"].startswith("learns otherwise: the loss differs by up to")


@pytest.mark.flaky(reruns=2)
def test_a_function_without_a_model_patches_classes(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, found, _ = applied(capsys, "changes:everywhere")
    assert found["changed"] == ["torch.nn.modules.linear.Linear.forward replaced"]
    assert found["loss_difference"] == 0


def test_a_change_that_fails_is_told_with_its_own_words(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = applied(capsys, "changes:breaks")
    assert code != 0
    assert "with changes:breaks: the program failed" in said and "ValueError: not today" in said


@pytest.mark.parametrize(
    ("apply", "said"),
    [
        ("changes", "give MODULE:FUNC"),
        ("no-module:f", "give MODULE:FUNC"),
        ("nowhere.py:f", "there is no file nowhere.py"),
        ("train:f", "importing the program would run it"),
        ("train.py:f", "importing the program would run it"),
    ],
)
def test_what_cannot_be_applied(program: Path, apply: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        checked(apply, Command("train.py"))


def test_a_program_needs_a_change(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "unused", "--", "train.py"]) == 2
    assert "only run with --apply" in capsys.readouterr().err


def test_the_runs_own_command_is_the_default(program: Path) -> None:
    argv = ["train.py", "--steps", "3"]
    run = Run(program, (RankPart(command={"argv": argv, "cwd": str(program)}),))
    command, cwd = recorded_command(run)
    assert (command.target, command.arguments, cwd) == (str(program / "train.py"), ("--steps", "3"), program)


@pytest.mark.parametrize("argv", [[], ["-c"], ["gone.py"], ["train.py", "--token", "…"]])
def test_a_command_that_was_not_recorded_is_asked_for(program: Path, argv: list[str]) -> None:
    run = Run(program, (RankPart(command={"argv": argv, "cwd": str(program)}),))
    with pytest.raises(UsageError, match="give it: probe verify RUN --apply"):
        recorded_command(run)


FASTER, SLOWER, EQUAL = ([sign * 0.2 + 0.001 * i for i in (-1, 0, 1)] for sign in (1, -1, 0))
LESS, MORE = Memory(100 << 20, 50 << 20), Memory(50 << 20, 100 << 20)


@pytest.mark.parametrize(
    ("ratios", "memory", "apart", "own", "verdict"),
    [
        (FASTER, Memory(), 0.0, 0.0, "accept"),
        (FASTER, MORE, 0.0, 0.0, "trade"),
        (SLOWER, Memory(), 0.0, 0.0, "reject"),
        (SLOWER, LESS, 0.0, 0.0, "trade"),
        (EQUAL, LESS, 0.0, 0.0, "trade"),
        (EQUAL, Memory(), 0.0, 0.0, "inconclusive"),
        (FASTER[:2], Memory(), 0.0, 0.0, "inconclusive"),
        (FASTER, Memory(), 0.01, 0.0, "reject"),
        (FASTER, Memory(), 0.01, 0.02, "accept"),
        (FASTER, Memory(), math.inf, 0.02, "reject"),
        (FASTER, Memory(), None, None, "accept"),
    ],
)
def test_verdicts_of_steps(
    ratios: list[float], memory: Memory, apart: float | None, own: float | None, verdict: str
) -> None:
    assert _verdict(bounds(ratios), memory, 40, apart, own)[0] == verdict


def test_losses_are_compared_where_both_have_one() -> None:
    left = [1.0, None, 2.0, 4.0, 1.0, 1.0, 9.0]
    right = [1.0, 1.0, 2.0, 4.4, 1.0, 1.0]
    assert _apart([(left, right)]) == (5, pytest.approx(0.1))
    assert _apart([(left, right[:4])]) == (3, None)
    assert _apart([([1.0] * 5, [math.nan] * 5)]) == (5, math.inf)
