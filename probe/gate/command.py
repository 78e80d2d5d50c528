"""What does a gate run? A Python program, or one function again and again; the same in every version."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from probe.errors import UsageError
from probe.gate.checkout import Checkout
from probe.gate.protocol import Task
from probe.program.step_on import missing, refuse_unknown

_PYTHON = re.compile(r"(.*/)?python(3(\.\d+)?)?")
_FUNCTION = re.compile(r".+\.py:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Command:
    """A script or module with its arguments, or FILE.py:FUNCTION."""

    target: str = ""
    arguments: tuple[str, ...] = ()
    module: bool = False
    function: str | None = None
    step_on: str | None = None
    served: bool = False  # the program calls worker.step itself

    def task(self, version: Checkout) -> Task:
        """For a worker of that version."""
        function = None
        if self.function is not None:
            file, _, name = self.function.rpartition(":")
            function = f"{version.cwd / file}:{name}"
        return Task(str(version.root), self.target, self.arguments, self.module, function, self.step_on, self.served)

    def __str__(self) -> str:
        if self.function is not None:
            return self.function
        return " ".join(["python", *(["-m"] if self.module else []), self.target, *self.arguments])


def command_of(words: Sequence[str], step_on: str | None = None) -> Command:
    """`python train.py …`, `train.py …`, `python -m package …` or FILE.py:FUNCTION. Raises UsageError for others."""
    rest = list(words)
    if len(rest) == 1 and _FUNCTION.fullmatch(rest[0]):
        file, _, name = rest[0].rpartition(":")
        _exists(file)
        remedy = missing(Path(file), name)
        if remedy is not None:
            raise UsageError(f"{file}: it has no function {name}; {remedy}")
        if step_on is not None:
            raise UsageError(f"--step-on {step_on}: a call of {rest[0]} is the step; leave it out")
        return Command(function=rest[0])
    if rest and _PYTHON.fullmatch(rest[0]):
        rest = rest[1:]
    if rest[:1] == ["-m"] and len(rest) > 1:
        return Command(rest[1], tuple(rest[2:]), module=True, step_on=step_on)
    if not rest or rest[0].startswith("-") or not rest[0].endswith(".py"):
        said = " ".join(words) or "nothing"
        raise UsageError(f"-- {said}: give a Python program (-- python train.py …) or a function (-- FILE.py:FUNCTION)")
    _exists(rest[0])
    if step_on is not None and ":" not in step_on:  # where a module lies, only the worker of a version knows
        refuse_unknown(step_on, rest[0], module=False)
    return Command(rest[0], tuple(rest[1:]), step_on=step_on)


def _exists(path: str) -> None:
    if not Path(path).is_file():
        raise UsageError(f"{path}: no such file in {Path.cwd()}")
