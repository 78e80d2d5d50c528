"""What can be looked at? Every run, trace and file of microbenchmarks that the dashboard was given."""

from __future__ import annotations

from dash import dcc, html
from dash.development.base_component import Component

from probe.dashboard.catalogue import Entry
from probe.dashboard.pieces import card, empty, text
from probe.dashboard.view import View

KINDS = {"run": "run", "trace": "trace", "job": "traces of a job", "microbench": "microbenchmarks"}


def render(view: View) -> Component:
    """The catalogue, the newest first; the page is read anew each time it is opened."""
    if not view.entries:
        why = "The directory that this dashboard was given holds no run yet. New ones appear as they are recorded."
        return empty("No runs", why, 'with probe.profile("runs/first") as prof:\n    ...')
    head = html.Tr([html.Th(title) for title in ("Name", "Kind", "Recorded", "")])
    rows = [_row(entry) for entry in view.entries]
    body = html.Table([html.Thead(head), html.Tbody(rows)], className="catalogue")
    return html.Div(card("Runs", body, note=f"{len(rows)} found"), className="page narrow")


def _row(entry: Entry) -> Component:
    page, name = ("microbench", "base") if entry.kind == "microbench" else ("overview", "run")
    link = dcc.Link(text(entry.name, 100), href=f"/{page}?{name}={entry.id}")
    compare = dcc.Link("compare", href=f"/compare?base={entry.id}", className="more") if entry.kind == "run" else None
    when = entry.created.replace("T", " ")[:16]
    return html.Tr(
        [html.Td(link), html.Td(KINDS[entry.kind], className="soft"), html.Td(when, className="soft"), html.Td(compare)]
    )
