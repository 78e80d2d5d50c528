"""The dashboard as a Dash application: which page an address names, what it is given, what answers to a choice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, clientside_callback, no_update
from dash.development.base_component import Component
from flask import request

from probe.dashboard import routes, security, shell
from probe.dashboard.catalogue import Entry
from probe.dashboard.loaded import Library, Loaded
from probe.dashboard.pages import (
    compare,
    environment,
    memory,
    microbench,
    operators,
    overview,
    ranks,
    roofline,
    runs,
    suggestions,
    timeline,
)
from probe.dashboard.pieces import empty, failed, text, waiting
from probe.dashboard.query import Query, QueryError, parse
from probe.dashboard.security import Access
from probe.dashboard.view import View
from probe.errors import ProbeError

ASSETS = Path(__file__).parent / "assets"
WAIT_S = 0.35  # for a run that is being read, before the page says so
PAGES: dict[str, Callable[[View], Component]] = {
    "overview": overview.render,
    "roofline": roofline.render,
    "operators": operators.render,
    "timeline": timeline.render,
    "memory": memory.render,
    "microbench": microbench.render,
    "environment": environment.render,
    "ranks": ranks.render,
    "suggestions": suggestions.render,
    "compare": compare.render,
    "runs": runs.render,
}
WITH_FIGURES = ("compare", "memory", "microbench", "ranks", "roofline")  # pages that plotly draws on
PLOTLY = '<link rel="preload" as="script" href="/_dash-component-suites/plotly/package_data/plotly.min.js">'
WITHOUT_RUN = frozenset({"runs", "microbench", "compare"})  # pages that do not wait for the analysis of a run
logger = logging.getLogger(__name__)


class _Document(Dash):
    """Dash's page; one that plotly draws on asks for it with the first scripts, and assets/figures.js runs it."""

    def interpolate_index(self, **parts: Any) -> str:  # type: ignore[override]  # called with all of them by name
        if request.path.strip("/") in WITH_FIGURES:
            parts["css"] = PLOTLY + parts.get("css", "")
        page: str = super().interpolate_index(**parts)  # type: ignore[no-untyped-call]  # Dash's has no types
        return page


def create_app(library: Library, rules: Access) -> Dash:
    """The application over the entries of a catalogue, for those whom `rules` let in."""
    app = _Document(
        "probe",
        assets_folder=str(ASSETS),
        title="probe",
        update_title="",
        serve_locally=True,
        suppress_callback_exceptions=True,
        add_log_handler=False,
        compress=False,
        meta_tags=[
            {"name": "viewport", "content": "width=device-width, initial-scale=1"},
            {"name": "figures", "content": " ".join(WITH_FIGURES)},
        ],
    )
    app.index_string = app.index_string.replace("<html>", '<html lang="en">')
    security.guard(app.server, rules, app.csp_hashes)
    routes.add(app.server, library, frozenset(PAGES))
    app.layout = shell.frame()
    _callbacks(app, library)
    return app


def _callbacks(app: Dash, library: Library) -> None:
    """What Dash asks the server for, and what the browser answers by itself."""
    _pages(app, library)
    _grid(app, library)
    _pickers()


