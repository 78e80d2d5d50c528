"""The memory of an analysis in words and columns: the peak, who held it, and what would lower it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from probe.report.ranks import Column
from probe.report.text import printable
from probe.results.memory_use import CATEGORIES, Memory
from probe.units import UNKNOWN, format_bytes, format_fraction

HOLDERS_SHOWN = 6
FORECASTS_SHOWN = 4
BAR = 60
# Each with a texture and a colour of its own, so that it is told apart without colour too.
STYLES = {
    "parameters": ("█", "blue"),
    "gradients": ("▓", "dark_orange"),
    "optimizer": ("▚", "purple"),
    "activations": ("▒", "green"),
    "temporary": ("░", "red"),
    "workspace": ("▞", "yellow"),
    "other": ("·", "bright_black"),
}


def sentence(memory: Memory) -> str:
    """The peak, where it was, and what of the device it takes."""
    if memory.peak_bytes is None:
        return "; ".join(memory.notes) or "not known"
    of = f" of {format_bytes(memory.capacity_bytes)}" if memory.capacity_bytes else ""
    told = [f"peak {format_bytes(memory.peak_bytes)}{of} on {memory.device}: {memory.peak_at}"]
    if memory.fragmentation is not None:
        told.append(f"{format_bytes(memory.fragmentation.reserved_bytes)} reserved, {memory.fragmentation.ratio:.2f}×")
    if memory.growth_bytes_per_step:
        told.append(f"{format_bytes(memory.growth_bytes_per_step)} more after every step")
    return printable(" · ".join(told))


def parts(memory: Memory) -> list[tuple[str, int, float]]:
    """The categories at the peak: name, bytes and share, the largest first."""
    total = memory.peak_bytes or 0
    known = [(name, memory.by_category.get(name) or 0) for name in CATEGORIES]
    return sorted(((n, size, size / total) for n, size in known if size and total), key=lambda part: -part[1])


def holder_columns(memory: Memory, most: int) -> tuple[Column, ...]:
    """Who held most at the peak."""
    rows = memory.holders[:most]
    peak = memory.peak_bytes or 1
    return (
        Column("held by", tuple(h.operator or ("no operator" if h.blocks else "there before") for h in rows), False),
        Column("in", tuple(h.where or UNKNOWN for h in rows), False),
        Column("as", tuple(h.category for h in rows), False),
        Column("blocks", tuple(str(h.blocks) if h.blocks else UNKNOWN for h in rows), True),
        Column("bytes", tuple(format_bytes(h.bytes) for h in rows), True),
        Column("share", tuple(format_fraction(h.bytes / peak) for h in rows), True),
    )


def forecast_columns(memory: Memory, most: int) -> tuple[Column, ...]:
    """What would lower the peak."""
    rows = memory.forecast[:most]
    return (
        Column("change", tuple(f.change for f in rows), False),
        Column("peak", tuple(format_bytes(f.peak_bytes) for f in rows), True),
        Column("less", tuple(format_bytes(f.saving_bytes) for f in rows), True),
        Column("costs", tuple(f.cost or UNKNOWN for f in rows), False),
        Column("if", tuple(f.assumes for f in rows), False),
    )


def blocks(memory: Memory | None, width: int) -> Iterator[RenderableType]:
    """The section in the terminal, followed by an empty line; nothing where memory is not known."""
    if memory is None or memory.peak_bytes is None:
        return
    yield Text.assemble(("memory  ", "bold"), sentence(memory))
    yield _bar(memory, width)
    yield _legend(memory)
    yield _table(holder_columns(memory, HOLDERS_SHOWN), width)
    if memory.forecast:
        yield _table(forecast_columns(memory, FORECASTS_SHOWN)[:4], width)
    yield from (Text(f"! {printable(note)}", style="dim") for note in memory.notes)
    yield Text()


def _bar(memory: Memory, width: int) -> Text:
    """The categories at the peak as one line; each that is there has a character."""
    text = Text()
    for name, _, share in parts(memory):
        glyph, style = STYLES[name]
        text.append(glyph * max(1, int(share * width)), style)
    return text[:width]


def _legend(memory: Memory) -> Text:
    told = []
    for name, size, share in parts(memory):
        glyph, style = STYLES[name]
        told.append(Text.assemble((glyph, style), f" {name} {format_bytes(size)} {format_fraction(share, 0)}"))
    return Text("  ").join(told)


def _table(columns: tuple[Column, ...], width: int) -> Table:
    table = Table(box=None, width=width, padding=(0, 1), pad_edge=False, header_style="dim")
    for column in columns:
        justify = "right" if column.numeric else "left"
        table.add_column(
            column.title, justify="right" if justify == "right" else "left", no_wrap=True, overflow="ellipsis",
            ratio=None if column.numeric else 1,
        )  # fmt: skip
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table
