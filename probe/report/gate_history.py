"""The step's time over many baselines: a table with bars, and a page with the curve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from probe.report.compare import bar
from probe.report.html import PAGE_STYLE, STYLE
from probe.report.text import printable, shorten
from probe.schema import to_jsonable
from probe.units import format_time

WIDTH = 80
BAR = 24
PLOT_WIDTH, PLOT_HEIGHT, MARGIN = 1000, 260, 60


@dataclass(frozen=True)
class Row:
    """One baseline; `change` is the ratio after and before, where a new level begins with it."""

    file: str
    commit: str | None
    created: str
    command: str
    device: str | None
    step_s: float
    noise_fraction: float | None
    change: float | None

    def to_json(self) -> dict[str, Any]:
        """One of `points`."""
        found: dict[str, Any] = to_jsonable(asdict(self))
        return found


def row(path: Path, baseline: Any, change: float | None) -> Row:
    """Of a stored baseline."""
    return Row(
        str(path), baseline.commit, baseline.created, baseline.command, baseline.fingerprint.get("device"),
        baseline.step_s, baseline.noise_fraction, change,
    )  # fmt: skip


def render(rows: Sequence[Row]) -> RenderableType:
    """A table for each command and device."""
    return Group(*(block for series in _series(rows) for block in _blocks(series)))


def _series(rows: Sequence[Row]) -> Iterator[list[Row]]:
    for key in dict.fromkeys((r.command, r.device) for r in rows):
        yield [r for r in rows if (r.command, r.device) == key]


def _blocks(rows: Sequence[Row]) -> Iterator[RenderableType]:
    yield Text.assemble((printable(rows[0].command), "bold"), (f"  on {rows[0].device}", "dim"))
    table = Table(box=None, width=WIDTH, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("commit", no_wrap=True)
    table.add_column("a step", justify="right", no_wrap=True)
    table.add_column("±", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    largest = max(r.step_s for r in rows)
    for one in rows:
        noise = f"{one.noise_fraction * 100:.1f} %" if one.noise_fraction is not None else "–"
        style = "" if one.change is None else "red" if one.change > 1 else "green"
        drawn = bar(one.step_s, largest, style or "blue", BAR)
        drawn.append("" if one.change is None else f"  {(one.change - 1) * 100:+.1f} % from here", style=style)
        commit = (one.commit or shorten(Path(one.file).name, 10))[:10]
        table.add_row(one.created[:10], commit, format_time(one.step_s), noise, drawn)
    yield table


def as_html(rows: Sequence[Row]) -> str:
    """A page with a curve for each command and device."""
    body = "".join(f"<h2>{_text(s[0].command)} on {_text(s[0].device or '?')}</h2>{_curve(s)}" for s in _series(rows))
    head = f'<meta charset="utf-8"><title>probe gate history</title><style>{PAGE_STYLE}{STYLE}</style>'
    main = f'<main class="probe"><h1>The step over {len(rows)} baselines</h1>{body}</main>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{main}</body></html>\n'


def _curve(rows: Sequence[Row]) -> str:
    """Points with their noise, the levels' changes marked."""
    largest = max(r.step_s * (1 + (r.noise_fraction or 0)) for r in rows)
    step = (PLOT_WIDTH - 2 * MARGIN) / max(len(rows) - 1, 1)
    places = [(MARGIN + i * step, r) for i, r in enumerate(rows)]
    line = " ".join(f"{x:.1f},{_y(r.step_s, largest):.1f}" for x, r in places)
    floor = _y(0, largest)
    ends = f'x1="{MARGIN}" x2="{PLOT_WIDTH - MARGIN}" y1="{floor:.1f}" y2="{floor:.1f}"'
    parts = [
        f'<line {ends} stroke="currentColor" opacity=".4"/>',
        f'<text x="0" y="{_y(largest, largest) + 4:.1f}" fill="currentColor">{format_time(largest)}</text>',
        f'<text x="0" y="{floor + 4:.1f}" fill="currentColor">0</text>',
        f'<polyline fill="none" stroke="#0072b2" stroke-width="2" points="{line}"/>',
        *(_point(x, r, largest) for x, r in places),
    ]
    box = f"0 0 {PLOT_WIDTH} {PLOT_HEIGHT}"
    return f'<svg viewBox="{box}" role="img" aria-label="Time of a step" font-size="12">{"".join(parts)}</svg>'


def _y(seconds: float, largest: float) -> float:
    """Where a time lies: 0 at the bottom, the largest a little below the top."""
    return PLOT_HEIGHT - 30 - seconds / largest * (PLOT_HEIGHT - 60)


def _point(x: float, one: Row, largest: float) -> str:
    """A dot with its noise, and the change that begins with it."""
    noise, y = one.noise_fraction or 0.0, _y(one.step_s, largest)
    low, high = (_y(one.step_s * (1 + sign * noise), largest) for sign in (-1, 1))
    colour = "#0072b2" if one.change is None else "#d55e00" if one.change > 1 else "#009e73"
    title = f"{(one.commit or one.file)[:12]} {one.created[:10]}: {format_time(one.step_s)}"
    said = ""
    if one.change is not None:
        place = f'x="{x:.1f}" y="{high - 8:.1f}" text-anchor="middle"'
        said = f'<text {place} fill="{colour}">{(one.change - 1) * 100:+.1f} %</text>'
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}" opacity=".5"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"><title>{_text(title)}</title></circle>{said}'
    )


def _text(text: str) -> str:
    return escape(printable(text))
