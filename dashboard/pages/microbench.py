"""What can this hardware do? Every curve that was measured, beside published values and other machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import dash_mantine_components as dmc
from dash import html
from dash.development.base_component import Component

from probe.dashboard.catalogue import Entry
from probe.dashboard.figures.curves import Machine, curves, names
from probe.dashboard.pieces import card, empty, failed, graph, table, text
from probe.dashboard.view import View
from probe.errors import ProbeError
from probe.report.curves import Alone, arrange, merged, split
from probe.report.palette import SERIES
from probe.report.ranks import Column
from probe.results.measurement import Measurement, MicrobenchResult
from probe.units import UNKNOWN, format_value

MOST_MACHINES = 3


def render(view: View) -> Component:
    """A picker of machines, then their figures side by side, then what makes no curve."""
    there = [entry for entry in view.entries if entry.kind == "microbench"]
    if not there:
        why = "No file of microbenchmarks is in the catalogue."
        remedy = "probe run microbench -o runs/this_machine.json\nprobe dashboard runs"
        return empty("Nothing measured here", why, remedy)
    chosen = [entry for entry in there if entry.id == view.query.base] or there[:MOST_MACHINES]
    try:
        results = [(entry, view.library.result(entry.id)) for entry in chosen]
    except ProbeError as error:
        return failed(str(error))
    return html.Div([_picker(there, chosen), *_figures(results), *_alone(results), *_notes(results)], className="page")


def _picker(there: Sequence[Entry], chosen: Sequence[Entry]) -> Component:
    data = [{"value": "", "label": "All machines"}] if len(there) > 1 else []
    data += [{"value": entry.id, "label": text(entry.name, 60)} for entry in there]
    value = chosen[0].id if len(chosen) == 1 else ""
    picker = dmc.Select(id="machine", label="Measured", value=value, data=data, w=320, size="xs", allowDeselect=False)
    return html.Div(picker, className="pickers")


def _figures(results: Sequence[tuple[Entry, MicrobenchResult]]) -> Iterator[Component]:
    """A card a question; the machines that answered it stand together."""
    by_title: dict[tuple[str, str], list[Machine]] = {}  # and unit: one suite may measure seconds and cycles
    for (_, result), name in zip(results, _names(results), strict=True):
        for figure in (part for whole in arrange(result.measurements)[0] for part in split(whole)):
            by_title.setdefault((figure.title, figure.unit), []).append(Machine(name, merged(figure)))
    cards = [_card(number, title, machines) for number, ((title, _), machines) in enumerate(by_title.items())]
    yield html.Div(cards, className="tiles")


def _names(results: Sequence[tuple[Entry, MicrobenchResult]]) -> list[str]:
    """What tells the machines apart: the file where all are the same device, else device and file."""
    if len({result.device.name for _, result in results}) == 1 < len(results):
        return [text(entry.name, 40) for entry, _ in results]
    return [f"{text(result.device.name, 30)} ({text(entry.name, 24)})" for entry, result in results]


def _card(number: int, title: str, machines: list[Machine]) -> Component:
    label = f"{title} by size on {len(machines)} machines"
    drawing = graph(curves(machines), f"curve-{number}", "270px", label)
    return card(_heading(title), drawing, _legend(machines))


def _heading(title: str) -> str:
    return title.replace("tlb", "TLB") if title.startswith("tlb") else title[:1].upper() + title[1:]


def _legend(machines: list[Machine]) -> Component:
    called = names(machines)
    if called == [""]:
        return html.Div(className="legend")
    return html.Div(
        [html.Span([html.I(className=f"swatch s{n % SERIES}"), text(name, 80)]) for n, name in enumerate(called)],
        className="legend",
    )


def _alone(results: Sequence[tuple[Entry, MicrobenchResult]]) -> Iterator[Component]:
    """What makes no curve, as tables."""
    for (_, result), name in zip(results, _names(results), strict=True):
        groups = [(alone, m) for alone in arrange(result.measurements)[1] for m in alone.measurements]
        if groups:
            title = "Single figures" if len(results) == 1 else f"Single figures, {name}"
            yield card(title, table(_columns(groups)))


def _columns(groups: Sequence[tuple[Alone, Measurement]]) -> tuple[Column, ...]:
    return (
        Column("Suite", tuple(alone.title for alone, _ in groups), False),
        Column("What", tuple(m.name for _, m in groups), False),
        Column("Value", tuple(format_value(m.value, m.unit) for _, m in groups)),
        Column("Median", tuple(format_value(m.median, m.unit) for _, m in groups)),
        Column("n", tuple(str(m.n) for _, m in groups)),
        Column("Published", tuple(_published(m) for _, m in groups)),
        Column("Verdict", tuple(m.verdict or UNKNOWN for _, m in groups), False),
        Column("Notes", tuple(", ".join(m.flags) for _, m in groups), False),
    )


def _published(m: Measurement) -> str:
    if m.reference is None:
        return UNKNOWN
    return f"{format_value(m.reference.low, m.unit)} – {format_value(m.reference.high, m.unit)}"


def _notes(results: Sequence[tuple[Entry, MicrobenchResult]]) -> Iterator[Component]:
    notes = [f"{one.suite}: {one.reason}" for _, result in results for one in result.unsupported]
    notes += [warning for _, result in results for warning in result.warnings]
    if notes:
        items = html.Ul([html.Li(text(note, 400)) for note in notes])
        yield html.Details([html.Summary(f"{len(notes)} notes"), items], className="notes")
