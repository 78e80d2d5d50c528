"""How long did each operator take per step on each side, and what is the difference?

Operators are matched by name, shapes and element types. A time is the median over the recorded steps, of device time
where a device was recorded, else of host time without the operators called.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from probe.analyzers.compare.ratios import FLOOR_FRACTION, cost, judge
from probe.analyzers.operators.op_table import Seconds, dtypes_text, group_operators, shapes_text
from probe.analyzers.operators.steps import recorded_steps
from probe.results.comparison import Judged, Row
from probe.trace import Trace

# Between two processes that run the same code one after the other the host time of one operator differs by 4 to 7 %
# (standard deviation on a shared two-core machine), whatever its spread within each.
HOST_FLOOR_FRACTION = 0.05

Key = tuple[str, str | None, str | None]  # name, shapes, dtypes


@dataclass(frozen=True, eq=False)
class PerStep:
    """Seconds and calls of each operator in each recorded step, and of the steps; arrays have shape [steps]."""

    seconds: dict[Key, Seconds]
    calls: dict[Key, float]  # mean per step
    step_s: Seconds
    on_device: bool
    marked: bool  # whether the steps are marked in the trace


def per_step(trace: Trace) -> PerStep:
    """The operators of a trace that took any time, those with the same key together."""
    steps = recorded_steps(trace)
    groups = group_operators(trace, steps)
    counted = groups.device_s if trace.on_device else groups.self_s
    seconds: dict[Key, Seconds] = defaultdict(lambda: np.zeros(len(steps)))
    calls: dict[Key, float] = defaultdict(float)
    for group in np.flatnonzero(counted.any(axis=1)).tolist():
        signature = groups.signature[group]
        shapes, dtypes = (shapes_text(signature), dtypes_text(signature)) if signature else (None, None)
        key = (groups.name[group], shapes, dtypes)
        seconds[key] = seconds[key] + counted[group]
        calls[key] += float(groups.calls[group].mean())
    return PerStep(dict(seconds), dict(calls), steps.duration_ns / 1e9, trace.on_device, len(trace.steps) > 0)


def operator_rows(base: PerStep, new: PerStep, busy: float = 0.0) -> tuple[Row, ...]:
    """A row for each operator of either side, the largest difference first; `busy` is what neighbours can change."""
    floor = FLOOR_FRACTION if base.on_device and new.on_device else max(HOST_FLOOR_FRACTION, busy)
    whole_s = float(np.median(new.step_s) - np.median(base.step_s))
    keys = dict.fromkeys((*base.seconds, *new.seconds))
    rows = [_row(key, base, new, floor, whole_s) for key in keys]
    return tuple(sorted(rows, key=lambda row: (-abs(row.delta or 0.0), row.name, row.shapes or "")))


def _row(key: Key, base: PerStep, new: PerStep, floor: float, whole_s: float) -> Row:
    name, shapes, dtypes = key
    left, right = base.seconds.get(key), new.seconds.get(key)
    judged = _judge(left, right, floor) if left is not None and right is not None else None
    base_s, new_s = (None if side is None else _typical(side) for side in (left, right))
    delta_s = (new_s or 0.0) - (base_s or 0.0)
    return Row(
        name=name,
        shapes=shapes,
        base=base_s,
        new=new_s,
        unit="s",
        ratio=judged.ratio if judged else None,
        interval=judged.interval if judged else None,
        verdict=judged.verdict if judged else "new" if left is None else "gone",
        reason=judged.reason if judged else None,
        delta=delta_s,
        share_fraction=delta_s / whole_s if whole_s else None,
        dtypes=dtypes,
        base_calls=base.calls.get(key),
        new_calls=new.calls.get(key),
        base_n=None if left is None else len(left),
        new_n=None if right is None else len(right),
    )


def _typical(seconds: Seconds) -> float:
    """The median step; the mean where some steps go without the operator."""
    return float(np.median(seconds) if (seconds > 0).all() else seconds.mean())


def _judge(base: Seconds, new: Seconds, floor: float) -> Judged:
    if not ((base > 0).all() and (new > 0).all()):
        return Judged(float(base.mean() / new.mean()), None, "~", "it does not run in every step")
    return judge(cost(base), cost(new), floor)
