"""The roofline as an inline SVG picture: memory and compute roofs, operators as dots by their bound."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from probe.machine.device import Ceilings
from probe.report.text import printable, shorten
from probe.results.analysis import Operator
from probe.units import format_bytes_per_s, format_flops_per_s, format_si, format_time

WIDTH, HEIGHT = 1072, 400
LEFT, RIGHT, TOP, BOTTOM = 96, 190, 14, 44
DOTS = 40  # operators shown, those with most time to gain
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
class Roof:
    """A ceiling: bytes a second (sloped) or operations a second (flat). `met`: an operator can come up against it."""

    label: str
    rate: float
    sloped: bool
    met: bool


@dataclass(frozen=True)
class Plane:
    """Logarithmic axes: intensity in FLOP/byte against FLOP/s."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float

    def x(self, intensity: float) -> float:
        share = math.log(intensity / self.low_x) / math.log(self.high_x / self.low_x)
        return LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT)

    def y(self, rate: float) -> float:
        share = math.log(rate / self.low_y) / math.log(self.high_y / self.low_y)
        return HEIGHT - BOTTOM - min(max(share, 0.0), 1.0) * (HEIGHT - TOP - BOTTOM)


def draw(ceilings: Ceilings, ops: Sequence[Operator], colours: Mapping[str, str]) -> str:
    """The picture; empty where a roof is missing. Every dot has a title with the operator's figures."""
    bandwidth, peaks = ceilings.dram_bytes_per_s, ceilings.flops_per_s
    if not bandwidth or not peaks:
        return ""
    shown = placed(ops)[:DOTS]
    plane = plane_of(ceilings, shown)
    parts = [*_axes(plane), *_roofs(plane, ceilings), *(_dot(plane, op, colours) for op in reversed(shown))]
    label = "Roofline: rate against arithmetic intensity"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def placed(ops: Sequence[Operator]) -> list[Operator]:
    """The operators that have a place in the plane, in their order."""
    return [op for op in ops if op.intensity and op.achieved_flops_per_s]


def roofs(ceilings: Ceilings) -> list[Roof]:
    """The lines to draw: of memory by level, DRAM's first, then of arithmetic by type, the highest first."""
    memory = {"DRAM": ceilings.dram_bytes_per_s or 0.0}
    memory |= {n: lv.bytes_per_s for n, lv in ceilings.levels.items() if n != "DRAM" and lv.bytes_per_s}
    flat = sorted(ceilings.flops_per_s.items(), key=lambda item: -item[1])
    return [
        *(Roof(f"{name} {format_bytes_per_s(rate)}", rate, True, name == "DRAM") for name, rate in memory.items()),
        *(Roof(f"{name} {format_flops_per_s(rate)}", rate, False, True) for name, rate in flat),
    ]


def plane_of(ceilings: Ceilings, ops: Sequence[Operator]) -> Plane:
    """Axes that hold every roof's ridge and every dot."""
    bandwidth = ceilings.dram_bytes_per_s or 1.0
    rates = [op.achieved_flops_per_s or 1.0 for op in ops]
    intensities = [op.intensity or 1.0 for op in ops]
    top = max(ceilings.flops_per_s.values())
    ridge = top / bandwidth
    low_x, high_x = min([0.05, *intensities]) / 1.5, max([ridge * 8, *intensities]) * 1.5
    low_y = min([bandwidth * low_x, *rates]) / 1.5
    return Plane(max(low_x, 1e-3), high_x, max(low_y, top / 1e7), top * 2)


def _axes(plane: Plane) -> Iterator[str]:
    """Grid lines and ticks at powers of ten."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for power in _powers(plane.low_x, plane.high_x):
        x = plane.x(power)
        yield f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="{SOFT}" stroke-opacity=".2"/>'
        yield _label(x, bottom + 18, f"{power:g}", "middle")
    for power in _powers(plane.low_y, plane.high_y):
        y = plane.y(power)
        yield f'<path d="M{LEFT} {y:.1f}H{right}" stroke="{SOFT}" stroke-opacity=".2"/>'
        yield _label(LEFT - 8, y + 4, format_si(power, "FLOP/s", 1), "end")
    yield _label((LEFT + right) / 2, HEIGHT - 6, "arithmetic intensity, FLOP/byte", "middle")


def _powers(low: float, high: float) -> Iterator[float]:
    for exponent in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1):
        yield 10.0**exponent


def _label(x: float, y: float, text: str, anchor: str, colour: str = SOFT) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>'


def _roofs(plane: Plane, ceilings: Ceilings) -> Iterator[str]:
    """Each memory roof up to the highest compute roof, each compute roof from its ridge point on."""
    lines = roofs(ceilings)
    top = max(ceilings.flops_per_s.values())
    for roof in lines:
        if roof.sloped:
            yield from _slope(plane, roof, top)
    yield from _flat_roofs(plane, [roof for roof in lines if not roof.sloped], ceilings.dram_bytes_per_s or 1.0)


def _slope(plane: Plane, roof: Roof, top: float) -> Iterator[str]:
    begin = max(plane.low_x, plane.low_y / roof.rate)
    start, end = (plane.x(begin), plane.y(begin * roof.rate)), (plane.x(top / roof.rate), plane.y(top))
    style = 'stroke-width="2.5"' if roof.met else 'stroke-width="1.2" stroke-dasharray="5 4"'
    yield f'<path d="M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}" stroke="{INK}" fill="none" {style}/>'
    middle = math.sqrt(begin * top / roof.rate)
    x, y = plane.x(middle), plane.y(middle * roof.rate)
    angle = -math.degrees(math.atan2(start[1] - end[1], end[0] - start[0]))
    yield (
        f'<text transform="translate({x:.1f} {y - 6:.1f}) rotate({angle:.1f})" font-size="12" fill="{INK}" '
        f'text-anchor="middle">{escape(printable(roof.label))}</text>'
    )


def _flat_roofs(plane: Plane, lines: Sequence[Roof], bandwidth: float) -> Iterator[str]:
    """Compute roofs, their labels to the right, moved apart where they would touch."""
    last = -math.inf
    for roof in lines:
        y = plane.y(roof.rate)
        ridge = roof.rate / bandwidth
        yield f'<path d="M{plane.x(ridge):.1f} {y:.1f}H{WIDTH - RIGHT}" stroke="{INK}" stroke-width="1.6"/>'
        last = max(y + 4, last + 15)
        yield _label(WIDTH - RIGHT + 8, last, printable(roof.label), "start", INK)


def _dot(plane: Plane, op: Operator, colours: Mapping[str, str]) -> str:
    """One operator, its shape and colour by what bounds it; its size grows with its share of the step."""
    radius = 4 + 6 * math.sqrt(min(max(op.share_fraction, 0.0), 1.0))
    name, shapes = shorten(printable(op.name), LONGEST_NAME), shorten(printable(op.shapes or ""), LONGEST_NAME)
    title = escape(f"#{op.index} {name} {shapes}: {op.bound}, {format_time(op.recoverable_s)} to gain")
    x, y = plane.x(op.intensity or 1.0), plane.y(op.achieved_flops_per_s or 1.0)
    return (
        f'<path d="{OUTLINES.get(op.bound, CIRCLE)}" transform="translate({x:.1f} {y:.1f}) scale({radius:.1f})" '
        f'fill="{colours[op.bound]}" fill-opacity=".85" stroke="{INK}" stroke-opacity=".5" stroke-width=".1">'
        f"<title>{title}</title></path>"
        + (_label(x, y - radius - 3, str(op.index), "middle", INK) if op.index < 10 else "")
    )
