"""A chain on a CPU as one: a byte takes what it takes there, and arithmetic stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import Event, op, shapes, step, write

import probe
from probe import store
from probe.errors import UsageError
from probe.machine.device import Ceilings, Device
from probe.projecting.whatif import WhatIf

X = [1 << 20]  # float32: 4 MiB
ROW, COLUMN = [1024, 1024], [1024, 1]
Call = tuple[str, int, tuple[list[int], ...]]  # name, µs, arguments


def fused(folder: Path, calls: list[Call], *, launch_s: float = 1e-6, **more: Any) -> WhatIf:
    """Two steps of these operators one after the other on a CPU, and all of them as one."""
    events: list[Event] = []
    for n in range(2):
        at = n * 20_000
        events.append(step(n, at, 10_000))
        for name, took, inputs in calls:
            events.append(op(name, at + 100, took, **shapes(*inputs)))
            at += took
    ceilings = Ceilings("measured", "this CPU", 10e9, {"float32": 1e13}, launch_s, {})
    file = store.save(ceilings, Device("cpu", "this CPU", cores=1))
    return probe.whatif(str(write(folder, events)), fuse=[tuple(name for name, _, _ in calls)], ceilings=str(file))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path


def saved_us(found: WhatIf) -> float:
    rows = found.targets[0].ops
    return sum(row.before_s - row.after_s for row in rows) * 1e6


def test_what_an_operator_computes_is_not_saved(cache: Path) -> None:
    """sigmoid takes four times as long a byte as mul; one write and one read go, each at mul's pace of 400 µs."""
    found = fused(cache, [("aten::sigmoid", 3_201, (X,)), ("aten::mul", 1_201, (X, X))])
    assert saved_us(found) == pytest.approx(400 + 400 + 1, rel=0.01)


def test_what_a_later_operator_reads_again_is_not_read_either(cache: Path) -> None:
    """exp writes what mul and then add read, mul what add reads: two writes and three reads, each of 400 µs."""
    calls: list[Call] = [("aten::exp", 801, (X,)), ("aten::mul", 801, (X, [])), ("aten::add", 1_201, (X, X))]
    assert saved_us(fused(cache, calls)) == pytest.approx(5 * 400 + 2, rel=0.01)


def test_an_argument_that_only_looks_like_a_result_is_read(cache: Path) -> None:
    """Of mul's two arguments one is silu's result; the other is as large and comes from elsewhere."""
    found = fused(cache, [("aten::silu", 801, (X,)), ("aten::mul", 1_201, (X, X))])
    assert saved_us(found) == pytest.approx(400 + 400 + 1, rel=0.01)


def test_calls_that_move_little_do_not_set_the_pace(cache: Path) -> None:
    """rsqrt of a column starts and ends: a byte of it takes nothing beyond its start, those of mul and add 400 µs."""
    calls: list[Call] = [("aten::rsqrt", 1, (COLUMN,)), ("aten::mul", 801, (ROW, COLUMN))]
    calls.append(("aten::add", 1_201, (ROW, ROW)))
    assert saved_us(fused(cache, calls)) == pytest.approx(400 + 400 + 2, rel=0.01)


def test_calls_shorter_than_a_start_save_no_more_than_all(cache: Path) -> None:
    """The large one alone moves, and what is left of it must not fall below nothing."""
    calls: list[Call] = [("aten::exp", 20, (ROW,)), *[("aten::rsqrt", 1, (COLUMN,))] * 4]
    found = fused(cache, calls, launch_s=1.0)
    assert all(0 <= row.after_s <= row.before_s for row in found.targets[0].ops)


def test_a_result_given_as_an_argument_is_handed_on(cache: Path) -> None:
    """sum with out=: what it moves are its arguments, the last of which it writes."""
    calls: list[Call] = [("aten::sum", 401, (ROW, [1], [], [], COLUMN)), ("aten::div_", 11, (COLUMN, []))]
    assert saved_us(fused(cache, calls)) > 0
    with pytest.raises(UsageError, match="reads nothing"):
        fused(cache, [("aten::sigmoid", 801, (X,)), ("aten::mul", 801, ([1 << 21], [1 << 21]))])


def test_the_answer_tells_the_error_that_was_measured_and_where(cache: Path) -> None:
    found = fused(cache, [("aten::sigmoid", 801, (X,)), ("aten::mul", 1_201, (X, X))])
    assert found.validation.n >= 15 and "CPU" in found.validation.of
    low, high = found.targets[0].interval_s
    assert low < found.targets[0].step_s * (1 - 0.05) and high > found.targets[0].step_s
    assert not any("validated on a CPU only" in text for text in found.warnings)
