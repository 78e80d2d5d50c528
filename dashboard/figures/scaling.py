"""What is left of a rank's throughput as ranks are added, and how fast are collectives against what was measured?"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from probe.dashboard.figures.axes import INK, axis, layout, logarithmic, said
from probe.report.curves import tick
from probe.report.palette import SERIES, SERIES_LIGHT
from probe.results.multirank import CollectiveRow
from probe.results.scaling import Scaling
from probe.units import format_bytes, format_bytes_per_s, format_fraction


def scaling_curve(scaling: Scaling) -> go.Figure:
    """Efficiency against the number of ranks, with its intervals."""
    points = scaling.points
    lows = [p.efficiency_interval_fraction or (p.efficiency_fraction, p.efficiency_fraction) for p in points]
    x = [p.world_size for p in points]
    figure = go.Figure(
        go.Scatter(
            x=x, y=[p.efficiency_fraction for p in points], mode="lines+markers", uid="series0n0",
            line={"color": SERIES_LIGHT[0], "width": 2}, marker={"size": 8},
            error_y={
                "type": "data", "symmetric": False, "thickness": 1.2,
                "array": [high - p.efficiency_fraction for p, (_, high) in zip(points, lows, strict=True)],
                "arrayminus": [p.efficiency_fraction - low for p, (low, _) in zip(points, lows, strict=True)],
            },
            text=[f"{p.world_size} ranks: {format_fraction(p.efficiency_fraction)}, n {p.n}" for p in points],
            hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    ticks = [0, 0.25, 0.5, 0.75, 1.0]
    figure.update_layout(
        layout(
            xaxis=axis("Ranks", type="log", tickvals=x, ticktext=[str(n) for n in x]),
            yaxis=axis("Efficiency", range=[0, 1.12], tickvals=ticks, ticktext=[format_fraction(t, 0) for t in ticks]),
        )
    )
    return figure


def collective_sizes(rows: Sequence[CollectiveRow], measured: float | None) -> go.Figure | None:
    """Bus bandwidth by message size, a colour a kind, and the best that was measured on this link; None without any."""
    told = [row for row in rows if row.message_bytes and row.busbw_bytes_per_s]
    if not told:
        return None
    figure = go.Figure()
    for number, kind in enumerate(dict.fromkeys(row.kind for row in told)):
        of_kind = sorted((row for row in told if row.kind == kind), key=lambda row: row.message_bytes or 0)
        figure.add_trace(
            go.Scatter(
                x=[row.message_bytes for row in of_kind], y=[row.busbw_bytes_per_s for row in of_kind],
                mode="lines+markers", name=said(kind), uid=f"series{number % SERIES}n{number}",
                line={"color": SERIES_LIGHT[number % SERIES], "width": 1.6}, marker={"size": 8},
                text=[
                    f"<b>{said(kind)}</b> {format_bytes(row.message_bytes)}, {row.group_size or '?'} ranks<br>"
                    f"{format_bytes_per_s(row.busbw_bytes_per_s)} busbw, n {row.n}"
                    for row in of_kind
                ],
                hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
    sizes = [float(row.message_bytes or 1) for row in told]
    rates = [row.busbw_bytes_per_s or 1.0 for row in told] + ([measured] if measured else [])
    if measured:
        figure.add_trace(
            go.Scatter(
                x=[min(sizes) / 2, max(sizes) * 2], y=[measured] * 2, mode="lines", uid="roof0met", name="measured",
                line={"color": INK, "dash": "dash", "width": 1.4}, hoverinfo="skip",
            )
        )  # fmt: skip
    figure.update_layout(
        layout(
            xaxis=logarithmic("Message size", min(sizes) / 2, max(sizes) * 2, format_bytes),
            yaxis=logarithmic("Bus bandwidth", min(rates) / 2, max(rates) * 2, lambda v: tick(v, "B/s")),
        )
    )
    return figure
