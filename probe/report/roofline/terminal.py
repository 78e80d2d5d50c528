"""How do the roofs of a machine look, and where do operators stand below them? Drawn for a terminal of 80 columns.

Both axes are logarithmic: arithmetic intensity in FLOP/byte, rate in FLOP/s. Rising lines are memory roofs (DRAM and,
where measured, cache levels), flat lines compute roofs by dtype; ◆ marks the ridge point of each dtype over DRAM.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from probe.machine.device import Ceilings
from probe.report.canvas import Axis, Canvas
from probe.report.roofline.plane import roofs
from probe.units import format_bytes_per_s, format_flops_per_s, format_si, significant

MOST_COLUMNS = 80
ROWS = 17
LEFT_COLUMNS = 8  # tick labels and the axis
LEAST_COLUMNS = 40
LOWEST_INTENSITY = 0.01  # FLOP/byte: below every operator that computes at all
MEMORY_STYLE, CACHE_STYLE, MUTED = "bold cyan", "cyan", "dim"
COMPUTE_STYLES = ("bold yellow", "green", "blue", "red", "white", "yellow")
RIDGE_STYLE, POINT_STYLE = "bold white", "bold magenta"


@dataclass(frozen=True)
class Point:
    """An operator: what it is called, its intensity in FLOP/byte, and what it achieves in FLOP/s."""

    label: str
    intensity: float
    flops_per_s: float


class Roofline:
    """The drawing as a rich renderable; its width is the console's, at most `width`."""

    def __init__(self, ceilings: Ceilings, points: Sequence[Point], width: int) -> None:
        self._ceilings = ceilings
        self._points = [p for p in points if p.intensity > 0 and p.flops_per_s > 0]
        self._width = width

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = roofs(self._ceilings) if self._ceilings.dram_bytes_per_s else ()
        compute = [(roof.name, roof.rate) for roof in lines if not roof.sloped]
        memory = [(roof.name, roof.rate) for roof in lines if roof.sloped]
        if not compute or not memory:
            yield Text("No roofline: it needs a measured memory bandwidth and a measured matmul rate.", MUTED)
            return
        width = max(LEAST_COLUMNS, min(self._width, options.max_width, MOST_COLUMNS))
        yield from _Drawing(compute, memory, self._points, width, options.ascii_only).rows()


def draw(ceilings: Ceilings, points: Sequence[Point] = (), width: int = MOST_COLUMNS) -> Roofline:
    """The roofline of `ceilings` with `points` on it, at most `width` (and never more than 80) columns wide."""
    return Roofline(ceilings, points, width)


def _joined(named: list[tuple[str, float]]) -> str:
    """Names and rates of roofs on one row; a unit that they share is written once."""
    labels = [f"{name} {format_flops_per_s(rate)}" for name, rate in named]
    unit = labels[-1].rpartition(" ")[2]
    return ", ".join([*(label.removesuffix(f" {unit}") for label in labels[:-1]), labels[-1]])


