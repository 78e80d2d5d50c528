"""The process that makes steps for the gate, spoken to as the gate does: what it records, and how it ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from forked_workers import TOOL, Forked

from probe.gate.protocol import Ask, Pipe, Task
from probe.gate.workers import START

pytest.importorskip("torch")

PROGRAM = """
import torch
optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
for _ in range({steps}):
    optimizer.step()
"""


def worked(folder: Path, steps: int, *asked: Ask) -> tuple[list[Any], int, str]:
    """A program of so many steps, asked in turn: its answers, exit code and last words."""
    (folder / "short.py").write_text(PROGRAM.format(steps=steps))
    task = Task(str(folder), str(folder / "short.py")).to_json()
    (read, theirs), (ours, write) = os.pipe(), os.pipe()
    output = (folder / "output").open("w+")
    child = Forked(
        [sys.executable, "-P", "-c", START, str(TOOL), task, str(ours), str(theirs)],
        cwd=folder, stdout=output, pass_fds=(ours, theirs), env=dict(os.environ),
    )  # fmt: skip
    os.close(ours)
    os.close(theirs)
    pipe = Pipe(read, write)
    answers = [pipe.receive()]
    for one in asked:
        pipe.send(one)
        answers.append(pipe.receive())
    os.close(write)
    code = child.wait(120)
    os.close(read)
    with output:
        output.seek(0)
        return answers, code, output.read()


def test_a_program_that_ends_while_it_is_recorded_ends_as_it_would(tmp_path: Path) -> None:
    """torch crashes where an interpreter ends in a recording."""
    (_, unanswered), code, said = worked(tmp_path, 6, Ask(50, str(tmp_path / "a.json")))
    assert (unanswered, code, said) == (None, 0, "")


def test_a_recording_after_another_begins_a_step_later(tmp_path: Path) -> None:
    """The last step of one ends within a range of the optimizer's that must not end in the next."""
    traces = [tmp_path / "a.json", tmp_path / "b.json"]
    asked = [Ask(2, str(traces[0])), Ask(3, str(traces[1])), Ask(1)]
    (_, first, second, bare, nothing), code, said = worked(tmp_path, 1 + 2 + 1 + 3 + 1, *asked, Ask(1))
    assert [len(ran.wall_s) for ran in (first, second, bare)] == [2, 3, 1]
    assert [path.exists() for path in traces] == [True, True]
    assert (nothing, code, said) == (None, 0, "")
