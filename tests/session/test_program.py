"""`probe run SCRIPT`: the program runs as it would alone, and its steps are recognised."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import UserDict
from pathlib import Path
from typing import Any

import pytest
from prepared_torch import Prepared

from probe.cli import main
from probe.errors import UsageError
from probe.program.hooks import named
from probe.program.imported import OnImport
from probe.program.recognition import Recogniser, samples_in

pytest.importorskip("torch")

TRAINING = """
import sys, torch
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(torch.randn(120, 8), torch.randint(2, (120,))), batch_size=4)
for i, (x, y) in enumerate(loader):
    torch.nn.functional.cross_entropy(model(x), y).backward()
    if i % 2:
        optimizer.step()
        optimizer.zero_grad()
print(sum(p.double().sum().item() for p in model.parameters()))
"""


def script(folder: Path, text: str) -> str:
    path = folder / "train.py"
    path.write_text(text)
    return str(path)


def part(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def alone(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """From the command line of a shell: torch is imported by the program, if at all."""
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=cwd, check=False)


def test_training_is_recorded_and_its_result_the_same(tmp_path: Path, prepared: Prepared) -> None:
    path = script(tmp_path, TRAINING)
    plain = prepared.run(path, cwd=tmp_path)
    observed = alone("-m", "probe", "run", "-o", "run", path, cwd=tmp_path)
    assert plain.returncode == observed.returncode == 0
    assert plain.stdout == observed.stdout
    assert "3 steps recorded" in observed.stderr
    found = part(tmp_path / "run")
    assert found["steps"]["total"] == 14  # of 15 optimizer steps the first opens the run
    assert set(found["steps"]["micro_batches"]) == {2.0} and set(found["steps"]["samples"]) == {8.0}
    assert found["collected"]["modules"] is True


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        ("sys.exit(7)", 7, ""),
        ("sys.exit('no luck')", 1, "no luck"),
        ("raise ValueError('boom')", 1, "ValueError: boom"),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
        ("", 0, ""),
    ],
)
def test_the_exit_code_is_the_programs(tmp_path: Path, prepared: Prepared, ending: str, code: int, said: str) -> None:
    program = script(tmp_path, f"import sys\n{ending}\n")
    observed = prepared.run("-m", "probe", "run", program, cwd=tmp_path, wholly=True)
    assert observed.returncode == code
    assert said in observed.stderr
    assert "main_module" not in observed.stderr
    assert not (tmp_path / "runs").exists()
    assert ("no step was recognised" in observed.stderr) == (code == 0)


def test_a_program_is_what_python_would_make_of_it(tmp_path: Path) -> None:
    """Arguments, path, name, file, and functions of __main__ in child processes."""
    (tmp_path / "beside.py").write_text("value = 5\n")
    text = """
import multiprocessing, sys, beside

def square(x):
    return x * x

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        print(pool.map(square, [3]), sys.argv[1:], beside.value, __file__.endswith("train.py"), "torch" in sys.modules)
"""
    observed = alone("-m", "probe", "run", script(tmp_path, text), "--wait", "-m", "x", cwd=tmp_path)
    assert observed.stdout.strip() == "[9] ['--wait', '-m', 'x'] 5 True False", observed.stderr


def test_a_module_is_run_as_python_does(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text("import sys; print(__name__, sys.argv[1:])")
    (tmp_path / "package" / "__init__.py").touch()
    observed = alone("-m", "probe", "run", "-m", "package", "--lr", "3", cwd=tmp_path)
    assert observed.stdout.strip() == "__main__ ['--lr', '3']", observed.stderr


def test_inference_without_an_optimizer_steps_by_batches(tmp_path: Path, prepared: Prepared) -> None:
    text = """
import torch
from torch.utils.data import DataLoader
model = torch.nn.Linear(8, 2)
with torch.no_grad():
    for x in DataLoader(torch.randn(60, 8), batch_size=4):
        model(x)
"""
    observed = prepared.run("-m", "probe", "run", "-o", "run", script(tmp_path, text), cwd=tmp_path)
    found = part(tmp_path / "run")
    assert found["steps"]["total"] == 14, observed.stderr  # of 15 batches the first opens the run
    assert set(found["steps"]["samples"]) == {4.0}


@pytest.mark.parametrize("name", ["generate", "Engine.step", "Engine.fixed", "Engine.named"])
def test_a_named_function_is_a_step(tmp_path: Path, prepared: Prepared, name: str) -> None:
    text = """
import torch
def generate(x):
    return torch.relu(x)
class Engine:
    def step(self, x):
        return generate(x)
    @staticmethod
    def fixed(x):
        return x
    @classmethod
    def named(cls, x):
        return cls.__name__