class _Drawing:
    """One drawing: axes that hold everything, then lines, then labels where they find room."""

    def __init__(
        self,
        compute: list[tuple[str, float]],
        memory: list[tuple[str, float]],
        points: list[Point],
        width: int,
        ascii_only: bool,
    ) -> None:
        self.compute, self.memory, self.points = compute, memory, points
        columns = width - LEFT_COLUMNS
        self.x = _intensity_axis(compute, memory, points, 2 * columns)
        self.y = _rate_axis(compute, memory, points, self.x, 4 * ROWS)
        self.canvas = Canvas(columns, ROWS, ascii_only)
        self.diamond, self.disc = ("*", "o") if ascii_only else ("◆", "●")
        self.corner, self.vertical, self.horizontal, self.tick = "+|-+" if ascii_only else "└│─┴"
        self.left_tick = "+" if ascii_only else "┤"

    def rows(self) -> Iterator[Text]:
        """Title, plot, axis and legend."""
        self._lines()
        self._ridges()
        self._labels()
        self._operators()
        ticks = {self._row(value): format_si(value, "", 1) for value in self.y.decades()}
        yield Text("FLOP/s", MUTED)
        for row in range(ROWS):
            label = ticks.get(row, "")
            edge = self.left_tick if label else self.vertical
            yield Text.assemble((f"{label:>{LEFT_COLUMNS - 2}} {edge}", MUTED), self.canvas.line(row))
        yield from self._axis()
        yield self._legend()

    def _column(self, intensity: float) -> int:
        return round(self.x.at(intensity)) // 2

    def _row(self, rate: float) -> int:
        return ROWS - 1 - round(self.y.at(rate)) // 4

    def _lines(self) -> None:
        """Memory roofs up to the highest compute roof; compute roofs from the fastest memory roof to the right."""
        top = self.compute[0][1]
        for name, rate in self.memory:
            style = MEMORY_STYLE if name == "DRAM" else CACHE_STYLE
            for dot in range(self.x.dots):
                height = self.x.value(dot) * rate
                if height <= top:
                    self.canvas.dot(dot, round(self.y.at(height)), style, "/")
        fastest = max(rate for _, rate in self.memory)
        for (_, rate), style in self._styled():
            for dot in range(max(0, math.ceil(self.x.at(rate / fastest))), self.x.dots):
                self.canvas.dot(dot, round(self.y.at(rate)), style, "-")

    def _styled(self) -> Iterator[tuple[tuple[str, float], str]]:
        for i, roof in enumerate(self.compute):
            yield roof, COMPUTE_STYLES[i % len(COMPUTE_STYLES)]

    def _ridges(self) -> None:
        dram = self.memory[0][1]
        for _, rate in self.compute:
            self.canvas.write(self._row(rate), self._column(rate / dram), self.diamond, RIDGE_STYLE)

    def _labels(self) -> None:
        """Each roof's name: compute roofs within their line, caches above their upper end, DRAM below its line."""
        self._cache_labels()
        self._compute_labels()
        dram, rate = self.memory[0][1], self.compute[0][1]
        ridge = f"ridge {significant(rate / dram)}"
        column = self._column(rate / dram)
        self.canvas.place([(self._row(rate) - 1, column + shift) for shift in (0, 2, 4)], ridge, RIDGE_STYLE)
        label = f"DRAM {format_bytes_per_s(dram)}"
        for dot in range(self.x.dots // 4, self.x.dots):
            row, column = self._row(self.x.value(dot) * dram), dot // 2 + 3
            if self.canvas.place([(row, column)], label, MEMORY_STYLE):
                break

    def _compute_labels(self) -> None:
        """Within the line near its right end, or before its start; roofs on one row share a label."""
        rows: dict[int, list[tuple[str, float, str]]] = {}
        for (name, rate), style in self._styled():
            rows.setdefault(self._row(rate), []).append((name, rate, style))
        for row, together in rows.items():
            text = f" {_joined([(name, rate) for name, rate, _ in together])} "
            start = self._label_start(row, text, [rate for _, rate, _ in together])
            self.canvas.write(row, start, text, together[0][2])

    def _label_start(self, row: int, text: str, rates: list[float]) -> int:
        """The rightmost place on the line that covers neither ridge nor operator; else that before the line."""
        ridges = [self._column(rate / self.memory[0][1]) for rate in rates]
        operators = [self._column(p.intensity) for p in self.points if self._row(p.flops_per_s) == row]
        rightmost = self.canvas.columns - len(text) - 1
        first = min(column for column in range(self.canvas.columns) if (row, column) in self.canvas.dots)
        for obstacles in (ridges + operators, operators):
            for start in range(rightmost, min(ridges), -1):
                if not any(start <= column < start + len(text) for column in obstacles):
                    return start
            if first >= len(text):
                return first - len(text)
        return max(0, rightmost)

    def _cache_labels(self) -> None:
        """Names above the ends of the cache roofs; those that fall together share one label."""
        top = self.compute[0][1]
        row, groups = self._row(top) - 1, dict[int, list[str]]()
        for name, rate in self.memory[1:]:
            column = self._column(top / rate)
            near = next((c for c in groups if abs(c - column) < 5), column)
            groups.setdefault(near, []).append(name)
        for column, names in groups.items():
            label = " ".join(sorted(names))
            self.canvas.place([(row, column), (row, column - len(label))], label, CACHE_STYLE)

    def _operators(self) -> None:
        for point in self.points:
            row, column = self._row(point.flops_per_s), self._column(point.intensity)
            self.canvas.write(row, column, self.disc, POINT_STYLE)
        for point in self.points:
            row, column = self._row(point.flops_per_s), self._column(point.intensity)
            label = "".join(c if c.isprintable() and ord(c) < 0x2000 else "?" for c in point.label)[:24]
            right, left, middle = column + 2, column - 1 - len(label), column - len(label) // 2
            spots = [(row, right), (row, left), (row + 1, right), (row - 1, left), (row + 1, middle)]
            self.canvas.place(spots, label, POINT_STYLE)

    def _axis(self) -> Iterator[Text]:
        """The horizontal axis with a tick and its value at each power of ten."""
        rule = [self.horizontal] * self.canvas.columns
        labels = [" "] * (self.canvas.columns + LEFT_COLUMNS)
        for value in self.x.decades():
            column = self._column(value)
            rule[column] = self.tick
            text = f"{value:g}"
            start = min(column + LEFT_COLUMNS - len(text) // 2, len(labels) - len(text))
            labels[start : start + len(text)] = text
        yield Text(" " * (LEFT_COLUMNS - 1) + self.corner + "".join(rule), MUTED)
        yield Text("".join(labels).rstrip(), MUTED)

    def _legend(self) -> Text:
        """The memory roofs with their values, and what the horizontal axis is."""
        separator = ", " if self.canvas.ascii_only else " · "
        caches = separator.join(f"{name} {format_bytes_per_s(rate)}" for name, rate in sorted(self.memory[1:]))
        unit = "FLOP/byte"
        room = self.canvas.columns + LEFT_COLUMNS - len(unit)
        legend = Text(" " * LEFT_COLUMNS + caches, CACHE_STYLE)
        legend.truncate(room - 1)
        legend.append(" " * (room - len(legend)))
        return legend.append(unit, MUTED)


def _intensity_axis(
    compute: list[tuple[str, float]], memory: list[tuple[str, float]], points: list[Point], dots: int
) -> Axis:
    """From 0.01 FLOP/byte (or the leftmost point) to a decade beyond the last ridge (or the rightmost point)."""
    low = min([LOWEST_INTENSITY, *(p.intensity / 2 for p in points)])
    ridge = compute[0][1] / memory[0][1]
    high = max([ridge * 30, 100.0, *(p.intensity * 2 for p in points)])
    return Axis(low, high, dots)


def _rate_axis(
    compute: list[tuple[str, float]], memory: list[tuple[str, float]], points: list[Point], x: Axis, dots: int
) -> Axis:
    """From where DRAM's roof starts (or the lowest roof or point) to somewhat above the highest."""
    low = min([memory[0][1] * x.low, compute[-1][1] / 2, *(p.flops_per_s / 2 for p in points)])
    high = max([compute[0][1], *(p.flops_per_s for p in points)]) * 2.5
    return Axis(low, high, dots)
