"""The pictures of the register banks show every pattern once, and only where all were measured."""

import itertools
import re

from probe.report import register_banks
from probe.results.measurement import Measurement

CLOCK_HZ = 1e9


def ffma(pattern: str, cycles: float, warps: int = 4, held: str = "", reuse: str = "") -> Measurement:
    params = {
        "instruction": "FFMA", "pattern": pattern, "warps": warps, "stall": 1, "held": held, "reuse": reuse,
        "constant": False, "cycles": cycles,
    }  # fmt: skip
    seconds = cycles / CLOCK_HZ
    return Measurement(
        "register_banks", f"FFMA {pattern}, {warps} warps", "time", "s", seconds, seconds, seconds, (seconds, seconds),
        9, params,
    )  # fmt: skip


def two_banks() -> list[Measurement]:
    """All patterns of a register file of two banks: three sources of one bank take three cycles."""
    sources = itertools.product(range(4), repeat=3)
    return [ffma(" ".join(f"R{n}" for n in s), 3.0 if len({n % 2 for n in s}) == 1 else 2.0) for s in sources]


def test_the_map_has_a_cell_for_every_pattern() -> None:
    svg = register_banks.pattern_map(two_banks())
    told = dict(re.findall(r"FFMA Rd, (R\d, R\d, R\d): (\d\.\d\d) cycles", svg))
    assert len(told) == 64
    assert told["R0, R2, R0"] == "3.00" and told["R0, R1, R0"] == "2.00"


def test_there_is_no_map_of_some_patterns() -> None:
    assert register_banks.pattern_map(two_banks()[:-1]) == ""


def test_the_curve_runs_along_the_warps_in_cycles() -> None:
    rows = [ffma("R0 R0 R0", 3.0, warps) for warps in (16, 1, 4)]
    held = [ffma("R0 R0 R0", 2.5, warps, held="AB") for warps in (1, 4, 16)]  # another variant of the same sources
    figure = register_banks.curve([*rows, *held])
    assert figure is not None
    (series,) = figure.series
    assert series.labels == {"operands": "conflict"}
    assert [(m.params["warps"], m.unit, m.value) for m in series.points] == [
        (1, "cycles", 3.0),
        (4, "cycles", 3.0),
        (16, "cycles", 3.0),
    ]


def test_without_the_suite_there_is_nothing() -> None:
    assert register_banks.curve([]) is None
    assert register_banks.without(two_banks()) == []
