"""Memory over time as an inline SVG picture: what each category holds, one above the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from probe.results.memory_use import CATEGORIES, Memory, MemoryTimeline
from probe.units import format_bytes, format_time

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 1072, 240, 76, 12, 12, 26
# Okabe and Ito's palette.
COLOURS = {
    "parameters": "#0072b2",
    "gradients": "#e69f00",
    "optimizer": "#cc79a7",
    "activations": "#009e73",
    "temporary": "#d55e00",
    "workspace": "#f0e442",
    "other": "#b8bcc4",
}
LINES = 4  # across the picture
SOFT = "#8a94a0"


def draw(memory: Memory) -> str:
    """The picture with its legend; empty where there is no timeline of at least two instants."""
    line = memory.timeline
    if line is None or len(line.at_s) < 2 or not memory.peak_bytes or line.at_s[-1] <= line.at_s[0]:
        return ""
    highest = max(line.allocated_bytes)
    parts = [*_grid(highest), *_areas(line, highest), *_ends(line)]
    legend = "".join(
        f'<li><i style="background:{COLOURS[name]}"></i>{name}</li>' for name in CATEGORIES if name in line.by_category
    )
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="memory in use over time" '
        f'font-size="11" fill="currentColor">{"".join(parts)}</svg>'
    )
    return f"<ul>{legend}</ul>{svg}"


def _x(line: MemoryTimeline) -> list[float]:
    first, last = line.at_s[0], line.at_s[-1]
    return [LEFT + (at - first) / (last - first) * (WIDTH - LEFT - RIGHT) for at in line.at_s]


def _y(size: float, highest: int) -> float:
    return HEIGHT - BOTTOM - size / highest * (HEIGHT - TOP - BOTTOM)


def _areas(line: MemoryTimeline, highest: int) -> Iterator[str]:
    """One area a category, in steps: memory is taken at an instant."""
    below = [0] * len(line.at_s)
    places = _x(line)
    for name in CATEGORIES:
        if name not in line.by_category:
            continue
        above = [b + size for b, size in zip(below, line.by_category[name], strict=True)]
        edge = [*_steps(places, above, highest), *reversed(_steps(places, below, highest))]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in edge)
        yield f'<polygon points="{points}" fill="{COLOURS[name]}"><title>{name}</title></polygon>'
        below = above


def _steps(places: Sequence[float], sizes: Sequence[int], highest: int) -> list[tuple[float, float]]:
    """The corners of a line that keeps its height until the next instant."""
    corners = []
    for place, following, size in zip(places, [*places[1:], places[-1]], sizes, strict=True):
        corners += [(place, _y(size, highest)), (following, _y(size, highest))]
    return corners


def _grid(highest: int) -> Iterator[str]:
    for number in range(LINES + 1):
        size = highest * number / LINES
        y = _y(size, highest)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{SOFT}" stroke-width=".5"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{format_bytes(round(size))}</text>'


def _ends(line: MemoryTimeline) -> Iterator[str]:
    """How long the picture is."""
    yield (
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">'
        f"{format_time(line.at_s[-1] - line.at_s[0])} of steps</text>"
    )
