"""The roofline: what the hardware can do as lines, operators as marks under them, larger the more there is to gain."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import plotly.graph_objects as go

from probe.dashboard.figures.axes import INK, layout, logarithmic, said, si
from probe.machine import datasheets
from probe.report.palette import BOUNDS, LOOKS
from probe.report.roofline.plane import Plane, Roof, close_together, placed, plane, roofs, roofs_met
from probe.results.analysis import Analysis, Operator
from probe.units import format_bytes_per_s, format_flops_per_s, format_fraction, format_time

MOST_MARKS = 400  # drawn one by one; the others are thinned to one small mark a cell
CELLS_A_DECADE = 12
SMALLEST, LARGEST = 6.0, 34.0
LABEL_SHARES = (0.45, 0.55, 0.5)  # where along its roof a label stands
LABEL_DECADES = 0.2  # between two roofs, below which they share a label
LEAST_SHARE = 1e-3  # of the step: smaller operators do not stretch the axes
SAME_HEIGHT = 1.02  # roofs closer than that share a label
LABEL_CHARACTER_PX, LEAST_RIGHT_PX, MOST_RIGHT_PX = 6.6, 90.0, 260.0  # a letter of 11 px; the margin on the right
LABEL_GAP = 0.034  # of the height, between two labels on the right
ASPECT = 1.9  # width by height of the plot for which the slope of labels is set; a page sets it to its own


Zoom: TypeAlias = tuple[float, float, float, float]


def roofs_of(analysis: Analysis) -> tuple[Roof, ...]:
    """The lines to draw for a run; none where its memory's or its arithmetic's ceiling is not known."""
    ceilings = analysis.ceilings
    if ceilings is None or not ceilings.dram_bytes_per_s or not ceilings.flops_per_s:
        return ()
    sheet = datasheets.find(analysis.source.device or "")
    return roofs(ceilings, roofs_met(analysis, ceilings), sheet.ceilings() if sheet else None)


def most_to_gain(ops: Iterable[Operator]) -> list[Operator]:
    """The operators that have a place in the plane, those with most to gain first."""
    return sorted(placed(ops), key=lambda op: -(op.recoverable_s or 0.0))


def telling(ops: Sequence[Operator]) -> Sequence[Operator]:
    """The operators that the axes hold; the others do not stretch them, and are a pan away."""
    return [op for op in ops if op.share_fraction >= LEAST_SHARE] or ops


def roofline(
    lines: Sequence[Roof], ops: Sequence[Operator], zoom: Zoom | None = None, aspect: float = ASPECT
) -> go.Figure:
    """The figure. `meta.slopes`: the annotations that lie along a memory roof, which a page turns to its own shape.

    `zoom`: the part of both axes that is shown, in powers of ten; `meta.whole` is all of them. `aspect`: width by
    height of the plot, where that is known.
    """
    shown = most_to_gain(ops)
    area = plane(lines, telling(shown))
    figure = go.Figure()
    for trace in (*lines_of(lines, area), *_shade(shown[MOST_MARKS:]), *_marks(shown[:MOST_MARKS])):
        figure.add_trace(trace)
    labels = roof_labels(lines, area, aspect)
    whole = tuple(math.log10(end) for end in (area.low_x, area.high_x, area.low_y, area.high_y))
    figure.update_layout(
        layout(
            annotations=labels,
            margin=margin(labels),
            meta={"slopes": [i for i, label in enumerate(labels) if label.get("textangle")], "whole": whole},
            xaxis=logarithmic("Arithmetic intensity, FLOP per byte of DRAM", area.low_x, area.high_x, si),
            yaxis=logarithmic("Achieved, FLOP/s", area.low_y, area.high_y, si),
            dragmode="pan",
        )
    )
    if zoom is not None:
        figure.update_xaxes(range=zoom[:2]).update_yaxes(range=zoom[2:])
    return figure


def lines_of(lines: Sequence[Roof], area: Plane) -> Iterator[go.Scatter]:
    """Each memory roof up to the highest flat one, each flat one from the fastest memory's slope on."""
    top = max((roof.rate for roof in lines if not roof.sloped), default=area.high_y)
    fastest = max((roof.rate for roof in lines if roof.sloped), default=0.0)
    for number, roof in enumerate(lines):
        if roof.sloped:
            begin = max(area.low_x, area.low_y / roof.rate)
            x, y = [begin, top / roof.rate], [begin * roof.rate, top]
        else:
            x, y = [max(area.low_x, roof.rate / fastest) if fastest else area.low_x, area.high_x], [roof.rate] * 2
        dash = None if roof.met else ("dash" if roof.published else "dot")
        yield go.Scatter(
            x=x, y=y, mode="lines", hoverinfo="skip", uid=f"roof{number}{'met' if roof.met else ''}", name=roof.name,
            line={"color": INK, "width": 2.2 if roof.met else 1.1, "dash": dash},
        )  # fmt: skip


