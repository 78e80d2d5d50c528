"""How do the curves look in a terminal? Two panels a line, 80 columns: lines of braille dots, or bars.

Both axes of a curve are logarithmic; below it stand the levels of the memory hierarchy and the ends of the axis. What
has more than three series shows the best of them (the best kernel of each number of threads).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from rich.text import Text

from probe.report import register_banks
from probe.report.canvas import Axis, Canvas
from probe.report.curves import Alone, Figure, Series, arrange, merged, tick
from probe.report.text import printable, shorten
from probe.results.measurement import Measurement
from probe.units import format_value

COLUMNS = 39  # of a panel; two and what is between them make 80
GAP = 2
LEFT = 11  # tick labels and the axis
ROWS = 7
ROOM = 1.15  # above and below the curves
MOST_BARS = 8
BARRED = "flops_per_s"  # the metric whose measurements stand side by side: dtypes, implementations
STYLES = ("bold cyan", "bold yellow", "bold green")
MUTED = "dim"
ASCII = str.maketrans({"·": ",", "×": "x", "µ": "u", "–": "-", "…": ".", "³": "^3"})

Panel = list[Text]


def draw(measurements: Sequence[Measurement], ascii_only: bool) -> Iterator[Text]:
    """The panels of all curves and of the rates, two side by side; nothing where there are none."""
    sound = [m for m in measurements if m.value > 0 and math.isfinite(m.value)]
    figures, alone = arrange(register_banks.without(sound))
    if (banks := register_banks.curve(sound)) is not None:
        figures = (*figures, banks)
    bars = [group for group in alone if group.measurements[0].metric == BARRED and len(group.measurements) > 1]
    panels = [_curve(merged(figure), ascii_only) for figure in figures]
    panels += [_bars(group, ascii_only) for group in bars]
    for left, right in itertools.zip_longest(panels[::2], panels[1::2], fillvalue=None):
        yield Text("")
        yield from _beside(left or [], right or [])


def _beside(left: Panel, right: Panel) -> Iterator[Text]:
    for one, other in itertools.zip_longest(left, right, fillvalue=None):
        line = Text(no_wrap=True, overflow="crop")
        line.append_text(one or Text(""))
        if other is not None:
            line.append(" " * (COLUMNS + GAP - line.cell_len))
            line.append_text(other)
        line.rstrip()
        yield line


def _curve(figure: Figure, ascii_only: bool) -> Panel:
    """Title, plot, axis, levels and the ends of the axis."""
    x, y = _axes(figure)
    canvas = Canvas(COLUMNS - LEFT, ROWS, ascii_only)
    for series, style in zip(figure.series, itertools.cycle(STYLES), strict=False):
        _line(canvas, [(x.at(figure.x(m)), y.at(m.value)) for m in series.points], style)
    if len(figure.series) > 1:
        _names(canvas, figure, x, y)
    return [
        Text(_ascii(shorten(printable(figure.title), COLUMNS), ascii_only), "cyan"),
        *_plot(canvas, figure.unit, y, ascii_only),
        *_feet(figure, x, ascii_only),
    ]


def _axes(figure: Figure) -> tuple[Axis, Axis]:
    """Logarithmic axes that hold every point."""
    points = [m for series in figure.series for m in series.points]
    xs, ys = [figure.x(m) for m in points], [m.value for m in points]
    rows = Axis(min(ys) / ROOM, max(ys) * ROOM, 4 * ROWS)
    return Axis(min(xs), max(xs), 2 * (COLUMNS - LEFT)), rows


def _line(canvas: Canvas, points: Sequence[tuple[float, float]], style: str) -> None:
    """Straight lines from point to point."""
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        steps = max(1, math.ceil(max(abs(x1 - x0), abs(y1 - y0))))
        slope = "-" if abs(y1 - y0) < abs(x1 - x0) else "/" if y1 > y0 else "\\"
        for step in range(steps + 1):
            share = step / steps
            canvas.dot(round(x0 + share * (x1 - x0)), round(y0 + share * (y1 - y0)), style, slope)


def _names(canvas: Canvas, figure: Figure, x: Axis, y: Axis) -> None:
    """Each series by its name, beside its line where there is room."""
    for series, style in zip(figure.series, itertools.cycle(STYLES), strict=False):
        name = _ascii(shorten(printable(series.name), canvas.columns - 2), canvas.ascii_only)
        canvas.place(_spots(series, figure, x, y, len(name)), name, style)


def _spots(series: Series, figure: Figure, x: Axis, y: Axis, length: int) -> Iterator[tuple[int, int]]:
    """Cells above the line, then below it, from its middle outwards."""
    points = sorted(series.points, key=lambda m: abs(x.at(figure.x(m)) - x.dots / 2))
    for away in (-1, 1, -2, 2):
        for m in points:
            row = ROWS - 1 - round(y.at(m.value)) // 4
            for shift in (-length // 2, 1, -length):
                yield row + away, round(x.at(figure.x(m))) // 2 + shift


def _plot(canvas: Canvas, unit: str, y: Axis, ascii_only: bool) -> Iterator[Text]:
    """The canvas with the values at its top, middle and bottom row."""
    vertical, marked_edge = "|+" if ascii_only else "│┤"
    for row in range(ROWS):
        marked = row in (0, ROWS // 2, ROWS - 1)
        value = y.value(4 * (ROWS - 1 - row) + 1.5)
        label = _ascii(_tick(value, unit), ascii_only) if marked else ""
        edge = marked_edge if marked else vertical
        yield Text.assemble((f"{label:>{LEFT - 2}} {edge}", MUTED), canvas.line(row))


def _tick(value: float, unit: str) -> str:
    """A value on the axis; without its unit, but with the prefix, where there is no room for it."""
    text = tick(value, unit)
    return text if len(text) <= LEFT - 2 else tick(value, "")


def _feet(figure: Figure, x: Axis, ascii_only: bool) -> Iterator[Text]:
    """The horizontal axis, marked where levels end; the levels; the ends of the axis."""
    corner, horizontal, end = "+-+" if ascii_only else "└─┴"
    width = COLUMNS - LEFT
    rule, names = [horizontal] * width, [" "] * width
    spans = figure.levels
    for one, other in itertools.pairwise(spans):
        rule[round(x.at(math.sqrt(one.last * other.first))) // 2] = end
    for span in spans:
        start = round((x.at(span.first) + x.at(span.last)) / 4 - len(span.name) / 2)
        start = min(max(0, start), width - len(span.name))
        names[start : start + len(span.name)] = span.name
    yield Text(" " * (LEFT - 1) + corner + "".join(rule), MUTED)
    if spans:
        yield Text(" " * LEFT + "".join(names).rstrip(), MUTED)
    first, last = figure.tick(x.low), figure.tick(x.high)
    middle = "" if figure.along.endswith("bytes") else figure.along.replace("_", " ")
    room = width - len(first) - len(last)
    yield Text(_ascii(" " * LEFT + first + f"{middle:^{room}}" + last, ascii_only), MUTED)


def _bars(group: Alone, ascii_only: bool) -> Panel:
    """A bar a measurement, from 0; the longest first comes as it was measured."""
    shown = group.measurements[:MOST_BARS]
    names = [printable(str(m.params.get("dtype") or m.name.removeprefix(m.suite).strip())) for m in shown]
    label = min(max(len(name) for name in names), 14)
    most = max(m.value for m in shown)
    room = COLUMNS - label - 14
    lines = [Text(_ascii(shorten(group.title, COLUMNS), ascii_only), "cyan")]
    for name, m in zip(names, shown, strict=True):
        bar = ("#" if ascii_only else "█") * max(1, round(room * m.value / most))
        value = format_value(m.value, m.unit)
        name = _ascii(shorten(name, label), ascii_only)
        lines.append(Text.assemble((f"{name:{label}} ", MUTED), (bar, "cyan"), f" {value}"))
    return lines


def _ascii(text: str, ascii_only: bool) -> str:
    return text.translate(ASCII).encode("ascii", "replace").decode() if ascii_only else text
