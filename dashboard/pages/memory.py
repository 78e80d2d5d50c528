"""How much memory, when, held by what, and what would lower the peak?"""

from __future__ import annotations

from collections.abc import Iterator

from dash import html
from dash.development.base_component import Component

from probe.dashboard.figures.memory import category_series, memory_curve
from probe.dashboard.pieces import card, empty, graph, kpi, table, text
from probe.dashboard.view import View
from probe.report.memory import forecast_columns, holder_columns, parts, sentence
from probe.results.memory_use import CATEGORIES, Memory
from probe.units import format_bytes, format_fraction

MOST_ROWS = 20


def render(view: View) -> Component:
    """The peak, the curve, who held it, and a forecast."""
    memory = view.analysis.memory
    if memory is None or (memory.timeline is None and memory.peak_bytes is None):
        why = "Allocations were not recorded in this run."
        return empty(
            "No memory here", why, "probe.profile(memory=True)        # or torch.profiler(profile_memory=True)"
        )
    return html.Div([html.P(text(sentence(memory)), className="verdict second"), *_sections(memory)], className="page")


def _sections(memory: Memory) -> Iterator[Component]:
    yield html.Div(list(_kpis(memory)), className="kpis")
    if memory.timeline is not None:
        figure = graph(memory_curve(memory.timeline), "memory", "330px", "Memory in use over time, by category")
        yield card("Over time", figure, note="of each stretch the instant of most use", extra=_legend(memory))
    if memory.holders:
        yield card("Alive at the peak", table(holder_columns(memory, MOST_ROWS)), note=memory.peak_at or "")
    if memory.forecast:
        yield card("What would lower it", table(forecast_columns(memory, MOST_ROWS)), note="computed, not measured")
    if memory.notes:
        yield html.Ul([html.Li(text(note, 600)) for note in memory.notes], className="notes soft")


def _kpis(memory: Memory) -> Iterator[Component]:
    of = f"of {format_bytes(memory.capacity_bytes)}" if memory.capacity_bytes else ""
    yield kpi("Peak", format_bytes(memory.peak_bytes), of, text(memory.peak_at or "", 60))
    if memory.reserved_peak_bytes:
        yield kpi("Reserved", format_bytes(memory.reserved_peak_bytes), "", "held from the driver")
    if memory.growth_bytes_per_step:
        yield kpi("Growth", format_bytes(memory.growth_bytes_per_step), "a step", "stays behind after every step")
    for name, size, share in parts(memory)[:3]:
        yield kpi(name.capitalize(), format_bytes(size), format_fraction(share, 0), "of the peak")


def _legend(memory: Memory) -> Component:
    by_category = memory.timeline.by_category if memory.timeline else {}
    used = [name for name in CATEGORIES if any(by_category.get(name, ()))]
    return html.Div(
        [html.Span([html.I(className=f"swatch s{category_series(name)}"), name]) for name in used], className="legend"
    )
