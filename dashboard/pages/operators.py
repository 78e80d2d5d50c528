"""Which operators take the time? A grid to sort, filter and group, and the tree of modules beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
from dash import html
from dash.development.base_component import Component

from probe.dashboard.pieces import attributes, card, text
from probe.dashboard.query import GROUPINGS
from probe.dashboard.view import View
from probe.report.analysis import uses_device
from probe.results.analysis import Analysis, Operator
from probe.units import format_time

LABELS = {"none": "Each", "name": "Name", "module": "Module", "dtypes": "Types", "bound": "Bound"}
MODULES_SHOWN = 400
NO_MODULE = "(no module)"
THEME = (
    "themeQuartz.withParams({backgroundColor:'var(--card)',foregroundColor:'var(--ink)',"
    "headerBackgroundColor:'var(--raised)',headerTextColor:'var(--soft)',borderColor:'var(--line)',"
    "rowHoverColor:'var(--hover)',selectedRowBackgroundColor:'var(--chosen)',oddRowBackgroundColor:'var(--card)',"
    "fontFamily:'inherit',fontSize:13,headerFontWeight:550,wrapperBorder:false,spacing:6,accentColor:'var(--accent)',"
    "inputBackgroundColor:'var(--raised)',menuBackgroundColor:'var(--card)',browserColorScheme:'inherit'})"
)


def render(view: View) -> Component:
    """The grid, the modules where they were recorded, and the card of what is chosen."""
    analysis = view.analysis
    by = view.query.by
    modules = _modules(analysis)
    note = "time by module, a step" if modules else "not recorded"
    record = html.P(["Recorded with ", html.Code("probe.profile(model=model)"), "."], className="soft")
    side = [op_card(), card("Modules", modules or record, note=note, style="modules")]
    note = f"{len(analysis.ops)} operators by arguments · {_time_of(analysis)} a step · most time to gain first"
    group = dmc.SegmentedControl(
        id="group-by", value=by, size="xs", data=[{"value": name, "label": LABELS[name]} for name in GROUPINGS]
    )
    tools = html.Div([_search(view.query.text), html.Span("Group", className="soft"), group], className="tools")
    main = card("Operators", grid(rows(analysis, by), view.query.sort), note=note, extra=tools, style="fills")
    return html.Div(
        [html.Div([main, html.Div(side, className="side")], className="split wide")], className="page fixed"
    )


def _search(words: str) -> Component:
    field: Component = dmc.TextInput(
        id="grid-search",
        value=words,
        placeholder="Filter: name, shape, module",
        size="xs",
        debounce=150,
        **attributes({"aria-label": "Filter operators"}),
    )
    return field


def _time_of(analysis: Analysis) -> str:
    return "device time" if uses_device(analysis) else "self time"


def op_card() -> Component:
    """The card of the operator that is chosen, which a script fills; empty until one is."""
    hint = html.P("Choose an operator in any view: it is marked in all of them.", className="soft")
    return html.Section(
        [html.Header([html.H2("Operator")]), html.Div(hint, id="op-card")],
        className="card opcard",
        **attributes({"aria-live": "polite"}),
    )


def rows(analysis: Analysis, by: str = "none") -> list[dict[str, Any]]:
    """The grid's rows: each operator, or those that have `by` in common added up."""
    on_device = uses_device(analysis)
    if by == "none":
        return [_row(op, on_device) for op in analysis.ops]
    groups: dict[str, list[Operator]] = defaultdict(list)
    for op in analysis.ops:
        groups[getattr(op, by) or (NO_MODULE if by == "module" else "–")].append(op)
    return [_sum(name, ops, by, on_device) for name, ops in groups.items()]


def _row(op: Operator, on_device: bool) -> dict[str, Any]:
    return {
        "id": str(op.index),
        "name": text(op.name),
        "shapes": text(op.shapes or ""),
        "dtypes": text(op.dtypes or ""),
        "bound": op.bound,
        "limiter": text(op.limiter or ""),
        "calls": op.calls,
        "time": op.device_s if on_device else op.self_s,
        "spread": op.spread_s,
        "share": op.share_fraction,
        "roof": op.roof_fraction,
        "gain": op.recoverable_s,
        "rate": op.achieved_flops_per_s,
        "moved": op.achieved_bytes_per_s,
        "intensity": op.intensity,
        "module": text(op.module or ""),
    }


def _sum(name: str, ops: Sequence[Operator], by: str, on_device: bool) -> dict[str, Any]:
    """Several operators as one row: times added, the share of the roof by time, the class that takes most of it."""
    time = [op.device_s if on_device else op.self_s for op in ops]
    roofed = [(t, op.roof_fraction) for t, op in zip(time, ops, strict=True) if op.roof_fraction is not None]
    weight = sum(t for t, _ in roofed)
    bounds: dict[str, float] = defaultdict(float)
    for t, op in zip(time, ops, strict=True):
        bounds[op.bound] += t
    total = sum(time)
    flops, moved = (_rate(ops, total, which) for which in ("flops", "bytes"))
    return {
        "id": f"{by}:{text(name)}",
        "name": text(name),
        "shapes": f"{len(ops)} operators",
        "dtypes": "",
        "bound": max(bounds, key=lambda bound: bounds[bound]),
        "limiter": "",
        "calls": sum(op.calls for op in ops),
        "time": total,
        "spread": None,
        "share": sum(op.share_fraction for op in ops),
        "roof": sum(t * f for t, f in roofed) / weight if weight else None,
        "gain": sum(op.recoverable_s or 0.0 for op in ops),
        "rate": flops,
        "moved": moved,
        "intensity": None,
        "module": text(name) if by == "module" else "",
    }


