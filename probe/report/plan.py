"""A plan on one screen: its parts, the result, and what was assumed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from probe.planning.result import Part, Plan
from probe.units import (
    UNKNOWN,
    format_bytes,
    format_bytes_per_s,
    format_flops_per_s,
    format_fraction,
    format_si,
    significant,
)

WIDTH = 80
DAY = 86400.0
SUFFIXES = (
    ("_bytes_per_s", format_bytes_per_s), ("_flops_per_s", format_flops_per_s), ("_bytes", format_bytes),
    ("_fraction", format_fraction),
)  # fmt: skip


def render(plan: Plan) -> RenderableType:
    """The plan as rich text, 80 columns wide."""
    blocks: list[RenderableType] = []
    if plan.parts:
        blocks += [_parts(plan.parts), Text()]
    return Group(*blocks, _result(plan), *_notes(plan))


def as_text(plan: Plan) -> str:
    """The plan as plain text."""
    console = Console(width=WIDTH, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(render(plan))
    return capture.get()


def _parts(parts: tuple[Part, ...]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    for part in parts:
        amount = format_bytes(part.bytes) if part.bytes is not None else long_time(part.seconds)
        table.add_row(part.name, amount, part.how)
    return table


def _result(plan: Plan) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(justify="right", style="bold")
    for key, value in plan.result.items():
        table.add_row(*_told(key, value))
    return table


def _told(key: str, value: Any) -> tuple[str, str]:
    if isinstance(value, bool):
        return key.replace("_", " "), "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return key.replace("_", " "), str(value)
    for suffix, shown in SUFFIXES:
        if key.endswith(suffix):
            return key.removesuffix(suffix).replace("_", " "), shown(value)
    if key.startswith("bytes_"):
        return key.replace("_", " "), format_bytes(value)
    if key.endswith("_s"):
        return key.removesuffix("_s").replace("_", " "), long_time(value)
    if key == "usd":
        return "cost", f"${value:,.0f}"
    if key == "flops":
        return key, format_si(value, "FLOP")
    return key.replace("_", " "), format_si(value, "") if value >= 1e6 else _count(value)


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else significant(value)


def long_time(seconds: float | None) -> str:
    """Seconds, hours or days."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds >= 2 * DAY:
        return f"{seconds / DAY:,.1f} days"
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds:,.3g} s"


def _notes(plan: Plan) -> Iterator[Text]:
    if plan.assumptions or plan.warnings:
        yield Text()
    for text in plan.assumptions:
        yield Text(f"· {text}", style="dim")
    for text in plan.warnings:
        yield Text(f"! {text}", style="yellow")
