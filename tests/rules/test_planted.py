"""Planted bottlenecks are found, and clean programs are left in peace. Real programs, recorded and analysed here.

A busy machine deschedules a program for longer than it runs: what is wrong counts when it recurs in three recordings.
"""

from pathlib import Path

import pytest

pytest.importorskip("torch")

from planted import areas, memory, sizes
from planted.program import PROGRAMS, Program, record, verdict
from planted.sizes import rules_see

ADVICE = {  # a recurrence is told from a loop over rows
    "a_recurrence_over_time": "a scan, or a compiled loop",
    "a_sample_at_a_time_in_training": "operators over the whole tensor",
    "a_growing_cat": "one torch.cat of a list",
}
OF_GOOD_MEMORY = [p for p in PROGRAMS if p.code is None and p.make.__module__ == memory.__name__]  # no large transient


@pytest.mark.flaky(reruns=2)
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch.compile warns of what it does itself
@pytest.mark.parametrize("program", PROGRAMS, ids=[f"{p.code or 'clean'}-{p.name}" for p in PROGRAMS])
def test_program(tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    assert areas.MODULES
    seen = rules_see(monkeypatch)
    analysis = record(program, tmp_path)
    wrong = verdict(program, analysis)
    if wrong is not None:
        pytest.fail(wrong, pytrace=False)
    if sizes.known_by_sizes(program):
        assert sizes.found_by_sizes(program, seen[0]), f"{program.code} is not found by sizes alone"
    if program.name in ADVICE:
        assert next(f.replacement for f in analysis.findings if f.code == "F20") == ADVICE[program.name]
    if program in OF_GOOD_MEMORY:
        assert analysis.memory is not None and "M05" not in {f.code for f in analysis.findings}


def test_what_is_asked_of_some_programs_is_asked() -> None:
    assert {p.name for p in PROGRAMS} >= set(ADVICE)
    assert {p.name for p in PROGRAMS if p.code} >= set(sizes.FUSED)
    assert sum(map(sizes.known_by_sizes, PROGRAMS)) >= 65
    assert len(OF_GOOD_MEMORY) >= 4
