"""The roofline of two runs: from where an operator was to where it is, for those that changed most."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from probe.dashboard.figures.axes import layout, logarithmic, said, si
from probe.dashboard.figures.roofline import lines_of, margin, roof_labels, telling
from probe.report.palette import LOOKS
from probe.report.roofline.plane import Roof, placed, plane
from probe.results.analysis import Operator
from probe.units import format_flops_per_s

MOST_ARROWS = 40
LEAST_MOVE = 0.02  # in decades: a shorter arrow is a point


def matched(base: Sequence[Operator], new: Sequence[Operator]) -> list[tuple[Operator, Operator]]:
    """The operators with a place on both sides, by name and arguments, those that take most time first."""
    before = {(op.name, op.shapes, op.dtypes): op for op in placed(base)}
    pairs = [(before[key], op) for op in placed(new) if (key := (op.name, op.shapes, op.dtypes)) in before]
    return sorted(pairs, key=lambda pair: -max(one.share_fraction for one in pair))[:MOST_ARROWS]


def arrows(lines: Sequence[Roof], pairs: Sequence[tuple[Operator, Operator]]) -> go.Figure:
    """A hollow mark where it was, a full one where it is, a line between them."""
    area = plane(lines, telling([op for pair in pairs for op in pair]))
    figure = go.Figure(list(lines_of(lines, area)))
    moved = [pair for pair in pairs if _distance(*pair) > LEAST_MOVE]
    x = [value for old, now in moved for value in (old.intensity, now.intensity, None)]
    y = [value for old, now in moved for value in (old.achieved_flops_per_s, now.achieved_flops_per_s, None)]
    figure.add_trace(
        go.Scatter(x=x, y=y, mode="lines", uid="moved", hoverinfo="skip", line={"color": "#8C98AF", "width": 1.4})
    )
    figure.add_trace(_ends([old for old, _ in moved], "before", "circle-open", pairs=moved))
    for bound in dict.fromkeys(now.bound for _, now in pairs):
        of_class = [pair for pair in pairs if pair[1].bound == bound]
        figure.add_trace(_ends([now for _, now in of_class], bound, LOOKS[bound].symbol, pairs=of_class))
    figure.update_layout(
        layout(
            annotations=(labels := roof_labels(lines, area)),
            meta={"slopes": [i for i, label in enumerate(labels) if label.get("textangle")]},
            margin=margin(labels),
            xaxis=logarithmic("Arithmetic intensity, FLOP per byte of DRAM", area.low_x, area.high_x, si),
            yaxis=logarithmic("Achieved, FLOP/s", area.low_y, area.high_y, si),
            dragmode="pan",
        )
    )
    return figure


def _distance(old: Operator, now: Operator) -> float:
    ratios = (
        (now.intensity or 1.0) / (old.intensity or 1.0),
        (now.achieved_flops_per_s or 1.0) / (old.achieved_flops_per_s or 1.0),
    )
    return math.hypot(*(math.log10(ratio) for ratio in ratios))


def _ends(ops: Sequence[Operator], name: str, symbol: str, pairs: Sequence[tuple[Operator, Operator]]) -> go.Scatter:
    colour = LOOKS[name].light if name in LOOKS else "#8C98AF"
    return go.Scatter(
        x=[op.intensity for op in ops], y=[op.achieved_flops_per_s for op in ops], mode="markers",
        uid=f"class{name}" if name in LOOKS else "movedfrom", hovertemplate="%{text}<extra></extra>",
        text=[
            f"<b>{said(now.name, 60)}</b> {said(now.shapes or '', 60)}<br>"
            f"{format_flops_per_s(old.achieved_flops_per_s)}"
            f" → {format_flops_per_s(now.achieved_flops_per_s)}"
            for old, now in pairs
        ],
        marker={"symbol": symbol, "size": 7 if name not in LOOKS else 10, "color": colour},
    )  # fmt: skip
