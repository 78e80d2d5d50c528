"""What got faster or slower, on one screen: the sentence, what else changed, parts or suites, rows with bars."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from probe.report.analysis import operator_name
from probe.report.compare_words import (
    SAME,
    apart,
    changed,
    difference,
    distance,
    left_over,
    noise,
    parts_of_step,
    row_speed,
    sentence,
    shapes,
    step_line,
    suites,
    value,
)
from probe.report.text import printable, shorten
from probe.results.comparison import Comparison, Part, Row, Suite
from probe.units import format_time

WIDTH = 80
BAR = 8
STYLES = {"faster": "green", "slower": "red", SAME: "dim", "new": "red", "gone": "green"}
TOP = 15


def render(found: Comparison, top: int = TOP) -> RenderableType:
    """The report as rich text, 80 columns wide; `top` rows are listed."""
    blocks: list[RenderableType] = [*_heads(found), Text(sentence(found), style=_bold(found.verdict))]
    if said := step_line(found):
        blocks.append(Text(said))
    blocks += [*_changes(found), *_parts(found), *_suites(found), *_rows(found, top)]
    return Group(*blocks, *_notes(found))


def as_text(found: Comparison, top: int = TOP) -> str:
    """The report as plain text."""
    console = Console(width=WIDTH, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(render(found, top))
    return capture.get()


def _bold(verdict: str) -> str:
    return "bold" if verdict == SAME else f"bold {STYLES[verdict]}"


def _heads(found: Comparison) -> Iterator[Text]:
    """A line a side: where it is, and on what it ran."""
    for label, side in (("BASE", found.sides.base), ("NEW ", found.sides.new)):
        told = (side.device, f"torch {side.torch}" if side.torch else None)
        where = shorten(" · ".join(printable(x) for x in told if x), 44)
        path = shorten(printable(side.path), WIDTH - len(where) - 7)
        gap = " " * (WIDTH - 5 - len(path) - len(where))
        yield Text.assemble((f"{label} ", "cyan"), (path, "bold"), gap, (where, "dim"))


def _changes(found: Comparison) -> Iterator[RenderableType]:
    """What differs besides the code, before any figure is believed."""
    if not found.changes:
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="yellow", no_wrap=True, max_width=20)
    grid.add_column(max_width=WIDTH - 24)
    for change in found.changes:
        arrow = Text.assemble(printable(change.base), (" → ", "dim"), printable(change.new))
        grid.add_row(f"  {printable(change.what)}", arrow)
    yield Text()
    yield Text("What else changed", style="bold")
    yield grid


def _table(first: str, *numbers: str) -> Table:
    """A table of the width of the screen: a name that gives way, then numbers."""
    table = Table(box=None, width=WIDTH, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column(first, no_wrap=True, overflow="ellipsis", ratio=5)
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table


def bar(amount: float, largest: float, style: str, width: int = BAR) -> Text:
    """A bar whose full width is the largest amount of the table, in eighths of a character; never quite nothing."""
    eighths = max(1, round(amount / largest * width * 8)) if largest > 0 and amount > 0 else 0
    full, part = divmod(eighths, 8)
    return Text("█" * full + ("▏▎▍▌▋▊▉"[part - 1] if part else ""), style=style)


def _parts(found: Comparison) -> Iterator[RenderableType]:
    """The parts of the step, the largest difference first."""
    named = parts_of_step(found)
    if not named:
        return
    table = _table("part of the step", "base", "new", "difference")
    table.add_column("", no_wrap=True, width=BAR)
    largest = max(abs(part.delta_s or 0.0) for _, part in named)
    for name, part in named:
        table.add_row(*_part(name, part, largest))
    yield Text()
    yield table


def _part(name: str, part: Part, largest: float) -> list[RenderableType]:
    """A part of the step; without a bar where both sides' steps overlap."""
    delta_s = part.delta_s or 0.0
    style = STYLES["faster" if delta_s < 0 else "slower"]
    drawn = bar(abs(delta_s), largest, style) if apart(part) else Text(SAME, "dim")
    return [name, format_time(part.base_s), format_time(part.new_s), difference(part.delta_s), drawn]


def _suites(found: Comparison) -> Iterator[RenderableType]:
    """A row a suite: the geometric mean of its benchmarks, and how many went which way."""
    named = suites(found)
    if not named:
        return
    table = _table("suite", "faster", "slower", SAME, "new", "gone", "speed", "interval", "noise")
    for name, suite in named:
        table.add_row(*_suite(name, suite))
    yield Text()
    yield table


def _suite(name: str, suite: Suite) -> list[RenderableType]:
    said, ends = row_speed(suite.ratio, suite.interval, suite.verdict)
    counts = [str(count or "") for count in (suite.faster, suite.slower, suite.noise, suite.new, suite.gone)]
    return [printable(name), *counts, Text(said, STYLES[suite.verdict]), Text(ends, "dim"), Text(noise(suite), "dim")]


def _rows(found: Comparison, top: int) -> Iterator[RenderableType]:
    """The rows: operators by their difference, noise among them; of benchmarks those that changed."""
    chosen = list(found.rows[:top]) if found.kind == "run" else changed(found)[:top]
    if chosen:
        yield Text()
        yield _operators(chosen) if found.kind == "run" else _benchmarks(chosen)
    for line in left_over(found, chosen):
        yield Text(line, style="dim")


def _operators(rows: Sequence[Row]) -> Table:
    table = _table("operator")
    table.collapse_padding = True
    table.add_column("shapes", no_wrap=True, overflow="ellipsis", ratio=3, style="dim")
    for title in ("base", "new", "change", "speed", "interval"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, width=BAR - 2)
    largest = max((abs(row.delta or 0.0) for row in rows if row.verdict != SAME), default=0.0)
    for row in rows:
        table.add_row(*_operator(row, largest), style="dim" if row.verdict == SAME else None)
    return table


def _operator(row: Row, largest: float) -> list[RenderableType]:
    said, ends = row_speed(row.ratio, row.interval, row.verdict)
    style = STYLES["faster" if (row.delta or 0.0) < 0 else "slower"]
    drawn = bar(abs(row.delta or 0.0), largest, style, BAR - 2) if row.verdict != SAME else Text()
    figures = (value(row, row.base), value(row, row.new), difference(row.delta))
    return [
        Text(operator_name(row.name)), Text(shapes(row)), *figures, Text(said, STYLES[row.verdict]),
        Text(ends, "dim"), drawn,
    ]  # fmt: skip


def _benchmarks(rows: Sequence[Row]) -> Table:
    table = _table("benchmark", "base", "new", "speed", "interval")
    table.add_column("", no_wrap=True, width=BAR)
    largest = math.log(max(distance(row) for row in rows))
    for row in rows:
        said, ends = row_speed(row.ratio, row.interval, row.verdict)
        style = STYLES[row.verdict]
        drawn = bar(math.log(distance(row)), largest, style)
        name = Text(shorten(printable(row.name), 40))
        table.add_row(name, value(row, row.base), value(row, row.new), Text(said, style), Text(ends, "dim"), drawn)
    return table


def _notes(found: Comparison) -> Iterator[Text]:
    """What limits the figures."""
    if found.warnings:
        yield Text()
    for warning in found.warnings:
        yield Text.assemble(("! ", "yellow"), printable(warning))
