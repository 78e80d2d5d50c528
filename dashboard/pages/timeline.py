"""What happened when? Every rank, thread and stream on one canvas, down to the single event."""

from __future__ import annotations

from collections.abc import Iterator

from dash import html
from dash.development.base_component import Component

from probe.dashboard.pages.operators import op_card
from probe.dashboard.pieces import attributes, card, empty, mark, text
from probe.dashboard.view import View
from probe.report.palette import CLASSES
from probe.results.analysis import Analysis

KEYS = (
    ("W S", "or wheel: zoom"),
    ("A D", "or drag: pan"),
    ("F", "show all"),
    ("N P", "next, previous found"),
    ("Shift+drag", "measure"),
)


def render(view: View) -> Component:
    """The frame that assets/timeline.js draws into: it asks for tiles of what is in view."""
    assert view.entry is not None
    if view.analysis.source.kind == "snapshot":
        return empty("No timeline", "A snapshot of the allocator holds no events in time.", "probe.profile()")
    # React must not take what the script draws for its own: this element has no children of React's.
    canvas = html.Div(
        id="timeline",
        className="timeline",
        tabIndex="0",
        role="application",
        **attributes({"data-run": view.entry.id, "aria-label": "Timeline: W A S D to move, F to show all"}),
    )
    tools = html.Div(
        [
            html.Div(id="timeline-tools", className="tools"),
            html.Button(
                "Open in Perfetto",
                id="perfetto",
                type="button",
                className="button",
                **attributes(
                    {
                        "data-run": view.entry.id,
                        "title": "Opens ui.perfetto.dev in a new tab and hands it the trace within this browser",
                    }
                ),
            ),
            html.A("Download", href=f"/api/trace/{view.entry.id}", className="button", download=""),
        ],
        className="tools",
    )
    main = card("Timeline", canvas, _keys(), *_missing(view.analysis), extra=tools, style="fills")
    side = html.Div([op_card(), _measure()], className="side")
    return html.Div(html.Div([main, side], className="split wide"), className="page fixed")


def _keys() -> Component:
    legend = [html.Span([mark(name), name]) for name in CLASSES if name != "idle"]
    keys = [html.Span([html.Kbd(key), f" {what}"]) for key, what in KEYS]
    return html.Div([html.Div(legend, className="legend keys"), html.Div(keys, className="legend keys")])


def _missing(analysis: Analysis) -> Iterator[Component]:
    """What would stand here had it been recorded, each with the option that records it."""
    if analysis.not_recorded:
        yield html.P(f"Not recorded: {text(' · '.join(analysis.not_recorded))}", className="soft note")


def _measure() -> Component:
    hint = html.P("Hold Shift and drag over the timeline: what runs in that stretch is listed here.", className="soft")
    return html.Section([html.Header([html.H2("Stretch")]), html.Div(hint, id="timeline-stretch")], className="card")