def _pages(app: Dash, library: Library) -> None:
    """The page of an address; asked again while its run is being read."""
    icon = app.get_asset_url("icon.svg")
    around = (
        ("run-picker", "data"), ("run-picker", "value"), ("chip", "children"), ("run-id", "data-run"),
        ("run-id", "data-name"), ("export", "href"), ("export", "hidden"),
    )  # fmt: skip

    @app.callback(
        Output("page", "children"),
        Output("title", "children"),
        Output("nav", "children"),
        *(Output(identity, value) for identity, value in around),
        Input("url", "pathname"),
        Input("url", "search"),
    )
    def show(pathname: str, search: str) -> tuple[Any, ...]:
        return shown(library, pathname, search, icon)

    @app.callback(
        *(Output(identity, "children", allow_duplicate=True) for identity in ("page", "nav", "chip")),
        Input("again", "n_intervals"),
        State("url", "pathname"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def again(_: int, pathname: str, search: str) -> tuple[Any, ...]:
        everything = shown(library, pathname, search, icon)
        return (everything[0], everything[2], everything[5])


def _grid(app: Dash, library: Library) -> None:
    """The rows of the operators' grid, grouped by the server; chosen, filtered and remembered by the browser."""

    @app.callback(
        Output("grid", "rowData"),
        Output("grid", "columnDefs"),
        Input("group-by", "value"),
        State("run-id", "data-run"),
        prevent_initial_call=True,
    )
    def group(by: str, run: str) -> tuple[Any, Any]:
        return grouped(library, by, run)

    for identity, value, function in (
        ("grid", "selectedRows", "row"),
        ("grid-search", "value", "search"),
        ("group-by", "value", "grouped"),
    ):
        clientside_callback(
            ClientsideFunction("probe", function),
            Output("unused", "data", allow_duplicate=True),
            Input(identity, value),
            prevent_initial_call=True,
        )


def _pickers() -> None:
    """Another run, base or machine is another address, which the browser writes."""
    for identity, function in (
        ("run-picker", "run"),
        ("base-run", "base"),
        ("new-run", "compared"),
        ("machine", "machine"),
    ):
        clientside_callback(
            ClientsideFunction("probe", function),
            Output("url", "search", allow_duplicate=identity != "run-picker"),
            Input(identity, "value"),
            State("url", "search"),
            prevent_initial_call=True,
        )


def grouped(library: Library, by: str, run: str) -> tuple[Any, Any]:
    """The grid's rows and columns, grouped another way."""
    try:
        query = parse(f"run={run}&by={by}")
        if query.run is None or library.catalogue.find(query.run) is None:
            return no_update, no_update
        data = operators.rows(library.analysis(query.run).result().analysis, query.by)
    except (QueryError, ProbeError):
        return no_update, no_update
    return data, operators.columns(data)


def shown(library: Library, pathname: str | None, search: str | None, icon: str) -> tuple[Any, ...]:
    """The page of an address and all that stands round it."""
    page = (pathname or "/overview").strip("/") or "overview"
    entries = library.catalogue.entries()
    try:
        query = parse(search or "")
    except QueryError as error:
        return _around(page, failed(str(error)), Query(), entries, None, None, icon)
    entry, loaded, body = _body(library, page, query, entries)
    return _around(page, body, query, entries, entry, loaded, icon)


def _body(
    library: Library, page: str, query: Query, entries: tuple[Entry, ...]
) -> tuple[Entry | None, Loaded | None, Component]:
    """The page itself; what goes wrong in it is said on it."""
    runs_there = [entry for entry in entries if entry.kind != "microbench"]
    entry = next((one for one in runs_there if one.id == query.run), None)
    if query.run is not None and entry is None:
        return None, None, empty("No such run", "It may have been moved or removed since this address was made.")
    entry = entry or next(iter(runs_there), None)
    if page not in PAGES:
        return entry, None, empty("No such page", "Choose one on the left.")
    if entry is None and page not in WITHOUT_RUN:
        return None, None, runs.render(View(library, entries, query))
    loaded = None
    if entry is not None:
        reading = library.analysis(entry.id, 0.0 if page in WITHOUT_RUN else WAIT_S)
        if not reading.done.is_set() and page not in WITHOUT_RUN:
            return entry, None, waiting(reading.progress, reading.waited_s)
        if reading.done.is_set():
            loaded = reading.value
        if loaded is None and page not in WITHOUT_RUN:
            return entry, None, failed(reading.error or "nothing was read")
    return entry, loaded, _rendered(page, View(library, entries, query, entry, loaded))


def _rendered(page: str, view: View) -> Component:
    try:
        return PAGES[page](view)
    except ProbeError as error:
        return failed(str(error))
    except Exception as error:  # shown rather than lost: a callback that raises leaves the page as it was
        logger.exception("the page %s could not be made", page)
        return failed(
            f"A defect of probe's own ({type(error).__name__}); please report it with what the terminal says."
        )


def _around(
    page: str,
    body: Component,
    query: Query,
    entries: tuple[Entry, ...],
    entry: Entry | None,
    loaded: Loaded | None,
    icon: str,
) -> tuple[Any, ...]:
    """The outputs of the callback `show`, in their order."""
    pinned = Query(run=query.run or (entry.id if entry else None), base=query.base)
    identity, name = (entry.id, text(entry.name, 80)) if entry else ("", "")
    href = f"/api/run/{identity}/report" if identity else "#"
    return (
        body,
        shell.title(page),
        shell.navigation(page, pinned, loaded, icon),
        shell.choices(entries),
        identity or None,
        shell.chip(loaded),
        identity,
        name,
        href,
        not identity,
    )
