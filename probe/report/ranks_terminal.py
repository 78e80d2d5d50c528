"""Ranks, collectives and scaling in the terminal, 80 columns wide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from probe.report import parts
from probe.report.ranks import (
    Column,
    between,
    collective_columns,
    extremes,
    footnotes,
    others,
    rank_columns,
    rank_notes,
    scaling_columns,
    shares,
)
from probe.report.text import printable
from probe.results.analysis import Analysis
from probe.results.multirank import CollectiveRow, Rank
from probe.results.scaling import Scaling
from probe.units import format_time

RANKS_SHOWN = 10
COLLECTIVES_SHOWN = 6
BAR = 12
WAIT = parts.STYLES["host"]
EXPOSED = parts.STYLES["communication"]
LEFT_OUT = ("imbalance", "total")  # there is no room
SHORT = {"communication": "comm."}


def blocks(analysis: Analysis) -> Iterator[RenderableType]:
    """What there is to say, each block followed by an empty line."""
    if len(analysis.ranks) > 1:
        yield from (*_ranks(analysis), Text())
    if analysis.collectives:
        yield from (*_collectives(analysis.collectives), Text())
    if analysis.scaling is not None:
        yield from (*_scaling(analysis.scaling), Text())


def _ranks(analysis: Analysis) -> Iterator[RenderableType]:
    """A row a rank; of many ranks the extremes, and medians of those between."""
    rows = extremes(analysis.ranks, analysis.stragglers, RANKS_SHOWN)
    shown = [between(row) if isinstance(row, list) else row for row in rows]
    columns = rank_columns(shown)
    table = _table(columns)
    largest_s = max((s.wait_s + s.exposed_s for r in analysis.ranks if (s := shares(r))), default=0.0)
    if largest_s > 0:
        table.add_column("", no_wrap=True, width=BAR)
    late = {s.rank for s in analysis.stragglers}
    for at, row in enumerate(rows):
        cells: list[RenderableType] = [column.cells[at] for column in columns]
        style = "bold yellow" if shown[at].rank in late else ""
        if isinstance(row, list):
            cells[0], style = f"{len(row)} between", "dim"
        elif style:
            cells[0] = f"▸ {cells[0]}"
        table.add_row(*cells, *([_bar(shown[at], largest_s)] if largest_s > 0 else []), style=style)
    yield table
    yield from (_note(note) for note in rank_notes(analysis.ranks))
    if len(rows) < len(analysis.ranks):
        yield _note("latest first; of the ranks between, medians")
    if largest_s > 0:
        wait, exposed, full = WAIT[0], EXPOSED[0], format_time(largest_s)
        yield _note(f"{wait} exposed and known to be waiting, {exposed} else exposed; the longest bar is {full}")


def _bar(rank: Rank, largest_s: float) -> Text:
    """Exposed communication, what of it is waiting first; the full width is the largest of all ranks."""
    split = shares(rank)
    if split is None:
        return Text()
    whole = round((split.wait_s + split.exposed_s) / largest_s * BAR)
    waiting = min(round(split.wait_s / largest_s * BAR), whole)
    return Text.assemble((WAIT[0] * waiting, WAIT[1]), (EXPOSED[0] * (whole - waiting), EXPOSED[1]))


def _collectives(rows: Sequence[CollectiveRow]) -> Iterator[RenderableType]:
    shown = rows[:COLLECTIVES_SHOWN]
    columns = [column for column in collective_columns(shown) if column.title not in LEFT_OUT]
    table = _table(_with_one_unit(columns), narrow=True)
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*cells)
    yield table
    if len(rows) > len(shown):
        yield Text(others(rows[len(shown) :]), style="dim")
    yield from (_note(note) for note in footnotes(shown))


def _with_one_unit(columns: Sequence[Column]) -> list[Column]:
    """Without the unit in the heading of algbw where that of busbw, which is the same, stands beside it."""
    if not any(column.title.startswith("busbw") for column in columns):
        return list(columns)
    return [replace(column, title="algbw") if column.title.startswith("algbw") else column for column in columns]


def _scaling(scaling: Scaling) -> Iterator[RenderableType]:
    columns = scaling_columns(scaling)
    table = _table(columns)
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*cells)
    yield table
    yield _note(scaling.assumption)


def _table(columns: Sequence[Column], *, narrow: bool = False) -> Table:
    """Columns without their cells; one space between them where it is narrow, else two."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim", collapse_padding=narrow)
    for column in columns:
        table.add_column(
            SHORT.get(column.title, column.title), justify="right" if column.numeric else "left", no_wrap=True
        )
    return table


def _note(text: str) -> RenderableType:
    return Padding(Text(printable(text), style="dim"), (0, 0, 0, 2))
