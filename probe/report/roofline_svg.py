"""The roofline as an inline SVG picture: memory and compute roofs, operators as dots by their bound."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from probe.analysis import Operator
from probe.device import Ceilings
from probe.report.text import printable
from probe.units import format_bytes_per_s, format_flops_per_s, format_si, format_time

WIDTH, HEIGHT = 1072, 400
LEFT, RIGHT, TOP, BOTTOM = 96, 190, 14, 44
DOTS = 40  # operators shown, those with most time to gain
INK, SOFT = "currentColor", "#8a94a0"


@dataclass(frozen=True)
class _Plane:
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
    placed = [op for op in ops if op.intensity and op.achieved_flops_per_s][:DOTS]
    plane = _plane(ceilings, placed)
    parts = [*_axes(plane), *_roofs(plane, ceilings), *(_dot(plane, op, colours) for op in reversed(placed))]
    label = "Roofline: rate against arithmetic intensity"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _plane(ceilings: Ceilings, ops: Sequence[Operator]) -> _Plane:
    """Axes that hold every roof's ridge and every dot."""
    bandwidth = ceilings.dram_bytes_per_s or 1.0
    rates = [op.achieved_flops_per_s or 1.0 for op in ops]
    intensities = [op.intensity or 1.0 for op in ops]
    top = max(ceilings.flops_per_s.values())
    ridge = top / bandwidth
    low_x, high_x = min([0.05, *intensities]) / 1.5, max([ridge * 8, *intensities]) * 1.5
    low_y = min([bandwidth * low_x, *rates]) / 1.5
    return _Plane(max(low_x, 1e-3), high_x, max(low_y, top / 1e7), top * 2)


def _axes(plane: _Plane) -> Iterator[str]:
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


def _roofs(plane: _Plane, ceilings: Ceilings) -> Iterator[str]:
    """Each memory roof up to the highest compute roof, each compute roof from its ridge point on."""
    top = max(ceilings.flops_per_s.values())
    memory = {"DRAM": ceilings.dram_bytes_per_s or 0.0}
    memory |= {n: lv.bytes_per_s for n, lv in ceilings.levels.items() if n != "DRAM" and lv.bytes_per_s}
    for name, rate in memory.items():
        begin = max(plane.low_x, plane.low_y / rate)
        start, end = (plane.x(begin), plane.y(begin * rate)), (plane.x(top / rate), plane.y(top))
        style = 'stroke-width="2.5"' if name == "DRAM" else 'stroke-width="1.2" stroke-dasharray="5 4"'
        yield f'<path d="M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}" stroke="{INK}" fill="none" {style}/>'
        middle = math.sqrt(begin * top / rate)
        x, y = plane.x(middle), plane.y(middle * rate)
        angle = -math.degrees(math.atan2(start[1] - end[1], end[0] - start[0]))
        text = escape(f"{name} {format_bytes_per_s(rate)}")
        yield (
            f'<text transform="translate({x:.1f} {y - 6:.1f}) rotate({angle:.1f})" font-size="12" fill="{INK}" '
            f'text-anchor="middle">{text}</text>'
        )
    yield from _flat_roofs(plane, ceilings)


def _flat_roofs(plane: _Plane, ceilings: Ceilings) -> Iterator[str]:
    """Compute roofs, their labels to the right, moved apart where they would touch."""
    last = -math.inf
    for name, rate in sorted(ceilings.flops_per_s.items(), key=lambda item: -item[1]):
        y = plane.y(rate)
        ridge = rate / (ceilings.dram_bytes_per_s or 1.0)
        yield f'<path d="M{plane.x(ridge):.1f} {y:.1f}H{WIDTH - RIGHT}" stroke="{INK}" stroke-width="1.6"/>'
        last = max(y + 4, last + 15)
        yield _label(WIDTH - RIGHT + 8, last, f"{name} {format_flops_per_s(rate)}", "start", INK)


def _dot(plane: _Plane, op: Operator, colours: Mapping[str, str]) -> str:
    """One operator; its size grows with the time to gain."""
    radius = 4 + 6 * math.sqrt(min(max(op.share_fraction, 0.0), 1.0))
    title = escape(
        f"#{op.index} {printable(op.name)} {op.shapes or ''}: {op.bound}, {format_time(op.recoverable_s)} to gain"
    )
    x, y = plane.x(op.intensity or 1.0), plane.y(op.achieved_flops_per_s or 1.0)
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colours[op.bound]}" fill-opacity=".85" '
        f'stroke="{INK}" stroke-opacity=".5"><title>{title}</title></circle>'
        + (_label(x, y - radius - 3, str(op.index), "middle", INK) if op.index < 10 else "")
    )
