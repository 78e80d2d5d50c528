"""Lines over logarithmic axes as a plain SVG: no library, no script, no font to load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 420, 300  # of a panel's frame
LEFT, TOP, GAP, BOTTOM = 64, 60, 88, 56
COLOURS = ("#1f6fb4", "#c8552d", "#4a8f3c", "#7b52a8", "#6b6b6b")
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One frame: what its vertical axis says, and named lines."""

    title: str
    lines: Mapping[str, Points]


@dataclass(frozen=True)
class Axis:
    """Whole decades on a stretch of pixels."""

    low: int
    high: int
    start: float
    end: float

    def at(self, value: float) -> float:
        """Pixel of a value."""
        return self.start + (log10(value) - self.low) / (self.high - self.low) * (self.end - self.start)

    def decades(self) -> Iterable[float]:
        """Values of the marked decades."""
        return (10.0**power for power in range(self.low, self.high + 1))


def log_log(panels: Sequence[Panel], x_title: str) -> str:
    """The panels side by side, with a legend above."""
    width = LEFT + len(panels) * (WIDTH + GAP) - GAP + 24
    body = [_legend(panels[0])]
    for number, panel in enumerate(panels):
        body += _panel(panel, x_title, LEFT + number * (WIDTH + GAP))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {TOP + HEIGHT + BOTTOM}" '
        f'font-family="sans-serif" font-size="13">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _axis(values: Iterable[float], start: float, end: float) -> Axis:
    found = list(values)
    low, high = floor(log10(min(found))), ceil(log10(max(found)))
    return Axis(low, max(high, low + 1), start, end)


def _panel(panel: Panel, x_title: str, left: float) -> list[str]:
    points = [point for line in panel.lines.values() for point in line]
    x = _axis((p[0] for p in points), left, left + WIDTH)
    y = _axis((p[1] for p in points), TOP + HEIGHT, TOP)
    parts = [
        *(_mark(value, x.at(value), TOP, x.at(value), TOP + HEIGHT, "middle") for value in x.decades()),
        *(_mark(value, left, y.at(value), left + WIDTH, y.at(value), "end") for value in y.decades()),
        _text(left + WIDTH / 2, TOP + HEIGHT + 42, x_title, "middle"),
        _text(left, TOP - 10, panel.title, "start"),
    ]
    for colour, line in zip(COLOURS, panel.lines.values(), strict=False):
        path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="3.5" fill="{colour}"/>' for a, b in line]
    return parts


def _mark(value: float, x1: float, y1: float, x2: float, y2: float, anchor: str) -> str:
    """A grid line and what it stands for."""
    text_x, text_y = (x1, y2 + 18) if anchor == "middle" else (x1 - 8, y1 + 4)
    line = f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'
    return line + _text(text_x, text_y, f"{value:g}" if value < 1e4 else f"{value:,.0f}", anchor)


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#222222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _legend(panel: Panel) -> str:
    """The lines' names in their colours, over the whole width."""
    places = zip(COLOURS, panel.lines, strict=False)
    return "".join(_text(LEFT + number * 210, 18, f"● {name}", "start", c) for number, (c, name) in enumerate(places))
