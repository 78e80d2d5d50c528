"""Planted bottlenecks are found, and clean programs are left in peace. Real programs, recorded and analysed here.

A busy machine deschedules a program for longer than it runs: what is wrong counts when it recurs in three recordings.
"""

from pathlib import Path

import pytest

pytest.importorskip("torch")

from planted import areas
from planted.program import PROGRAMS, Program, record, verdict


@pytest.mark.flaky(reruns=2)
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch.compile warns of what it does itself
@pytest.mark.parametrize("program", PROGRAMS, ids=[f"{p.code or 'clean'}-{p.name}" for p in PROGRAMS])
def test_program(tmp_path: Path, program: Program) -> None:
    assert areas.MODULES
    wrong = verdict(program, record(program, tmp_path))
    if wrong is not None:
        pytest.fail(wrong, pytrace=False)
