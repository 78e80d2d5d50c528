"""Planted bottlenecks are found, and clean programs are left in peace. Real programs, recorded and analysed here.

A busy machine deschedules a program for longer than it runs: what is wrong counts when it recurs in three recordings.
"""

from pathlib import Path

import pytest

pytest.importorskip("torch")

from planted import areas
from planted.program import PROGRAMS, Program, record, verdict

RECORDINGS = 3


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch.compile warns of what it does itself
@pytest.mark.parametrize("program", PROGRAMS, ids=[f"{p.code or 'clean'}-{p.name}" for p in PROGRAMS])
def test_program(tmp_path: Path, program: Program) -> None:
    assert areas.MODULES
    wrong = []
    for attempt in range(RECORDINGS):
        found = verdict(program, record(program, tmp_path / str(attempt)))
        if found is None:
            return
        wrong.append(found)
    pytest.fail("\n".join(wrong), pytrace=False)
