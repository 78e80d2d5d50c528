"""What got faster or slower from one run to another, by how much, and how sure is that?"""

from __future__ import annotations

from collections.abc import Iterator

import dash_mantine_components as dmc
from dash import html
from dash.development.base_component import Component

from probe.dashboard.catalogue import Entry
from probe.dashboard.figures.arrows import arrows, matched
from probe.dashboard.pieces import card, empty, failed, graph, mark, table, text, waiting
from probe.dashboard.view import View
from probe.errors import ProbeError
from probe.report import compare_words as words
from probe.report.ranks import Column
from probe.report.roofline.plane import roofs, roofs_met
from probe.results.comparison import Comparison, Row
from probe.units import UNKNOWN, format_time

WAIT_S = 0.4
MOST_ROWS = 60
WORSE, BETTER = "slower", "faster"


def render(view: View) -> Component:
    """Pickers for both sides, then the answer, the parts, the arrows and the rows."""
    runs = [entry for entry in view.entries if entry.kind != "microbench"]
    if len(runs) < 2:
        why = "A comparison needs two runs; this dashboard was given one."
        return empty("Nothing to compare with", why, "probe dashboard RUN_BEFORE RUN_AFTER")
    base, new = _sides(view, runs)
    picked = html.Div(
        [
            _picker("base-run", "Before", runs, base),
            html.Span("→", className="arrow"),
            _picker("new-run", "After", runs, new),
            html.Span("The run that is shown elsewhere is the one after.", className="soft"),
        ],
        className="pickers",
    )
    return html.Div([picked, *_answer(view, base, new)], className="page bounded")


def _sides(view: View, runs: list[Entry]) -> tuple[Entry | None, Entry]:
    known = {entry.id: entry for entry in runs}
    new = known.get(view.query.run or "") or runs[0]
    return known.get(view.query.base or ""), new


def _picker(identity: str, label: str, runs: list[Entry], chosen: Entry | None) -> Component:
    picker: Component = dmc.Select(
        id=identity,
        label=label,
        value=chosen.id if chosen else None,
        searchable=True,
        w=300,
        size="xs",
        data=[{"value": entry.id, "label": text(entry.name, 60)} for entry in runs],
        placeholder="Choose a run",
        allowDeselect=False,
    )
    return picker


def _answer(view: View, base: Entry | None, new: Entry) -> Iterator[Component]:
    if base is None:
        yield empty("Choose the run to compare with", "Both are read on this machine; nothing leaves it.")
        return
    reading = view.library.comparison(base.id, new.id, WAIT_S)
    if not reading.done.is_set():
        yield waiting(reading.progress, reading.waited_s)
        return
    try:
        found = reading.result()
    except ProbeError as error:
        yield failed(str(error))
        return
    yield html.P(text(_sentence(found)), className="verdict")
    yield from _parts(found)
    yield from _arrows(view, base, new)
    yield _rows(found)
    yield from _surroundings(found)


def _sentence(found: Comparison) -> str:
    return words.sentence(found).replace("NEW", "After").replace("BASE", "before")


def _parts(found: Comparison) -> Iterator[Component]:
    """Each part of the step on both sides, as two bars over each other."""
    parts = words.parts_of_step(found)
    most = max((value or 0.0 for _, p in parts for value in (p.base_s, p.new_s)), default=0.0)
    if not most:
        return
    rows = [
        html.Tr(
            [
                html.Td([mark(name), " ", name]),
                html.Td(
                    html.Div(
                        [
                            html.I(className="before", style={"width": f"{(p.base_s or 0) / most:.1%}"}),
                            html.I(className=f"after fill-{name}", style={"width": f"{(p.new_s or 0) / most:.1%}"}),
                        ],
                        className="double",
                    )
                ),
                html.Td(format_time(p.base_s), className="n soft"),
                html.Td(format_time(p.new_s), className="n"),
                html.Td(words.difference(p.delta_s), className=f"n {_sign(p.delta_s) if words.apart(p) else 'soft'}"),
            ]
        )
        for name, p in parts
    ]
    titles = (("Part", ""), ("before over after", ""), ("Before", "n"), ("After", "n"), ("Difference", "n"))
    head = html.Tr([html.Th(title, className=css) for title, css in titles])
    note = "mean per step; coloured where the ranges over the steps have nothing in common"
    yield card("Parts of the step", html.Table([html.Thead(head), html.Tbody(rows)], className="parts"), note=note)


def _sign(delta: float | None) -> str:
    return "bad" if (delta or 0.0) > 0 else "good"


def _arrows(view: View, base: Entry, new: Entry) -> Iterator[Component]:
    """How operators moved under the roofs of the run after."""
    old, now = (view.library.analysis(entry.id, WAIT_S * 10).result().analysis for entry in (base, new))
    if now.ceilings is None or not now.ceilings.dram_bytes_per_s:
        return
    pairs = matched(old.ops, now.ops)
    if pairs:
        figure = arrows(roofs(now.ceilings, roofs_met(now, now.ceilings)), pairs)
        label = f"Roofline of both runs: {len(pairs)} operators, hollow before, full after"
        note = f"{len(pairs)} operators that both have, most time first · hollow before, full after"
        yield card("Under the roofs", graph(figure, "compare-roofline", "400px", label), note=note)


def _rows(found: Comparison) -> Component:
    changed = words.changed(found)
    rows = changed[:MOST_ROWS]
    if not rows:
        return card("Operators", html.P("No operator differs beyond noise.", className="soft"))
    columns = (
        Column("Operator", tuple(text(row.name.removeprefix("aten::"), 50) for row in rows), False),
        Column("Shapes", tuple(text(row.shapes or UNKNOWN, 60) for row in rows), False),
        Column("Before", tuple(words.value(row, row.base) for row in rows)),
        Column("After", tuple(words.value(row, row.new) for row in rows)),
        Column("Difference", tuple(words.difference(row.delta) for row in rows)),
        Column("Speed", tuple(_speed(row) for row in rows)),
        Column("n", tuple(f"{row.base_n or 0}, {row.new_n or 0}" for row in rows)),
    )
    left = "; ".join(words.left_over(found, rows))
    return card("Operators that changed", table(columns), note=left)


def _speed(row: Row) -> str:
    if row.ratio is None:
        return row.verdict
    many, interval = words.speed(row.ratio, row.interval, row.verdict if row.verdict in (WORSE, BETTER) else "~")  # type: ignore[arg-type]
    return f"{many} {row.verdict} {interval}".strip()


def _surroundings(found: Comparison) -> Iterator[Component]:
    """What else differs between the two."""
    if found.changes:
        columns = (
            Column("What", tuple(change.what for change in found.changes), False),
            Column("Before", tuple(text(change.base, 80) for change in found.changes), False),
            Column("After", tuple(text(change.new, 80) for change in found.changes), False),
        )
        yield card("What else differs", table(columns))
    if found.warnings:
        notes = html.Ul([html.Li(text(note, 600)) for note in dict.fromkeys(found.warnings)])
        yield html.Details([html.Summary(f"{len(found.warnings)} notes"), notes], className="notes")
