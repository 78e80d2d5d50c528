"""Memory over time: what is in use by category, stacked, and what the allocator holds from the driver."""

from __future__ import annotations

import plotly.graph_objects as go

from probe.dashboard.figures.axes import INK, axis, layout, round_ticks
from probe.report.palette import SERIES_LIGHT
from probe.results.memory_use import CATEGORIES, Category, MemoryTimeline
from probe.units import format_bytes, format_time

COLOURS: dict[Category, int] = {
    "parameters": 0, "gradients": 1, "optimizer": 2, "activations": 7, "temporary": 8, "workspace": 4, "other": 6,
}  # fmt: skip


def category_series(category: Category) -> int:
    """The number of the colour of a category, of those of assets/probe.css."""
    return COLOURS[category]


def memory_curve(timeline: MemoryTimeline) -> go.Figure:
    """The figure: stacked fields by category, a line for what is allocated and one for what is reserved."""
    figure = go.Figure()
    for category in CATEGORIES:
        values = timeline.by_category.get(category)
        if values and any(values):
            colour = SERIES_LIGHT[category_series(category)]
            figure.add_trace(
                go.Scatter(
                    x=timeline.at_s, y=values, stackgroup="use", mode="lines", name=category,
                    uid=f"memory{category}", line={"width": 0.5, "color": colour, "shape": "hv"},
                    fillcolor=colour, text=[f"{category}: {format_bytes(value)}" for value in values],
                    hovertemplate="%{text}<extra></extra>",
                )
            )  # fmt: skip
    lines: list[tuple[str, tuple[int, ...], str | None]] = [("allocated", timeline.allocated_bytes, None)]
    if timeline.reserved_bytes is not None:
        lines.append(("reserved", timeline.reserved_bytes, "dot"))
    for name, values, dash in lines:
        figure.add_trace(
            go.Scatter(
                x=timeline.at_s, y=values, mode="lines", name=name, uid=f"line{name}",
                line={"color": INK, "width": 1.4, "dash": dash, "shape": "hv"},
                text=[f"{name}: {format_bytes(value)}" for value in values], hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
    figure.update_layout(_layout(timeline))
    return figure


def _layout(timeline: MemoryTimeline) -> dict[str, object]:
    most = max((*timeline.allocated_bytes, *(timeline.reserved_bytes or ())), default=1) or 1
    along = round_ticks(min(timeline.at_s, default=0.0), max(timeline.at_s, default=1.0))
    high = round_ticks(0.0, float(most), base=1024.0)
    return layout(
        hovermode="x unified",
        margin={"l": 84, "r": 20, "t": 10, "b": 46},
        xaxis=axis("Time of the recording", tickvals=along, ticktext=[format_time(x) for x in along]),
        yaxis=axis("", range=[0, most * 1.08], tickvals=high, ticktext=[format_bytes(value) for value in high]),
    )
