"""Allocations in a trace: read, joined to their operators, paired to blocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import traces
from builders import op, step, write
from hypothesis import given
from hypothesis import strategies as st
from memory_marks import memory
from real_traces import trace_in

from probe.analyzers.memory.blocks import AFTER, BEFORE, blocks, main_device
from probe.analyzers.memory.summary import summary
from probe.analyzers.memory.use import MemoryUse, memory_use
from probe.analyzers.operators.steps import recorded_steps
from probe.readers.kineto import read
from probe.readers.narrow import Selection, narrow
from probe.trace import Trace

EVENTS = [
    step(1, 0, 100), op("aten::mm", 10, 20), op("aten::empty", 12, 5),
    memory(13, 64, 512, 1512), memory(50, 64, -512, 1000), memory(40, 128, 16, 16, -1), memory(41, 128, -16, 0, -1),
]  # fmt: skip


def test_allocations_are_read_in_order_with_their_innermost_operator(tmp_path: Path) -> None:
    trace = read(write(tmp_path, EVENTS))
    table = trace.allocations
    assert trace.with_memory
    assert table.bytes.tolist() == [512, 16, -16, -512] and table.at_ns.tolist() == [13000, 40000, 41000, 50000]
    assert table.allocated_bytes.tolist() == [1512, 16, 0, 1000] and table.reserved_bytes[0] == 6048
    assert table.device.tolist() == [0, -1, -1, 0]
    named = [trace.names[trace.host_ops.name[row]] if row >= 0 else None for row in table.op.tolist()]
    assert named == ["aten::empty", None, None, None]


@pytest.mark.parametrize(
    "args",
    [{}, {"Bytes": 0}, {"Bytes": "many"}, {"Bytes": 2**63}, {"Bytes": True}, {"Bytes": 4.5}, {"Bytes": None}],
)
def test_sizes_that_are_none_are_left_out(tmp_path: Path, args: dict[str, Any]) -> None:
    odd = {"ph": "i", "cat": "cpu_instant_event", "name": "[memory]", "pid": 7, "tid": 1, "ts": 5, "args": args}
    trace = read(write(tmp_path, [op("x", 0, 9), odd]))
    assert trace.with_memory and not len(trace.allocations)


def test_a_part_keeps_all_allocations_and_forgets_operators_that_are_left_out(tmp_path: Path) -> None:
    events = [step(1, 0, 40), step(2, 40, 60), op("late", 60, 9), *EVENTS[1:]]
    part = narrow(read(write(tmp_path, events)), Selection(steps=(2, 2)))
    assert len(part.host_ops) == 1 and len(part.allocations) == 4
    assert (part.allocations.op == -1).all()


def test_old_traces_without_addresses_make_no_blocks(foreign_traces: Path) -> None:
    table = trace_in(foreign_traces / "v100_resnet50_training.json.gz").allocations
    assert len(table) == 10980 and (table.address == -1).all()
    assert main_device(table) == 0 and blocks(table, 0) is None


Rows = list[tuple[int, int, int, int]]


@st.composite
def histories(draw: st.DrawFn) -> Rows:
    """What an allocator may report: few addresses, so that they are used again; some events are lost."""
    alive: dict[int, int] = {}
    rows: Rows = []
    for at in range(draw(st.integers(0, 25))):
        address = draw(st.integers(0, 4))
        size = alive.pop(address, None)
        if size is None and draw(st.booleans()):
            alive[address] = size = draw(st.integers(1, 9))
            rows.append((at, address, size, -1))
        else:
            rows.append((at, address, -(size or draw(st.integers(1, 9))), -1))
    return [row for row in rows if draw(st.integers(0, 9))]


@given(histories())
def test_blocks_are_those_that_walking_the_events_finds(rows: Rows) -> None:
    found = blocks(traces.allocations(rows), 0)
    assert found is not None
    alive: dict[int, tuple[int, int]] = {}
    wanted = []
    for at, address, size, _ in rows:
        begun = alive.pop(address, None)
        if begun is not None:
            wanted.append((*begun, at))
        elif size < 0:
            wanted.append((BEFORE, -size, at))
        if size > 0:
            alive[address] = (at, size)
    wanted += [(*begun, AFTER) for begun in alive.values()]
    got = zip(found.begin_ns.tolist(), found.bytes.tolist(), found.end_ns.tolist(), strict=True)
    assert sorted(got) == sorted(wanted)
    assert (np.diff(found.begin_ns) >= 0).all()


@given(traces.drawn(), histories())
def test_whatever_was_recorded_every_byte_has_one_category(trace: Trace, rows: Rows) -> None:
    table = traces.allocations([(at, address, size, -1) for at, address, size, _ in rows])
    trace = replace(trace, allocations=table)
    steps = recorded_steps(trace)
    use = memory_use(trace, steps)
    memory = summary(trace, steps, use, lambda ops: "somewhere")
    assert (use is None) == (memory is None) == (not rows)
    if use is None or memory is None:
        return
    assert (np.diff(use.levels.total) == use_changes(use)).all()
    assert memory.peak_bytes == use.levels.total[use.levels.inside].max()
    assert memory.peak_bytes == sum(size or 0 for size in memory.by_category.values())
    assert memory.timeline is not None and max(memory.timeline.allocated_bytes) == memory.peak_bytes


def use_changes(use: MemoryUse) -> Any:
    """What the blocks alone say that each event changes; an address that is handed out twice ends its first block."""
    changes = np.zeros(len(use.levels.at_ns), np.int64)
    np.add.at(changes, use.blocks.taken[use.blocks.taken >= 0], use.blocks.bytes[use.blocks.taken >= 0])
    np.subtract.at(changes, use.blocks.freed[use.blocks.freed >= 0], use.blocks.bytes[use.blocks.freed >= 0])
    return changes[1:]
