"""The roofline as an inline SVG picture: memory and compute roofs, operators as dots by their bound."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from probe.machine.device import Ceilings
from probe.report.roofline.plane import Plane, Roof, close_together, placed, plane, roofs
from probe.report.text import printable, shorten
from probe.results.analysis import Operator
from probe.units import format_si, format_time

WIDTH, HEIGHT = 1072, 400
LEFT, RIGHT, TOP, BOTTOM = 96, 190, 14, 44
DOTS = 40  # operators shown, those with most time to gain
NUMBERED = 10  # of them with their number beside them
LABEL_HEIGHT = NEAR = 16
LONGEST_NAME = 200
CIRCLE = "M-1 0A1 1 0 1 0 1 0A1 1 0 1 0 -1 0Z"
# By what bounds an operator, the same as in assets/report.js; a circle for the others.
OUTLINES = {
    "memory": "M-.9 -.9H.9V.9H-.9Z",
    "latency": "M0 -1.1L1.05 .8H-1.05Z",
    "overhead": "M0 1.1L1.05 -.8H-1.05Z",
    "communication": "M0 -1.2L1.2 0L0 1.2L-1.2 0Z",
    "host": "M-.4 -1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",
}
INK, SOFT = "currentColor", "#8a94a0"


@dataclass(frozen=True)
class Picture:
    """Where things stand in the picture; what lies outside the plane stands at its edge."""

    plane: Plane

    def x(self, intensity: float) -> float:
        share = math.log(intensity / self.plane.low_x) / math.log(self.plane.high_x / self.plane.low_x)
        return LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT)

    def y(self, rate: float) -> float:
        share = math.log(rate / self.plane.low_y) / math.log(self.plane.high_y / self.plane.low_y)
        return HEIGHT - BOTTOM - min(max(share, 0.0), 1.0) * (HEIGHT - TOP - BOTTOM)


def draw(ceilings: Ceilings, ops: Sequence[Operator], colours: Mapping[str, str]) -> str:
    """The picture; empty where a roof is missing. Every dot has a title with the operator's figures."""
    if not ceilings.dram_bytes_per_s or not ceilings.flops_per_s:
        return ""
    lines, shown = roofs(ceilings), placed(ops)[:DOTS]
    picture = Picture(plane(lines, shown))
    parts = [*_axes(picture), *_roofs(picture, lines), *_dots(picture, shown, colours)]
    label = "Roofline: rate against arithmetic intensity"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _axes(picture: Picture) -> Iterator[str]:
    """Grid lines and ticks at powers of ten."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for power in _powers(picture.plane.low_x, picture.plane.high_x):
        x = picture.x(power)
        yield f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="{SOFT}" stroke-opacity=".2"/>'
        yield _label(x, bottom + 18, f"{power:g}", "middle")
    for power in _powers(picture.plane.low_y, picture.plane.high_y):
        y = picture.y(power)
        yield f'<path d="M{LEFT} {y:.1f}H{right}" stroke="{SOFT}" stroke-opacity=".2"/>'
        yield _label(LEFT - 8, y + 4, format_si(power, "FLOP/s", 1), "end")
    yield _label((LEFT + right) / 2, HEIGHT - 6, "arithmetic intensity, FLOP/byte", "middle")


def _powers(low: float, high: float) -> Iterator[float]:
    for exponent in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1):
        yield 10.0**exponent


def _label(x: float, y: float, text: str, anchor: str, colour: str = SOFT) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>'


def _roofs(picture: Picture, lines: Sequence[Roof]) -> Iterator[str]:
    """Each memory roof up to the highest compute roof, each compute roof from the fastest memory's slope on."""
    flat = [roof for roof in lines if not roof.sloped]
    decades = LABEL_HEIGHT / (HEIGHT - TOP - BOTTOM) * math.log10(picture.plane.high_y / picture.plane.low_y)
    for near in close_together(lines, decades):
        for roof in near:
            yield _slope(picture, roof, flat[0].rate)
        yield _slope_label(picture, near, flat[0].rate)
    yield from _flat_roofs(picture, flat, max(roof.rate for roof in lines if roof.sloped))


