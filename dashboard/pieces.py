"""The pieces that pages are made of: cards, tables, marks, the bar of parts, what stands where there is nothing.

Every name of a trace goes in as the text of a component: React shows it as text, whatever it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from probe.report.palette import LOOKS
from probe.report.ranks import Column
from probe.report.text import printable, shorten
from probe.results.analysis import PARTS
from probe.results.findings import Finding
from probe.units import format_bytes, format_fraction, format_time

LONGEST = 400
ASKED_AGAIN_MS = ((32.0, 3200), (16.0, 1600), (8.0, 800), (0.0, 400))  # from so many seconds on, how often
LEAST_FRACTION = 0.004  # smaller parts are not listed
# What a figure can be asked for; assets/figures.js saves it, as it looks: plotly's own button knows no style sheet.
CONFIG: Any = {
    "displaylogo": False,
    "responsive": True,
    "scrollZoom": True,
    "displayModeBar": "hover",
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "toImage"],
    "plotlyServerURL": "",
}

Child = Component | str | None


def attributes(named: dict[str, str]) -> dict[str, Any]:
    """data- and aria- attributes of a component, which Dash's types know no names of."""
    return dict(named)


def text(value: str, most: int = LONGEST) -> str:
    """A name of a trace: no control characters, not without end."""
    return shorten(printable(value), most)


def card(title: str, *children: Any, note: str = "", extra: Child = None, style: str = "", **more: Any) -> Component:
    """A titled field of a page."""
    head = [html.H2(title), html.Small(note) if note else None, html.Div(className="spring"), extra]
    inside = [html.Header([part for part in head if part is not None])] if title else []
    return html.Section([*inside, *children], className=f"card {style}".strip(), **more)


def kpi(label: str, value: str, unit: str = "", below: str = "") -> Component:
    """One figure of the strip: what, how much, with what spread."""
    number, _, suffix = value.partition(" ")
    return html.Div(
        [
            html.Small(label),
            html.Div([html.Strong(number), html.Span(f" {suffix}" if suffix else ""), html.Em(unit)]),
            html.Small(below, className="below"),
        ],
        className="card kpi",
    )


def mark(bound: str) -> Component:
    """The mark of a class in its colour; a word always stands beside it."""
    return html.Span(LOOKS[bound].mark, className=f"mark ink-{bound}", **attributes({"aria-hidden": "true"}))


def pill(bound: str, limiter: str | None = None) -> Component:
    """What bounds something, as mark and word."""
    words = f"{bound} · {text(limiter, 40)}" if limiter and limiter != bound else bound
    return html.Span([mark(bound), words], className="pill")


def parts_bar(time_s: Mapping[str, float | None], intervals: Mapping[str, Any] | None = None) -> Component:
    """Where the step goes: one bar, and every part with its time, share and range under it."""
    total = sum(time_s.get(part) or 0.0 for part in PARTS)
    if total <= 0:
        return html.P("No time was recorded.", className="soft")
    known = [(part, time_s.get(part) or 0.0) for part in PARTS if time_s.get(part)]
    bar = [
        html.Div(
            className=f"part fill-{part}",
            style={"flexGrow": f"{seconds / total:.5f}"},
            title=f"{part} {format_time(seconds)}, {format_fraction(seconds / total)}",
        )
        for part, seconds in known
    ]
    listed = sorted((p for p in known if p[1] / total >= LEAST_FRACTION), key=lambda p: -p[1])
    legend = [
        html.Span(
            [
                mark(part),
                html.Span(part),
                html.B(format_fraction(seconds / total)),
                html.Span(format_time(seconds) + _range((intervals or {}).get(part)), className="soft"),
            ]
        )
        for part, seconds in listed
    ]
    label = ", ".join(f"{part} {format_fraction(seconds / total)}" for part, seconds in listed)
    return html.Div(
        [
            html.Div(bar, className="bar", role="img", **attributes({"aria-label": label})),
            html.Div(legend, className="legend"),
        ]
    )


