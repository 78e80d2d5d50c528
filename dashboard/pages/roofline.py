"""How far is each operator from what the hardware can do, and which ceiling is it under?"""

from __future__ import annotations

from collections.abc import Collection

from dash import html
from dash.development.base_component import Component

from probe.dashboard.figures.roofline import MOST_MARKS, most_to_gain, roofline, roofs_of
from probe.dashboard.pages.operators import op_card
from probe.dashboard.pieces import attributes, card, empty, graph, mark, operator_link, pill, text
from probe.dashboard.view import View
from probe.report.palette import BOUNDS
from probe.results.analysis import Analysis
from probe.units import format_fraction, format_time

LISTED = 10


def render(view: View) -> Component:
    """The figure with its evidence card, and the operators that have most to gain under their roofs."""
    analysis = view.analysis
    lines = roofs_of(analysis)
    if not lines:
        why = f"No ceilings are known for {text(analysis.source.device or 'this device', 80)}."
        return empty("No roofs to draw", why, "probe run microbench          # on the machine of the run")
    shown = most_to_gain(analysis.ops)
    if not shown:
        why = "No operator of this trace has both a known cost and a time: shapes were not recorded."
        return empty(
            "No operator has a place", why, "record_shapes=True            # probe.profile() does so by itself"
        )
    label = f"Roofline: {len(shown)} operators under the ceilings of {text(_device(analysis), 80)}"
    figure = graph(roofline(lines, shown, view.query.zoom), "roofline", "calc(100vh - 330px)", label)
    hidden = view.query.hide
    style = " ".join(("tall", *(f"hide-{bound}" for bound in BOUNDS if bound in hidden)))
    drawing = card("Roofline", figure, note=_note(analysis, len(shown)), extra=_isolate(analysis, hidden), style=style)
    return html.Div([html.Div([drawing, op_card()], className="split"), _nearest(analysis)], className="page")


def _device(analysis: Analysis) -> str:
    return (analysis.ceilings.device if analysis.ceilings else analysis.source.device) or "this device"


def _note(analysis: Analysis, shown: int) -> str:
    most = f"the {MOST_MARKS} with most to gain, the rest small" if shown > MOST_MARKS else f"{shown} operators"
    origin = analysis.ceilings.origin if analysis.ceilings else "unknown"
    return f"{most} · ceilings {origin} · area by time to gain · solid roofs are met by an operator"


def _isolate(analysis: Analysis, hidden: Collection[str]) -> Component:
    """A button a class: pressed, its marks are shown."""
    there = [bound for bound in BOUNDS if any(op.bound == bound and op.intensity for op in analysis.ops)]
    buttons = [
        html.Button(
            [mark(bound), bound],
            type="button",
            className="toggle",
            **attributes({"data-class": bound, "aria-pressed": str(bound not in hidden).lower()}),
        )
        for bound in there
    ]
    return html.Div(buttons, className="toggles", role="group", **attributes({"aria-label": "Shown classes"}))


def _nearest(analysis: Analysis) -> Component:
    """The same operators as a list, for those who use no mouse."""
    rows = [
        html.Tr(
            [
                html.Td(operator_link(op.index, op.name.removeprefix("aten::"))),
                html.Td(text(op.shapes or "", 60), className="mono soft"),
                html.Td(pill(op.bound, op.limiter)),
                html.Td(format_fraction(op.roof_fraction, 0), className="n"),
                html.Td(format_time(op.recoverable_s), className="n"),
                html.Td(text("; ".join(op.evidence), 160), className="soft"),
            ],
            **attributes({"data-op": str(op.index)}),
        )
        for op in most_to_gain(analysis.ops)[:LISTED]
    ]
    titles = (("Operator", ""), ("Shapes", ""), ("Bound", ""), ("Of roof", "n"), ("To gain", "n"), ("Evidence", ""))
    head = html.Tr([html.Th(title, className=css) for title, css in titles])
    body = html.Div(html.Table([html.Thead(head), html.Tbody(rows)], className="nearest"), className="scroll")
    return card("Under the roofs, most to gain first", body)