def _slope(picture: Picture, roof: Roof, top: float) -> str:
    (x, y), (end_x, end_y) = _ends(picture, roof, top)
    style = 'stroke-width="2.5"' if roof.met else 'stroke-width="1.2" stroke-dasharray="5 4"'
    return f'<path d="M{x:.1f} {y:.1f}L{end_x:.1f} {end_y:.1f}" stroke="{INK}" fill="none" {style}/>'


def _slope_label(picture: Picture, near: Sequence[Roof], top: float) -> str:
    """Along the fastest of roofs that share a label."""
    (x, y), (end_x, end_y) = _ends(picture, near[0], top)
    angle = -math.degrees(math.atan2(y - end_y, end_x - x))
    said = " · ".join(printable(roof.label) for roof in near)
    return (
        f'<text transform="translate({(x + end_x) / 2:.1f} {(y + end_y) / 2 - 6:.1f}) rotate({angle:.1f})" '
        f'font-size="12" fill="{INK}" text-anchor="middle">{escape(said)}</text>'
    )


def _ends(picture: Picture, roof: Roof, top: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where a memory roof begins in the picture, and where it reaches the highest compute roof."""
    begin, end = max(picture.plane.low_x, picture.plane.low_y / roof.rate), top / roof.rate
    return (picture.x(begin), picture.y(begin * roof.rate)), (picture.x(end), picture.y(top))


def _flat_roofs(picture: Picture, lines: Sequence[Roof], fastest: float) -> Iterator[str]:
    """Compute roofs, their labels to the right, moved apart where they would touch."""
    last = -math.inf
    for roof in lines:
        y = picture.y(roof.rate)
        ridge = roof.rate / fastest
        yield f'<path d="M{picture.x(ridge):.1f} {y:.1f}H{WIDTH - RIGHT}" stroke="{INK}" stroke-width="1.6"/>'
        last = max(y + 4, last + 15)
        yield _label(WIDTH - RIGHT + 8, last, printable(roof.label), "start", INK)


def _dots(picture: Picture, ops: Sequence[Operator], colours: Mapping[str, str]) -> Iterator[str]:
    """The operators, those with most to gain over the others, and the numbers of the first; near ones share a label."""
    for op in reversed(ops):
        yield _dot(picture, op, colours)
    labels: list[tuple[float, float, list[str]]] = []
    for op in (op for op in ops if op.index < NUMBERED):
        x, y, radius = _place(picture, op)
        near = next((names for at, height, names in labels if max(abs(at - x - radius), abs(height - y)) < NEAR), None)
        if near is None:
            labels.append((x + radius, y, [str(op.index)]))
        else:
            near.append(str(op.index))
    for x, y, names in labels:
        yield _label(x + 4, y + 4, ", ".join(names), "start", INK)


def _place(picture: Picture, op: Operator) -> tuple[float, float, float]:
    """Where the dot of an operator stands, and its radius, which grows with its share of the step."""
    radius = 4 + 6 * math.sqrt(min(max(op.share_fraction, 0.0), 1.0))
    return picture.x(op.intensity or 1.0), picture.y(op.achieved_flops_per_s or 1.0), radius


def _dot(picture: Picture, op: Operator, colours: Mapping[str, str]) -> str:
    """One operator, its shape and colour by what bounds it."""
    name, shapes = shorten(printable(op.name), LONGEST_NAME), shorten(printable(op.shapes or ""), LONGEST_NAME)
    title = escape(f"#{op.index} {name} {shapes}: {op.bound}, {format_time(op.recoverable_s)} to gain")
    x, y, radius = _place(picture, op)
    return (
        f'<path d="{OUTLINES.get(op.bound, CIRCLE)}" transform="translate({x:.1f} {y:.1f}) scale({radius:.1f})" '
        f'fill="{colours[op.bound]}" fill-opacity=".85" stroke="{INK}" stroke-opacity=".5" stroke-width=".1">'
        f"<title>{title}</title></path>"
    )
