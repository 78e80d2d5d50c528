"""A training run beside the recorded good one: series by series, and what a step takes."""

from __future__ import annotations

import statistics
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from probe.units import format_time

WIDTH = 80
STYLES = {"pass": "green", "fail": "bold red"}


def render(good: Any, new: Any, found: Any) -> RenderableType:
    """The verdict, then a row a series."""
    table = Table(box=None, width=WIDTH, padding=(0, 1), pad_edge=False, header_style="dim")
    for title, justify in (
        ("", "left"),
        ("recorded, last", "right"),
        ("now, last", "right"),
        ("apart", "right"),
        ("", "left"),
    ):
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for name in found.kinds:
        table.add_row(*_row(name, good, new, found))
    steps = f"{found.steps} steps" + (f" · a step takes {found.step_ratio:.2f}× the time" if found.step_ratio else "")
    where = f"{good.device}, torch {good.torch} → {new.device}, torch {new.torch} · {steps}"
    if found.step_ratio is None:
        return Group(_head(found), Text(where, style="dim"), Text(), table)
    return Group(_head(found), Text(where, style="dim"), Text(), table, _pace(good, new))


def _row(name: str, good: Any, new: Any, found: Any) -> list[str]:
    worst, at, last = found.worst_fraction[name], found.first_step[name], found.steps - 1
    kind = found.kinds[name] + (f" at step {at}" if at is not None else "")
    values = _value(getattr(good, name)[last]), _value(getattr(new, name)[last])
    return [name.replace("_", " "), *values, "–" if worst is None else f"{worst:.2g}", kind]


def _head(found: Any) -> Text:
    return Text.assemble((found.verdict.upper(), STYLES[found.verdict]), "  ", found.summary)


def _pace(good: Any, new: Any) -> Text:
    """The median steps; told, since another time and machine differ anyway."""
    before, after = (format_time(statistics.median(side.step_s[1:])) for side in (good, new))
    return Text(f"a step: {before} recorded, {after} now (told only)", style="dim")


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"