for _ in range(14):
    engine = Engine()
    engine.named(engine.fixed(engine.step(torch.ones(3))))
"""
    prepared.run("-m", "probe", "run", "-o", "run", "--step-on", name, script(tmp_path, text), cwd=tmp_path)
    assert part(tmp_path / "run")["steps"]["total"] == 13


@pytest.mark.parametrize(("name", "said"), [("nothing", "there is no such function"), ("later", "it was never called")])
def test_a_function_that_is_not_called_is_said(tmp_path: Path, prepared: Prepared, name: str, said: str) -> None:
    text = "def later(): pass\nvars()\n"  # which may bind anything: the program is not refused beforehand
    observed = prepared.run("-m", "probe", "run", "--step-on", name, script(tmp_path, text), cwd=tmp_path)
    assert observed.returncode == 0 and f"--step-on {name}: {said}" in observed.stderr


def test_what_the_program_leaves_behind_is_still_its_own(tmp_path: Path, prepared: Prepared) -> None:
    """Exit hooks pickle classes of __main__, and read their arguments."""
    text = """
import atexit, pickle, sys
class Kept: pass
atexit.register(lambda: print(type(pickle.loads(pickle.dumps(Kept()))).__name__, sys.argv[1:]))
"""
    observed = prepared.run("-m", "probe", "run", script(tmp_path, text), "a", cwd=tmp_path)
    assert observed.stdout.strip() == "Kept ['a']", observed.stderr


def test_a_program_with_a_profile_of_its_own_is_left_alone(tmp_path: Path, prepared: Prepared) -> None:
    text = """
import probe, torch
optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1)
with probe.profile("own") as prof:
    for _ in range(14):
        optimizer.step()
        prof.step()
"""
    observed = prepared.run("-m", "probe", "run", "-o", "run", script(tmp_path, text), cwd=tmp_path)
    assert "a probe.profile of its own" in observed.stderr
    assert part(tmp_path / "own")["steps"]["total"] == 14 and not (tmp_path / "run").exists()


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.py").write_text("def f(:\n")
    for words, said in (
        (["nope.py"], "no such file"),
        ([str(tmp_path / "broken.py")], "not a Python script"),
        (["-m", "no.such.module"], "No module named"),
        (["--step-on", "a b", "x.py"], "MODULE:FUNCTION"),
        (["--step-on", "f", "-m", "json"], "MODULE:f"),
        (["--step-on", "json:f", "-m", "json"], "json itself is run"),
        (["--tag", "x", "x.py"], "NAME=VALUE"),
        (["--ranks", "some", "x.py"], "--ranks some"),
        (["--wait", "-1", "x.py"], "--wait"),
    ):
        assert main(["run", *words]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


def test_of_several_optimizers_the_first_ends_steps_until_it_is_not_used() -> None:
    seen = Recogniser()
    told = [seen.optimizer_stepped(i) is not None for i in (1, 2, 1, 2, 2, 2, 2)]
    assert told == [True, False, True, False, True, True, True]


def test_an_evaluation_is_no_part_of_a_step() -> None:
    seen = Recogniser()
    seen.optimizer_made()
    seen.got_batch(4, learning=True)
    seen.got_batch(64, learning=False)
    seen.got_batch(3, learning=True)
    assert seen.asks_for_batch() is None
    ended = seen.optimizer_stepped(1)
    assert ended is not None and (ended.samples, ended.micro_batches) == (7.0, 2)


def test_samples_of_a_batch() -> None:
    import torch

    x = torch.ones(5, 2)
    for batch in (x, [x, x], {"a": (x,)}, ((x,), 3), UserDict(a=x)):
        assert samples_in(batch) == 5
    for batch in (torch.ones(()), "text", 3, [], {}, object(), None):
        assert samples_in(batch) is None


def test_names_of_functions() -> None:
    assert named("a.b:f") == ("a.b", "f", None)
    assert named("f") == (None, "f", None)
    assert named("a:C.m") == ("a", "C", "m")
    for text in ("", ":", "a:", ":f", "a b:f", "a:C.m.n", "a..b:f"):
        with pytest.raises(UsageError, match="--step-on"):
            named(text)


def test_an_action_follows_the_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lately_imported.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    seen: list[Any] = []
    imports = OnImport()
    imports.do("lately_imported", lambda module: seen.append(module.value))
    imports.do("json", lambda module: seen.append(module.__name__))
    import lately_imported  # type: ignore[import-not-found]

    assert seen == ["json", 1]
    assert type(lately_imported.__loader__).__name__ == "SourceFileLoader"
    imports.forget()
    assert imports not in sys.meta_path
