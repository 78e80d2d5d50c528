"""Is a step of NEW faster than one of BASE, and which parts and operators make the difference?

The medians of the steps that nothing recorded are compared where both runs have them, else those of the steps under the
profiler. Parts and operators come from the recorded steps.

A CPU with more runnable tasks than cores slows a program by up to load / cores, and evenly, so that no spread shows it.
The load is known of the beginning only, therefore the margins of both sides together are what host times must exceed:
two runs of one program on two cores, begun at loads of 3.0 and 4.8, have differed threefold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from probe.analyzers.compare.changes import both_said, differences, other_device
from probe.analyzers.compare.operators import PerStep, operator_rows
from probe.analyzers.compare.ratios import ENOUGH, FLOOR_FRACTION, Cost, cost, judge
from probe.analyzers.operators.op_table import Seconds
from probe.machine.device import Device
from probe.results.comparison import Change, Comparison, Explained, Interval, Judged, Part, Row, Side, Sides
from probe.units import significant

MOST_OF_IT = 0.9  # of the difference: the operators that are named make up so much, where they can
APART = (
    "the two were not run in turn: the intervals hold what varied within each, not what changed on the machine between "
    "them"
)


@dataclass(frozen=True)
class Recorded:
    """What is known of one side; `bare_s` are the warm steps without the profiler, [steps]."""

    path: str
    kind: str
    device: Device
    torch: str | None
    table: PerStep | None = None
    parts: Mapping[str, tuple[float | None, Interval | None]] = field(default_factory=dict)
    bare_s: Seconds = field(default_factory=lambda: np.empty(0))
    environment: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    samples: float | None = None  # a step
    ranks: int = 1
    warnings: tuple[str, ...] = ()


def compare_runs(base: Recorded, new: Recorded) -> Comparison:
    """Two runs or traces, step by step and operator by operator."""
    which = _which_steps(base, new)
    left, right = _steps(base, which), _steps(new, which)
    busy = (1 + _overload(base)) * (1 + _overload(new)) - 1
    floor = max(FLOOR_FRACTION, busy)
    whole = judge(left, right, floor) if left and right else Judged(None, None, "~", "no step was timed on one side")
    rows = operator_rows(base.table, new.table, busy) if base.table and new.table else ()
    return Comparison(
        kind="run",
        base=base.path,
        new=new.path,
        verdict=whole.verdict,
        ratio=whole.ratio,
        interval=whole.interval,
        reason=whole.reason,
        rows=rows,
        parts=_parts(base, new),
        warnings=tuple(dict.fromkeys(_warnings(base, new, which))),
        changes=_changes(base, new),
        sides=Sides(_side(base, left, which), _side(new, right, which)),
        explained=_explained(rows, whole),
        noise_fraction=floor,
    )


Which = Literal["bare", "profiled"]


def _overload(side: Recorded) -> float:
    """By how much others could slow a run on the CPU: runnable tasks beyond its cores, as a fraction of them."""
    load, cores = side.environment.get("load_average"), side.device.cores
    if side.device.kind != "cpu" or not load or not cores:
        return 0.0
    return max(0.0, float(load[0]) / cores - 1)


def _which_steps(base: Recorded, new: Recorded) -> Which:
    """Bare steps where both sides have enough, or have nothing else."""
    fewest = min(len(base.bare_s), len(new.bare_s))
    return "bare" if fewest >= ENOUGH or (fewest and not (base.table and new.table)) else "profiled"


def _steps(side: Recorded, which: Which) -> Cost | None:
    samples = side.bare_s if which == "bare" else side.table.step_s if side.table else np.empty(0)
    return cost(samples) if len(samples) else None


def _side(side: Recorded, steps: Cost | None, which: Which) -> Side:
    known = Side(side.path, side.kind, side.device.name, side.device.kind, side.torch)
    if steps is None:
        return known
    return replace(known, n=steps.n, step_s=steps.value, step_interval_s=steps.interval, steps=which)


def _parts(base: Recorded, new: Recorded) -> dict[str, Part | Any]:
    """The parts of the step that either side has, in the order of the analysis."""
    names = dict.fromkeys((*base.parts, *new.parts))
    return {name: _part(base.parts.get(name), new.parts.get(name)) for name in names}


def _part(base: tuple[float | None, Interval | None] | None, new: tuple[float | None, Interval | None] | None) -> Part:
    base_s, base_interval = base or (None, None)
    new_s, new_interval = new or (None, None)
    delta_s = new_s - base_s if base_s is not None and new_s is not None else None
    return Part(base_s, new_s, delta_s, base_interval, new_interval)


def _explained(rows: Sequence[Row], whole: Judged) -> Explained | None:
    """The operators that make the difference of the step; None where the step has none."""
    if whole.verdict == "~":
        return None
    sign = -1.0 if whole.verdict == "faster" else 1.0
    moved = [row for row in rows if row.verdict != "~" and (row.delta or 0.0) * sign > 0]
    share, count = 0.0, 0
    for row in moved:
        if share >= MOST_OF_IT or row.share_fraction is None or row.share_fraction <= 0:
            break
        share, count = share + row.share_fraction, count + 1
    return Explained(count, share) if count else None


def _changes(base: Recorded, new: Recorded) -> tuple[Change, ...]:
    """What else differs: device, software, and what a step or the job consists of."""
    if base.environment and new.environment:
        found = list(differences(base.device, new.device, base.environment, new.environment))
    else:
        found = [Change(*told) for told in _told_by_traces(base, new) if told[1] != told[2]]
    counts = (("ranks", base.ranks, new.ranks), ("samples a step", base.samples, new.samples))
    found += [Change(w, f"{b:g}", f"{n:g}") for w, b, n in counts if b and n and b != n]
    tags = dict.fromkeys((*base.tags, *new.tags))
    found += [
        Change(f"tag {tag}", base.tags.get(tag, "–"), new.tags.get(tag, "–"))
        for tag in tags
        if base.tags.get(tag) != new.tags.get(tag)
    ]
    return tuple(found)


def _told_by_traces(base: Recorded, new: Recorded) -> Iterator[tuple[str, str, str]]:
    """What both sides tell where one of them is a mere trace."""
    yield "device", base.device.name, new.device.name
    if base.torch and new.torch:
        yield "torch", base.torch, new.torch


def _warnings(base: Recorded, new: Recorded, which: Which) -> Iterator[str]:
    yield from other_device(base.device.name, new.device.name)
    if base.samples and new.samples and base.samples != new.samples:
        yield f"a step is not the same work on both sides: {base.samples:g} samples in BASE, {new.samples:g} in NEW"
    yield APART
    for label, side in (("BASE", base), ("NEW", new)):
        if _overload(side):
            load = significant(float(side.environment["load_average"][0]))
            yield f"{label} ran on a busy machine, load {load} on {side.device.cores} cores: others took of its time"
    if which == "profiled":
        yield from _why_profiled(base, new)
    for label, side in (("BASE", base), ("NEW", new)):
        if side.table is None:
            yield f"{label} has no trace: operators and parts are not compared"
    if base.table and new.table:
        yield from _of_tables(base.table, new.table)
    yield from both_said(base.warnings, new.warnings)


def _why_profiled(base: Recorded, new: Recorded) -> Iterator[str]:
    lacking = [label for label, side in (("BASE", base), ("NEW", new)) if len(side.bare_s) < ENOUGH]
    who = "both sides have" if len(lacking) == 2 else f"{lacking[0]} has"
    yield f"the steps compared ran under the profiler: {who} fewer than {ENOUGH} steps without it"


def _of_tables(base: PerStep, new: PerStep) -> Iterator[str]:
    if base.on_device != new.on_device:
        yield "one side is device time, the other host time: only one of them recorded a device"
    fewest = min(len(base.step_s), len(new.step_s))
    if fewest == 1:
        yield "one step was recorded: operators have no interval; record more with probe.profile(active=6)"
    elif fewest < ENOUGH:
        yield (
            f"{fewest} recorded steps: intervals of operators are Student's, and wide; "
            f"probe.profile(active={ENOUGH}) gives narrower ones"
        )
