"""Do the ranks keep pace, what does communication cost, and does it scale?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dash import html
from dash.development.base_component import Component

from probe.dashboard.figures.scaling import collective_sizes, scaling_curve
from probe.dashboard.pieces import card, empty, graph, table, text
from probe.dashboard.view import View
from probe.report import verdict
from probe.report.ranks import (
    clocks,
    collective_columns,
    footnotes,
    rank_columns,
    rank_notes,
    scaling_columns,
    shares,
)
from probe.results.analysis import Analysis
from probe.results.multirank import Rank
from probe.units import format_bytes_per_s, format_time

MOST_COLLECTIVES, MOST_RANKS = 40, 256


def render(view: View) -> Component:
    """The verdict on the ranks, a bar for each, the collectives, the scaling."""
    analysis = view.analysis
    if len(analysis.ranks) < 2 and not analysis.collectives and analysis.scaling is None:
        why = "One rank was recorded, and it exchanged nothing."
        return empty(
            "No ranks to compare", why, 'probe.profile(ranks="all")        # or: probe dashboard DIRECTORY_OF_TRACES'
        )
    said = verdict.of_ranks(analysis)
    told = [html.P(text(said), className="verdict")] if said else []
    return html.Div([*told, *_ranks(analysis), *_collectives(analysis), *_scaling(analysis)], className="page")


def _ranks(analysis: Analysis) -> Iterator[Component]:
    if len(analysis.ranks) < 2:
        return
    late = {straggler.rank for straggler in analysis.stragglers}
    rows = analysis.ranks[:MOST_RANKS]
    yield card("A step of each rank", _bars(rows, late), note="compute, exposed communication, idle; mean per step")
    notes = [html.P(text(note), className="soft note") for note in rank_notes(rows)]
    offsets = clocks(analysis.clocks)
    notes += [html.P(text(f"Clocks: {offsets}"), className="soft note")] if offsets else []
    yield card("Ranks", table(rank_columns(rows), [rank.rank in late for rank in rows]), *notes)


def _bars(ranks: Sequence[Rank], late: set[int]) -> Component:
    """One stacked bar a rank, all on one scale."""
    most = max((rank.step_s or 0.0 for rank in ranks), default=0.0) or 1.0
    rows = []
    for rank in ranks:
        told = shares(rank)
        parts = _parts(rank) if told is not None or rank.step_s else []
        bar = [
            html.Div(
                className=f"part fill-{kind}",
                style={"width": f"{seconds / most:.2%}"},
                title=f"{name} {format_time(seconds)}",
            )
            for name, kind, seconds in parts
        ]
        mark = " late" if rank.rank in late else ""
        rows.append(
            html.Div(
                [
                    html.Span(f"rank {rank.rank}{mark}"),
                    html.Div(bar, className="bar"),
                    html.Span(format_time(rank.step_s), className="n"),
                ],
                className=f"rank{mark}",
            )
        )
    legend = [
        html.Span([html.I(className=f"swatch fill-{kind}"), name])
        for name, kind in (
            ("compute", "compute"),
            ("exposed communication", "communication"),
            ("idle, or not told", "idle"),
        )
    ]
    return html.Div([html.Div(legend, className="legend"), *rows], className="ranks")


def _parts(rank: Rank) -> list[tuple[str, str, float]]:
    """Name, colour and seconds of what makes up a rank's step."""
    step_s = rank.step_s or 0.0
    exposed_s = rank.exposed_communication_s or 0.0
    busy_s = min(rank.compute_s or 0.0, max(step_s - exposed_s, 0.0))
    rest_s = max(step_s - exposed_s - busy_s, 0.0)
    parts = [
        ("compute", "compute", busy_s),
        ("exposed communication", "communication", exposed_s),
        ("idle", "idle", rest_s),
    ]
    return [part for part in parts if part[2] > 0]


def _collectives(analysis: Analysis) -> Iterator[Component]:
    if not analysis.collectives:
        return
    rows = analysis.collectives[:MOST_COLLECTIVES]
    links = analysis.ceilings.link_bytes_per_s if analysis.ceilings else {}
    measured = max(links.values(), default=None)
    figure = collective_sizes(rows, measured)
    if figure is not None:
        against = f"dashed: {format_bytes_per_s(measured)} measured here" if measured else "no link was measured here"
        yield card(
            "Bus bandwidth by size", graph(figure, "collectives", "300px", "Bus bandwidth by size"), note=against
        )
    notes = [html.P(text(note), className="soft note") for note in footnotes(rows)]
    yield card("Collectives, most time first", table(collective_columns(rows)), *notes)


def _scaling(analysis: Analysis) -> Iterator[Component]:
    if analysis.scaling is None:
        return
    figure = graph(scaling_curve(analysis.scaling), "scaling", "300px", "Scaling efficiency by number of ranks")
    yield card("Scaling", figure, table(scaling_columns(analysis.scaling)), note=text(analysis.scaling.assumption))
