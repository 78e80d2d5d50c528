"""Which annotations mark the steps of a recording?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from probe.trace import Annotations, Steps, step_number

_NONE = -1
_OVERLAP_NS = 1000  # steps may overlap by this much: the ends of a mark are rounded apart


def marked_steps(marks: Annotations, names: tuple[str, ...]) -> tuple[Steps, int, int]:
    """The steps, once each and one after another; the thread that marks them; how many overlapped an earlier."""
    rows: list[tuple[int, int, int, int]] = []
    kept: set[int] = set()
    overlapping = 0
    for number, start, end, thread in _marks(marks, names):
        if number in kept:
            continue
        if rows and start < rows[-1][2] - _OVERLAP_NS:
            overlapping += 1
            continue
        kept.add(number)
        rows.append((number, start, end, thread))
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    steps = Steps(number=columns[0], start_ns=columns[1], end_ns=columns[2])
    return steps, rows[0][3] if rows else _NONE, overlapping


def _marks(marks: Annotations, names: tuple[str, ...]) -> Iterator[tuple[int, int, int, int]]:
    """Number, start, end and thread of the marks of steps on the host; outer before inner."""
    told = [step_number(name) for name in names]
    numbers = np.array([_NONE if number is None else number for number in told], np.int64)
    rows = np.flatnonzero((numbers[marks.name] >= 0) & ~marks.on_device) if len(marks) else np.empty(0, np.int64)
    for row in rows.tolist():
        yield int(numbers[marks.name[row]]), int(marks.start_ns[row]), int(marks.end_ns[row]), int(marks.thread[row])