def margin(labels: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Room for the labels on the right. With margins that plotly may widen it draws all marks twice to find them."""
    longest = max((len(label["text"]) for label in labels if not label.get("textangle")), default=0)
    right = min(max(longest * LABEL_CHARACTER_PX + 16.0, LEAST_RIGHT_PX), MOST_RIGHT_PX)
    return {"l": 72, "r": right, "t": 14, "b": 50, "autoexpand": False}


def roof_labels(lines: Sequence[Roof], area: Plane, aspect: float = ASPECT) -> list[dict[str, Any]]:
    """The names and rates of the roofs, as annotations."""
    return [*_slope_labels(lines, area, aspect), *_flat_labels(lines, area)]


def _slope_labels(lines: Sequence[Roof], area: Plane, aspect: float) -> Iterator[dict[str, Any]]:
    """Along each memory roof; roofs that lie too close for two labels share one."""
    top = max((roof.rate for roof in lines if not roof.sloped), default=area.high_y)
    angle = -math.degrees(math.atan(_decades(area.low_x, area.high_x) / _decades(area.low_y, area.high_y) / aspect))
    for number, near in enumerate(close_together(lines, LABEL_DECADES)):
        fastest = near[0]
        begin = max(math.log10(area.low_x), math.log10(area.low_y / fastest.rate))
        x = begin + (math.log10(top / fastest.rate) - begin) * LABEL_SHARES[number % len(LABEL_SHARES)]
        yield {
            "x": x, "y": x + math.log10(fastest.rate), "xref": "x", "yref": "y", "showarrow": False,
            "text": " · ".join(f"{said(roof.name)} {format_bytes_per_s(roof.rate)}" for roof in near),
            "textangle": angle, "font": {"size": 11}, "yshift": 9, "xshift": -6,
        }  # fmt: skip


def _flat_labels(lines: Sequence[Roof], area: Plane) -> Iterator[dict[str, Any]]:
    """Right of each flat roof, moved apart where they would touch; one for roofs of the same height."""
    by_rate: dict[float, list[str]] = {}
    for roof in sorted((roof for roof in lines if not roof.sloped), key=lambda roof: -roof.rate):
        same = next((rate for rate in by_rate if rate / roof.rate < SAME_HEIGHT), roof.rate)
        by_rate.setdefault(same, []).append(said(roof.name))
    height, last = _decades(area.low_y, area.high_y), math.inf
    for rate, names in by_rate.items():
        last = min(math.log10(rate / area.low_y) / height, last - LABEL_GAP)
        yield {
            "x": 1.006, "xref": "paper", "xanchor": "left", "y": last, "yref": "paper", "yanchor": "middle",
            "text": f"{', '.join(names)} {format_flops_per_s(rate)}", "showarrow": False, "font": {"size": 11},
        }  # fmt: skip


def _decades(low: float, high: float) -> float:
    return math.log10(high / low)


def _marks(ops: Sequence[Operator]) -> Iterator[go.Scatter]:
    """A trace a class, so that a class can be hidden; small marks are drawn over large ones."""
    most = max((op.recoverable_s or 0.0 for op in ops), default=0.0) or 1.0
    for bound in BOUNDS:
        of_class = [op for op in ops if op.bound == bound]
        if of_class:
            yield go.Scatter(
                x=[op.intensity for op in of_class], y=[op.achieved_flops_per_s for op in of_class], mode="markers",
                uid=f"class{bound}", name=bound, customdata=[op.index for op in of_class],
                text=[hover(op) for op in of_class], hovertemplate="%{text}<extra></extra>",
                marker={
                    "color": LOOKS[bound].light, "symbol": LOOKS[bound].symbol, "opacity": 0.9,
                    "size": [size(op, most) for op in of_class], "line": {"width": 0.8, "color": "#FFFFFF"},
                },
            )  # fmt: skip


def size(op: Operator, most: float) -> float:
    """The diameter of a mark in pixels: its area grows with what there is to gain."""
    return SMALLEST + (LARGEST - SMALLEST) * math.sqrt(max(op.recoverable_s or 0.0, 0.0) / most)


def _shade(ops: Sequence[Operator]) -> Iterator[go.Scatter]:
    """The others: at most one small mark a cell and class."""
    cells: dict[str, dict[tuple[int, int], Operator]] = defaultdict(dict)
    for op in ops:
        place = (
            round(math.log10(op.intensity or 1.0) * CELLS_A_DECADE),
            round(math.log10(op.achieved_flops_per_s or 1.0) * CELLS_A_DECADE),
        )
        cells[op.bound].setdefault(place, op)
    for bound, found in cells.items():
        kept = list(found.values())
        yield go.Scatter(
            x=[op.intensity for op in kept], y=[op.achieved_flops_per_s for op in kept], mode="markers",
            uid=f"shade{bound}", hoverinfo="skip", name=bound,
            marker={"color": LOOKS[bound].light, "symbol": LOOKS[bound].symbol, "size": 4, "opacity": 0.45},
        )  # fmt: skip


def hover(op: Operator) -> str:
    """What stands beside a mark: which operator, how far below its roof, what limits it."""
    limit = f" ({said(op.limiter)})" if op.limiter else ""
    roof = f", {format_fraction(op.roof_fraction, 0)} of its roof" if op.roof_fraction is not None else ""
    return (
        f"<b>{said(op.name, 60)}</b> {said(op.shapes or '', 60)}<br>{LOOKS[op.bound].mark} {op.bound}{limit}{roof}<br>"
        f"{format_flops_per_s(op.achieved_flops_per_s)} at {si(round(op.intensity or 0.0, 3))} FLOP/B<br>"
        f"{format_time(op.recoverable_s)} to gain, {format_fraction(op.share_fraction)} of the step"
    )
