"""Command lines called in-process: what they print, and their exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probe.cli import main


class Ran:
    """What a command line printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def assert_one_line(self, code: int, *words: str) -> None:
        assert self.code == code, self.err
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("probe: ")
        assert "Traceback" not in self.err
        for word in words:
            assert word in self.err


def caller(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Calls a command line with the words it is given."""

    def call(*arguments: str | Path) -> Ran:
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return call
