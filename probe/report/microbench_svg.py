"""The curves and bars of the microbenchmarks as inline SVG pictures; colours by CSS class, which follow the page.

A figure has logarithmic axes (a linear one where all values lie close together), the levels of the memory hierarchy as
fields, published ranges as bands, a dot a measurement with its figures as title, hollow where it was disturbed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from probe.report.curves import Alone, Figure, Series, published, tick
from probe.report.text import printable, shorten
from probe.results.measurement import Measurement
from probe.units import format_value

WIDTH, HEIGHT = 528, 300
LEFT, RIGHT, TOP, BOTTOM = 74, 22, 24, 40
COLOURS = 9  # classes s0 to s8 of the page
BAR_HEIGHT, BAR_RIGHT = 24, 96
LETTER, MOST_LETTERS = 6.6, 34  # the width of a letter of a bar's name, about, and how many there is room for
LINEAR_BELOW = 4.0  # times the least value: closer together, a logarithmic axis would show noise
STYLE = """
.probe svg text{font:12px system-ui,sans-serif;fill:var(--soft)} .probe svg .grid{stroke:var(--line);fill:none}
.probe svg .level{fill:var(--soft);fill-opacity:.07} .probe svg .published{fill:var(--band);fill-opacity:.28}
.probe svg .line{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round}
.probe svg .median{fill:none;stroke:var(--c);stroke-width:1.2;stroke-dasharray:3 3;stroke-opacity:.8}
.probe svg .range{fill:var(--c);fill-opacity:.14;stroke:none} .probe svg .whisker{stroke:var(--c);stroke-opacity:.45}
.probe svg .dot{fill:var(--c);stroke:var(--c);stroke-width:1.5} .probe svg .hollow{fill:var(--paper)}
.probe svg .false{stroke:#e5484d;stroke-width:2;fill:none} .probe svg .hit{fill:transparent}
.probe svg .length{fill:var(--c)} .probe svg .value{fill:var(--ink)} .probe svg g:hover>.dot{stroke-width:5}
.probe .s0{--c:var(--s0)}.probe .s1{--c:var(--s1)}.probe .s2{--c:var(--s2)}
.probe .s3{--c:var(--s3)}.probe .s4{--c:var(--s4)}.probe .s5{--c:var(--s5)}
.probe .s6{--c:var(--s6)}.probe .s7{--c:var(--s7)}.probe .s8{--c:var(--s8)}
.probe{--s0:#0072b2;--s1:#d55e00;--s2:#009e73;--s3:#b5548f;--s4:#b8860b;--s5:#3a9bd6;
--s6:#6b7280;--s7:#8a5a44;--s8:#6a51a3;--band:#d9a400}
@media (prefers-color-scheme:dark){.probe{--s0:#56b4e9;--s1:#ff9457;--s2:#34c79b;--s3:#e39bc4;--s4:#f0c24b;--s5:#a3d5f7;
--s6:#aab2bd;--s7:#c89a7c;--s8:#a894e0;--band:#e0b840}}
"""


@dataclass(frozen=True)
class _Scale:
    """From values to places: `low` at `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = True

    def at(self, value: float) -> float:
        if self.logarithmic:
            share = math.log(max(value, self.low / 10) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values: 1, 2, 5 and their decades, no more than eight."""
        if not self.logarithmic:
            step = _round_step(self.high / 5)
            return [step * i for i in range(math.floor(self.high / step) + 1)]
        for steps in ((1, 2, 5), (1, 3), (1,)):
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [s * 10.0**d for d in decades for s in steps if self.low <= s * 10.0**d <= self.high]
            if len(found) <= 8:
                return found
        return found[:: math.ceil(len(found) / 8)]


def figure(drawn: Figure) -> str:
    """The picture of one figure."""
    plane = _plane(drawn)
    parts = [*_levels(drawn, plane), *_axes(drawn, plane), *_bands(drawn, plane)]
    for i, series in enumerate(drawn.series):
        inner = "".join(_series(drawn, plane, series, alone=len(drawn.series) == 1))
        parts.append(f'<g class="s{i % COLOURS}">{inner}</g>')
    label = escape(f"{printable(drawn.title)} against {drawn.along.replace('_', ' ')}", quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def bars(group: Alone) -> str:
    """A bar a measurement, all from 0."""
    height = BAR_HEIGHT * len(group.measurements) + 4
    most = max((m.value for m in group.measurements if math.isfinite(m.value)), default=0.0) or 1.0
    names = [_short(m) for m in group.measurements]
    left = 12 + LETTER * max(map(len, names))
    rows = "".join(
        _bar(m, name, i, left, most) for i, (name, m) in enumerate(zip(names, group.measurements, strict=True))
    )
    label = escape(printable(group.title), quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{rows}</svg>'


def title(measurement: Measurement, place: str = "") -> str:
    """A measurement in words: name and place, best, median with its interval, count, verdict, flags."""
    m = measurement
    low, high = (format_value(value, m.unit) for value in m.interval)
    lines = [
        m.name if place in m.name else f"{m.name}, {place}",
        f"best {format_value(m.value, m.unit)}",
        f"median {format_value(m.median, m.unit)} ({low} to {high}), n = {m.n}",
    ]
    if m.verdict:
        lines.append(f"{m.verdict}{f': {m.because}' if m.because else ''}")
    if m.flags:
        lines.append(", ".join(m.flags))
    return escape("\n".join(printable(line) for line in lines))


@dataclass(frozen=True)
class _Plane:
    """The two scales of a figure."""

    x: _Scale
    y: _Scale


def _plane(drawn: Figure) -> _Plane:
    """Scales that hold every best, median and published value."""
    points = [m for series in drawn.series for m in series.points]
    xs = [drawn.x(m) for m in points]
    ys = [v for m in points for v in (m.value, m.median) if v > 0 and math.isfinite(v)] or [1.0]
    near = [end for m in points if m.reference for end in (m.reference.low, m.reference.high) if end > 0]
    ys += [end for end in near if min(ys) / 3 <= end <= max(ys) * 3]
    close = max(ys) < LINEAR_BELOW * min(ys)
    low, high = (0.0, max(ys) * 1.1) if close else (min(ys) / 1.3, max(ys) * 1.4)
    half_step = (max(xs) / min(xs)) ** (0.5 / max(1, len(set(xs)) - 1))
    return _Plane(
        _Scale(min(xs) / half_step, max(xs) * half_step, LEFT, WIDTH - RIGHT),
        _Scale(low, high, HEIGHT - BOTTOM, TOP, logarithmic=not close),
    )


def _axes(drawn: Figure, plane: _Plane) -> Iterator[str]:
    """Grid lines and ticks: round values up, powers of two along a size."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value in plane.y.ticks():
        y = plane.y.at(value)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>'
        yield _text(LEFT - 8, y + 4, tick(value, drawn.unit), "end")
    for value in _places(drawn, plane):
        x = plane.x.at(value)
        yield f'<path class="grid" d="M{x:.1f} {bottom}v5"/>' + _text(x, bottom + 18, drawn.tick(value), "middle")
    if not drawn.along.endswith("bytes"):
        yield _text(right, HEIGHT - 6, drawn.along.replace("_", " "), "end")


def _places(drawn: Figure, plane: _Plane) -> list[float]:
    """At most six of the places that were measured, evenly spaced."""
    every = sorted({drawn.x(m) for series in drawn.series for m in series.points})
    step = math.ceil(len(every) / 6)
    return every[::step]


def _levels(drawn: Figure, plane: _Plane) -> Iterator[str]:
    """A field for each level, every other one shaded, its name at the top."""
    spans = drawn.levels
    edges = [plane.x.low, *(math.sqrt(a.last * b.first) for a, b in itertools.pairwise(spans)), plane.x.high]
    for i, (span, (low, high)) in enumerate(zip(spans, itertools.pairwise(edges), strict=True) if spans else ()):
        left, right = plane.x.at(low), plane.x.at(high)
        if i % 2 == 0:
            box = f'x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{HEIGHT - BOTTOM - TOP}"'
            yield f'<rect class="level" {box}/>'
        yield _text((left + right) / 2, TOP - 8, span.name, "middle")


def _bands(drawn: Figure, plane: _Plane) -> Iterator[str]:
    """Published ranges, at least two pixels high, as wide as the points they belong to."""
    for series in drawn.series:
        for span, low, high in published(drawn, series):
            top, bottom = plane.y.at(high), plane.y.at(low)
            if bottom - top < 3:
                top, bottom = (top + bottom) / 2 - 1.5, (top + bottom) / 2 + 1.5
            left, right = plane.x.at(span.first) - 8, plane.x.at(span.last) + 8
            ends = " to ".join(dict.fromkeys(format_value(v, drawn.unit) for v in (low, high)))
            said = escape(printable(f"published: {ends}\n{span.name}"))
            box = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" rx="2"'
            yield f'<rect class="published" {box}><title>{said}</title></rect>'


def _series(drawn: Figure, plane: _Plane, series: Series, *, alone: bool) -> Iterator[str]:
    """The line of the bests; for the only series the medians too, with their intervals."""
    places = [(plane.x.at(drawn.x(m)), m) for m in series.points]
    if alone:
        upper = [f"{x:.1f} {plane.y.at(m.interval[1]):.1f}" for x, m in places]
        lower = [f"{x:.1f} {plane.y.at(m.interval[0]):.1f}" for x, m in reversed(places)]
        yield f'<path class="range" d="M{"L".join([*upper, *lower])}Z"/>'
        yield _path("median", [(x, plane.y.at(m.median)) for x, m in places])
    else:
        for x, m in places:
            yield f'<path class="whisker" d="M{x:.1f} {plane.y.at(m.value):.1f}V{plane.y.at(m.median):.1f}"/>'
    yield _path("line", [(x, plane.y.at(m.value)) for x, m in places if "implausible" not in m.flags])
    for x, m in places:
        yield _dot(x, plane.y.at(m.value), m, drawn.tick(drawn.x(m)))


def _path(kind: str, points: list[tuple[float, float]]) -> str:
    """A line from point to point; none without points."""
    if not points:
        return ""
    return f'<path class="{kind}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>'


def _dot(x: float, y: float, measurement: Measurement, place: str) -> str:
    """A dot with a title; hollow where it was contended, crossed out where it cannot be true."""
    hollow = " hollow" if "contended" in measurement.flags else ""
    cross = f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10"
    crossed = f'<path class="false" d="{cross}"/>' if "implausible" in measurement.flags else ""
    at = f'cx="{x:.1f}" cy="{y:.1f}"'
    circles = f'<circle class="dot{hollow}" {at} r="2.6"/>{crossed}<circle class="hit" {at} r="9"/>'
    return f"<g>{circles}<title>{title(measurement, place)}</title></g>"


def _short(measurement: Measurement) -> str:
    """The name without the suite's, as long as there is room."""
    name = printable(measurement.name)
    return shorten(name.removeprefix(measurement.suite).strip() or name, MOST_LETTERS)


def _bar(measurement: Measurement, name: str, row: int, left: float, most: float) -> str:
    """Name, bar and value."""
    m, y = measurement, row * BAR_HEIGHT + 4
    share = max(0.0, m.value / most) if math.isfinite(m.value) else 0.0
    length = max(1.0, share * (WIDTH - left - BAR_RIGHT))
    box = f'x="{left:.1f}" y="{y}" width="{length:.1f}" height="{BAR_HEIGHT - 8}" rx="2"'
    middle = y + BAR_HEIGHT / 2
    return (
        f'<g class="s0">{_text(left - 8, middle, name, "end")}<rect class="length" {box}/>'
        f'<text class="value" x="{left + length + 6:.1f}" y="{middle:.1f}">'
        f"{escape(format_value(m.value, m.unit))}</text><title>{title(m)}</title></g>"
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _round_step(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.999)