def _rate(ops: Iterable[Operator], seconds: float, which: str) -> float | None:
    """FLOP or bytes a step of the operators together, by their time; None where one of them is not known."""
    done = [getattr(op, which) for op in ops]
    if not seconds or any(one is None for one in done):
        return None
    return float(sum(done)) / seconds


def grid(data: list[dict[str, Any]], sort: tuple[str, str] | None = None) -> Component:
    """The grid, sorted as the address says; a click on a row chooses its operator."""
    drawn = dag.AgGrid(
        id="grid",
        rowData=data,
        columnDefs=columns(data, sort),
        getRowId="params.data.id",
        columnSize=None,
        defaultColDef={
            "sortable": True,
            "resizable": True,
            "filter": True,
            "suppressHeaderFilterButton": True,
            "suppressHeaderMenuButton": True,
            "floatingFilter": False,
        },
        dashGridOptions={
            "rowSelection": {"mode": "singleRow", "checkboxes": False, "enableClickSelection": True},
            "rowHeight": 32,
            "headerHeight": 34,
            "animateRows": False,
            "tooltipShowDelay": 300,
            "theme": {"function": THEME},
            "ensureDomOrder": True,
        },
        style={"height": "100%", "width": "100%"},
        className="grid",
    )
    return html.Div(drawn, className="gridbox")


def columns(data: list[dict[str, Any]], sort: tuple[str, str] | None = None) -> list[dict[str, Any]]:
    """What the grid shows of each row; bars are on the scale of the largest. By default most to gain comes first."""
    by, direction = sort or ("gain", "desc")
    return [{**column, **({"sort": direction} if column["field"] == by else {})} for column in _columns(data)]


def _columns(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    number = {"type": "rightAligned", "filter": "agNumberColumnFilter"}

    def shown(function: str) -> dict[str, Any]:
        return {"valueFormatter": {"function": f"{function}(params.value)"}, **number}

    def bar(field: str, function: str) -> dict[str, Any]:
        most = max((row[field] or 0.0 for row in data), default=0.0) or 1.0
        return {"cellRenderer": "ProbeBar", "cellRendererParams": {"most": most, "show": function}, **number}

    modules = any(row["module"] for row in data)
    roof = {**bar("roof", "probePercent"), "cellRendererParams": {"most": 1.0, "show": "probePercent"}}
    faint = {"cellClass": "mono faint"}
    return [
        {
            "field": "name",
            "headerName": "Operator",
            "minWidth": 170,
            "flex": 1.5,
            "cellClass": "mono",
            "tooltipField": "name",
        },
        {"field": "shapes", "headerName": "Shapes", "minWidth": 130, "flex": 1.4, "tooltipField": "shapes", **faint},
        {"field": "bound", "headerName": "Bound", "width": 122, "cellRenderer": "ProbeBound"},
        {"field": "time", "headerName": "Time", "width": 100, **bar("time", "probeTime")},
        {"field": "roof", "headerName": "Of roof", "width": 88, **roof},
        {"field": "gain", "headerName": "To gain", "width": 100, **bar("gain", "probeTime")},
        {"field": "share", "headerName": "Share", "width": 76, **shown("probePercent")},
        {"field": "calls", "headerName": "Calls", "width": 72, **shown("probeCalls")},
        {"field": "limiter", "headerName": "Limiter", "width": 122},
        {"field": "rate", "headerName": "FLOP/s", "width": 90, **shown("probeSi")},
        {"field": "moved", "headerName": "B/s", "width": 84, **shown("probeSi")},
        {"field": "dtypes", "headerName": "Types", "width": 100, "tooltipField": "dtypes", **faint},
        {
            "field": "module",
            "headerName": "Module",
            "width": 200,
            "tooltipField": "module",
            "hide": not modules,
            **faint,
        },
    ]


def _modules(analysis: Analysis) -> Component | None:
    """The tree of modules with their time; None where none were recorded."""
    on_device = uses_device(analysis)
    times: dict[str, float] = defaultdict(float)
    for op in analysis.ops:
        if op.module:
            names = op.module.split(".")
            for depth in range(1, len(names) + 1):
                times[".".join(names[:depth])] += op.device_s if on_device else op.self_s
    if not times:
        return None
    listed = sorted(times)[:MODULES_SHOWN]
    return html.Ul(
        [_module(path, times[path], max(times.values())) for path in listed],
        className="tree",
        role="tree",
    )


def _module(path: str, seconds: float, most: float) -> Component:
    depth = path.count(".")
    return html.Li(
        html.Button(
            [
                html.I(style={"width": f"{seconds / most:.1%}"}),
                html.Span(text(path.rsplit(".", 1)[-1], 60)),
                html.Em(format_time(seconds)),
            ],
            type="button",
            style={"paddingLeft": f"{8 + 14 * depth}px"},
            title=text(path),
            **attributes({"data-module": text(path)}),
        ),
        role="treeitem",
    )
