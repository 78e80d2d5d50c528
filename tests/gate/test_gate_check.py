"""`probe gate check` on real repositories: both versions run, counts decide at once, and nothing is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked_workers
import pytest

from probe.cli import main
from probe.errors import UsageError
from probe.gate.command import command_of

pytest.importorskip("torch")

STEP = """
import torch
torch.set_num_threads(1)
x = torch.randn(64, 64)

def step():
    y = x
    for _ in range({count}):
        y = torch.{operator}(y)
"""


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.email=a@b", "-c", "user.name=a")
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def repository(folder: Path, count: int = 10, operator: str = "tanh") -> Path:
    """A repository whose one commit has a step of `count` operators."""
    folder.mkdir()
    git(folder, "init", "-q")
    write(folder, count, operator)
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "base")
    return folder


def write(folder: Path, count: int, operator: str = "tanh") -> None:
    (folder / "step.py").write_text(STEP.format(count=count, operator=operator))


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository(tmp_path_factory.mktemp("gate") / "repo")


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that need not import torch. Not for how they are started, and what is done before torch is there."""
    forked_workers.install(monkeypatch)


def gate(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON object and what was said."""
    code = main(["gate", "check", "--json", "--budget", "1", *words])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


@pytest.mark.usefixtures("forked")
def test_the_same_code_does_not_fail(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(repo)
    write(repo, 10)
    code, found, _ = gate(capsys, "--", "step.py:step")
    assert code == 0 and found["verdict"] in ("pass", "inconclusive")
    operators = next(m for m in found["metrics"] if m["name"] == "operators")
    assert operators["base"] == operators["new"] == 10
    assert git(repo, "worktree", "list").count("\n") == 1
    assert git(repo, "status", "--porcelain") == ""
    assert found["base"]["name"].startswith("HEAD (") and found["new"]["name"].startswith("working tree (")


def test_more_operators_fail_and_are_named(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(repo)
    (repo / "step.py").write_text(STEP.format(count=10, operator="tanh") + "    torch.erf(y); torch.erf(y)\n")
    reports = {kind: tmp_path / f"gate.{kind}" for kind in ("junit", "md", "html")}
    options = [word for kind, path in reports.items() for word in (f"--{kind}", str(path))]
    code, found, said = gate(capsys, *options, "--", "step.py:step")
    assert code == 3 and found["verdict"] == "fail"
    assert "operators: 10 per step before, 12 now" in said
    cause = next(c for c in found["causes"] if c["op"] == "aten::erf")
    assert cause["reason"] == "new" and cause["new_calls"] == 2
    assert all(path.stat().st_size for path in reports.values())


@pytest.mark.flaky(reruns=2)
def test_a_program_is_run_from_both_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script with an optimizer, its steps recognised; the base imports its own files."""
    repo = repository(tmp_path / "repo")
    (repo / "train.py").write_text(
        "import torch\nfrom step import step\n"
        "optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)\n"
        "while True:\n    step()\n    optimizer.step()\n"
    )
    git(repo, "add", ".")
    git(repo, "commit", "-qm", "train")
    write(repo, 14)
    monkeypatch.chdir(repo)
    code, found, said = gate(capsys, "--against", "HEAD", "--", "python", "train.py")
    assert code == 3, said
    operators = next(m for m in found["metrics"] if m["name"] == "operators")
    assert operators["new"] - operators["base"] == 4


@pytest.mark.usefixtures("forked")
def test_a_short_program_is_told_how_many_steps_it_needs(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(repo, 10)
    short = repo / "short.py"
    short.write_text(
        "import torch\noptimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)\n"
        "def never():\n    pass\n"
        "for _ in range(40):\n    optimizer.step()\n"
    )
    git(repo, "add", ".")
    git(repo, "commit", "-qm", "short")
    monkeypatch.chdir(repo)
    code, _, said = gate(capsys, "--", "short.py")
    assert code == 2 and "give it" in said and "or more" in said
    code, _, said = gate(capsys, "--step-on", "never", "--", "short.py")
    assert code == 2 and "no step of it was seen" in said and "--step-on" in said


@pytest.mark.usefixtures("forked")
def test_bad_input_is_one_line(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(repo)
    write(repo, 10)
    (repo / "broken.json").write_text("{")
    (repo / "other.json").write_text('{"schema": "probe.gate-baseline/9"}')
    outside = tmp_path / "step.py"
    outside.write_text(STEP.format(count=1, operator="tanh"))
    (repo / "late.py").write_text("def step(): pass\n")  # not in the base
    with (repo / "step.py").open("a") as file:
        file.write("\ndef later(): pass\n")  # nor is this
    (repo / "pyproject.toml").write_text("[tool.probe.gate]\nfloor = 'much'\n")
    cases: list[tuple[list[str], str]] = [
        (["--", "step.py:step"], "gate.floor = 'much'"),
    ]
    for words, said in cases:
        code, _, err = gate(capsys, *words)
        assert code == 2 and said in err, err
    (repo / "pyproject.toml").unlink()
    cases = [
        (["--against", "nowhere", "--", "step.py:step"], "git knows no such commit"),
        (["--", "nope.py:step"], "no such file"),
        (["--", "bash", "train.sh"], "give a Python program"),
        ([], "give a Python program"),
        (["--against", "HEAD", "--baseline", "x", "--", "step.py:step"], "exclude one another"),
        (["--baseline", "absent.json", "--", "step.py:step"], "record one with probe gate record"),
        (["--baseline", "broken.json", "--", "step.py:step"], "not whole JSON"),
        (["--baseline", "other.json", "--", "step.py:step"], "probe.gate-baseline/9"),
        (["--junit", "/nowhere/x.xml", "--", "step.py:step"], "there is no directory"),
        (["--", "late.py:step"], "no such file in this version"),
        (["--", "step.py:later"], "it has no function later"),
        (["--", "step.py:nothing"], "it has no function nothing"),
        (["--step-on", "nothing", "--", "step.py"], "step.py has no nothing"),
    ]
    for words, said in cases:
        code, _, err = gate(capsys, *words)
        assert code == 2 and said in err, err
        assert "Traceback" not in err
    monkeypatch.chdir(tmp_path)
    code, _, err = gate(capsys, "--", "step.py:step")
    assert code == 2 and "is in no git repository; use --baseline" in err


@pytest.mark.usefixtures("forked")
def test_a_failing_program_says_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = repository(tmp_path / "repo")
    (repo / "step.py").write_text("raise RuntimeError('no such luck')\ndef step(): pass\n")
    monkeypatch.chdir(repo)
    code, _, said = gate(capsys, "--", "step.py:step")
    assert code == 2 and "working tree" in said and "no such luck" in said
    assert git(repo, "worktree", "list").count("\n") == 1


@pytest.mark.usefixtures("forked")
def test_flops_are_those_of_a_step(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One product in two halves has the same FLOPs."""
    monkeypatch.chdir(repo)
    product = "import torch\ntorch.set_num_threads(1)\nx = torch.randn(64, 64)\n\ndef step():\n    "
    (repo / "step.py").write_text(f"{product}x @ x\n")
    git(repo, "commit", "-qam", "whole")
    (repo / "step.py").write_text(f"{product}x[:32] @ x; x[32:] @ x\n")
    _, found, _ = gate(capsys, "--", "step.py:step")
    flops = next(m for m in found["metrics"] if m["name"] == "flops")
    assert flops["base"] == flops["new"] == 2 * 64**3


def test_an_environment_of_its_own_stands_on_this_one(tmp_path: Path) -> None:
    """Made from within a virtual environment, whose packages a plain one would not see."""
    from probe.gate.checkout import _environment

    (tmp_path / "requirements.txt").write_text("")
    python = _environment(tmp_path / "environment", tmp_path, "base", ["requirements.txt"])
    done = subprocess.run(
        [python, "-c", "import numpy, sys; print(sys.prefix)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(tmp_path / "environment")


@pytest.mark.usefixtures("forked")
def test_a_stored_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Recorded outside any repository; counts are held against it, and another command is refused."""
    write(tmp_path, 10)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("probe.gate.control.ROUNDS", 3)
    assert main(["gate", "record", "--baseline", "b.json", "--budget", "1", "--", "step.py:step"]) == 0
    content = json.loads((tmp_path / "b.json").read_text())
    assert content["schema"] == "probe.gate-baseline/1" and len(content["sessions"]) >= 2
    assert main(["gate", "record", "--baseline", "b.json", "--", "step.py:step"]) == 2  # kept
    write(tmp_path, 12)
    code, _, said = gate(capsys, "--baseline", "b.json", "--", "step.py:step")
    assert code == 3 and "operators: 10 per step before, 12 now" in said
    (tmp_path / "other.py").write_text((tmp_path / "step.py").read_text())
    code, _, said = gate(capsys, "--baseline", "b.json", "--", "other.py:step")
    assert code == 2 and "not of other.py:step" in said


def test_the_pytest_plug_in(tmp_path: Path) -> None:
    """The test's own file is run from both versions; without the option it is an ordinary test."""
    repo = repository(tmp_path / "repo")
    (repo / "test_speed.py").write_text("def test_step(probe_gate):\n    from step import step\n    probe_gate(step)\n")
    git(repo, "add", ".")
    git(repo, "commit", "-qm", "test")

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:dash", *options]
        environment = os.environ | {"PYTEST_ADDOPTS": "-p no:hypothesispytest"}  # a second in each of four processes
        return subprocess.run(
            [*command, "test_speed.py"], cwd=repo, env=environment, capture_output=True, text=True, check=False
        )

    (repo / "step.py").write_text("def step():\n    open('called', 'a').write('once')\n")  # needs no torch
    assert run().returncode == 0 and (repo / "called").read_text() == "once"
    write(repo, 14)
    found = run("--probe-gate-against", "HEAD", "--probe-gate-budget", "1")
    assert found.returncode == 1, found.stdout + found.stderr
    assert "operators: 10 per step before, 14 now" in found.stdout


def test_where_a_module_lies_only_a_version_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker looks in the root and in src/ too."""
    (tmp_path / "src" / "lib").mkdir(parents=True)
    (tmp_path / "src" / "lib" / "core.py").write_text("def step(): ...\n")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "go.py").write_text("import lib.core\n")
    monkeypatch.chdir(tmp_path)
    assert command_of(["scripts/go.py"], "lib.core:step").step_on == "lib.core:step"
    with pytest.raises(UsageError, match=r"go\.py has no step"):
        command_of(["scripts/go.py"], "step")
