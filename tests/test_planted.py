"""Planted bottlenecks are found, and clean programs are left in peace. Real programs, recorded and analysed here."""

from pathlib import Path

import pytest

pytest.importorskip("torch")

from planted import areas
from planted.program import PROGRAMS, Program, record, verdict


@pytest.mark.parametrize("program", PROGRAMS, ids=[f"{p.code or 'clean'}-{p.name}" for p in PROGRAMS])
def test_program(tmp_path: Path, program: Program) -> None:
    assert areas.MODULES
    wrong = verdict(program, record(program, tmp_path))
    assert wrong is None, wrong