def _range(interval: Sequence[float] | None) -> str:
    return f" [{format_time(interval[0])}, {format_time(interval[1])}]" if interval else ""


def table(columns: Sequence[Column], late: Sequence[bool] | None = None) -> Component:
    """Columns of text; the rows of late ranks stand out."""
    css = ["n" if column.numeric else "" for column in columns]
    head = html.Tr([html.Th(column.title, className=c, scope="col") for column, c in zip(columns, css, strict=True)])
    body = [
        html.Tr(
            [html.Td(text(cell, 80), className=c, title=text(cell)) for cell, c in zip(cells, css, strict=True)],
            className="late" if late and late[place] else "",
        )
        for place, cells in enumerate(zip(*(column.cells for column in columns), strict=True))
    ]
    return html.Div(html.Table([html.Thead(head), html.Tbody(body)]), className="scroll", tabIndex="0")


def pairs(rows: Sequence[tuple[str, str]]) -> Component:
    """Labels with their values."""
    return html.Dl([part for label, value in rows for part in (html.Dt(label), html.Dd(text(value)))])


def graph(figure: Any, identity: str, height: str = "340px", label: str = "") -> Component:
    """A plotly figure; `label` says what it shows to those who cannot see it."""
    drawn = dcc.Graph(id=identity, figure=figure, config=CONFIG, style={"height": height}, responsive=True)
    picture = html.Div(drawn, role="img", **attributes({"aria-label": label}))
    saves = html.Div([_save(kind, label or identity) for kind in ("svg", "png")], className="saves")
    return html.Div([picture, saves], className="graph")


def _save(kind: str, what: str) -> Component:
    named = {"data-save": kind, "aria-label": f"Save as {kind.upper()}: {what}", "title": f"Save as {kind.upper()}"}
    return html.Button(kind.upper(), type="button", className="save", **attributes(named))


def operator_link(index: int, name: str) -> Component:
    """An operator that can be chosen: it is then marked in every view."""
    return html.Button(
        text(name, 60), className="op", type="button", title=text(name), **attributes({"data-op": str(index)})
    )


def finding_chips(ops: Sequence[int], names: Sequence[str], most: int = 6) -> Component:
    """The operators that a finding concerns."""
    chips: list[Child] = [operator_link(i, names[i]) for i in ops[:most] if i < len(names)]
    if len(ops) > most:
        chips.append(html.Span(f"{len(ops) - most} more", className="soft"))
    return html.Div(chips, className="chips")


def saving(finding: Finding) -> tuple[str, str]:
    """What a finding would save, at most: time and share of the step; memory where it saves none."""
    if finding.saving_s is not None:
        return format_time(finding.saving_s), f"{format_fraction(finding.saving_fraction, 0)} of the step"
    if finding.saving_bytes:
        return format_bytes(finding.saving_bytes), "of memory"
    return "", ""


def empty(title: str, why: str, remedy: str = "") -> Component:
    """What stands where there is nothing to show: why, and what would change that."""
    return html.Div(
        [html.Div("∅", className="glyph", **attributes({"aria-hidden": "true"})), html.H2(title), html.P(why)]
        + ([html.Pre(remedy)] if remedy else []),
        className="state",
    )


def failed(message: str) -> Component:
    """What stands where something could not be read."""
    return html.Div(
        [
            html.Div("!", className="glyph bad", **attributes({"aria-hidden": "true"})),
            html.H2("This could not be shown"),
            html.P(text(message, 1000)),
        ],
        className="state",
        role="alert",
    )


def waiting(progress: str, waited_s: float = 0.0) -> Component:
    """What stands while something is read; the page asks again by itself, less often the longer it has waited.

    An answer that comes after the next question is dropped: asked ever as fast, a slow machine would never show one.
    """
    often = next(ms for least_s, ms in ASKED_AGAIN_MS if waited_s >= least_s)
    return html.Div(
        [
            html.Div(className="spinner"),
            html.H2("Reading the run"),
            html.P(text(progress), id="progress"),
            dcc.Interval(id="again", interval=often),
        ],
        className="state",
        role="status",
    )
