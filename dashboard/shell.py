"""What stands round every page: navigation, the run that is shown, export, the theme."""

from __future__ import annotations

from collections.abc import Sequence

import dash_mantine_components as dmc
from dash import dcc, html
from dash.development.base_component import Component

from probe.dashboard.catalogue import Entry
from probe.dashboard.loaded import Loaded
from probe.dashboard.pieces import attributes, text
from probe.dashboard.query import Query

GROUPS = (
    ("Analyse", ("overview", "roofline", "operators", "timeline", "memory")),
    ("Hardware", ("microbench", "environment")),
    ("Scale", ("ranks",)),
    ("Decide", ("suggestions", "compare")),
)
TITLES = {"microbench": "Microbenchmarks", "ranks": "Ranks & communication", "runs": "Runs"}
NAMES = {"microbench": "Microbench", "ranks": "Ranks & comm"}


def title(page: str) -> str:
    """What a page is called."""
    return TITLES.get(page, page.capitalize())


def frame() -> Component:
    """The whole document; the callbacks of app.py fill it."""
    top = html.Header(
        [
            html.H1(id="title"),
            dmc.Select(
                id="run-picker",
                data=[],
                searchable=True,
                allowDeselect=False,
                size="xs",
                w=300,
                placeholder="No run",
                **attributes({"aria-label": "Run"}),
            ),
            html.Span(id="chip", className="chip"),
            html.Div(className="spring"),
            html.A("Export", id="export", className="button", href="#", title="One file that opens without a network"),
            html.Button("◐ Theme", id="theme", className="button", type="button"),
        ],
        className="top",
    )
    inside = html.Div(
        [
            html.A("Skip to the page", href="#page", className="skip"),
            html.Nav(id="nav", className="nav", **attributes({"aria-label": "Pages"})),
            html.Main([top, html.Div(id="page")], className="main"),
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Store(id="selection"),
            dcc.Store(id="unused"),
            html.Div(id="run-id", hidden=True),
        ],
        className="shell",
    )
    whole: Component = dmc.MantineProvider(
        inside, defaultColorScheme="auto", theme={"primaryColor": "blue", "defaultRadius": "md"}
    )
    return whole


def navigation(page: str, query: Query, loaded: Loaded | None, icon: str) -> list[Component]:
    """The links of all pages to the run that is shown, with counts where they say something."""
    counts = {}
    if loaded is not None:
        counts = {"operators": len(loaded.analysis.ops), "suggestions": len(loaded.analysis.findings)}
    links: list[Component] = [
        dcc.Link([html.Img(src=icon, alt=""), "probe"], href=query.address("runs"), className="brand")
    ]
    for group, pages in GROUPS:
        links.append(html.H6(group))
        links += [_link(name, page, query, counts.get(name)) for name in pages]
    links.append(html.H6("Catalogue"))
    links.append(_link("runs", page, query, None))
    return links


def _link(name: str, page: str, query: Query, count: int | None) -> Component:
    badge = [html.B(f"{count:,}")] if count else []
    current = {"aria-current": "page"} if name == page else {}
    return html.Div(
        dcc.Link([NAMES.get(name, title(name)), *badge], href=query.address(name), className="page-link"),
        className="current" if current else "",
    )


def choices(entries: Sequence[Entry]) -> list[dict[str, str]]:
    """The runs and traces that can be shown."""
    return [{"value": entry.id, "label": text(entry.name, 60)} for entry in entries if entry.kind != "microbench"]


def chip(loaded: Loaded | None) -> str:
    """Where the run was recorded."""
    if loaded is None:
        return ""
    source = loaded.analysis.source
    told = (
        source.device,
        f"{source.ranks} ranks" if source.ranks > 1 else None,
        f"torch {source.torch}" if source.torch else None,
        f"{source.kind} trace" if source.kind != "run" else None,
    )
    return text(" · ".join(part for part in told if part), 120)
