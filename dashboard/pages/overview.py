"""Where did the time go, what bounds it, what do I change first? The answer in five seconds."""

from __future__ import annotations

from collections.abc import Iterator

from dash import dcc, html
from dash.development.base_component import Component

from probe.dashboard.pieces import attributes, card, kpi, operator_link, parts_bar, pill, saving, text
from probe.dashboard.view import View
from probe.report import verdict
from probe.report.analysis import by_possible_gain
from probe.report.kpis import kpis
from probe.report.verification import MARKS
from probe.results.analysis import Analysis, Operator
from probe.results.findings import Finding
from probe.units import format_fraction, format_time

TOP = 8
IDLE_SHOWN = 3


def render(view: View) -> Component:
    """The verdict, the figures, the parts of the step, the first fixes, the operators with most to gain."""
    analysis = view.analysis
    said = verdict.of_ranks(analysis)
    return html.Div(
        [
            html.P(text(verdict.sentence(analysis)), className="verdict"),
            html.P(text(said), className="verdict second") if said else None,
            html.Div([kpi(text(k.label), k.value, k.of, text(k.below, 40)) for k in kpis(analysis)], className="kpis"),
            card(
                "Where the step goes",
                parts_bar(analysis.time_s, analysis.time_interval_s),
                *_causes(analysis),
                note="mean per step; each instant counted once; ranges over the steps",
            ),
            html.Div([_fixes(view, analysis), _operators(view, analysis)], className="two"),
            *_warnings(analysis),
        ],
        className="page",
    )


def _causes(analysis: Analysis) -> Iterator[Component]:
    """Why nothing runs, where that is a part worth a word."""
    step_s = analysis.time_s.get("step") or 0.0
    told = sorted(((s, c) for c, s in analysis.idle_s.items() if step_s and s / step_s > 0.01), reverse=True)
    if told:
        words = " · ".join(f"{cause.replace('_', ' ')} {format_time(s)}" for s, cause in told[:IDLE_SHOWN])
        yield html.P(f"Why nothing runs: {words}", className="soft note")


def _fixes(view: View, analysis: Analysis) -> Component:
    more = dcc.Link(f"all {len(analysis.findings)}", href=view.query.address("suggestions"), className="more")
    found = [_fix(number, f) for number, f in enumerate(verdict.first(analysis.findings), start=1)]
    nothing = html.P("Nothing in the trace matches a rule of the catalogue.", className="soft")
    return card("What to change first", *(found or [nothing]), extra=more if found else None)


def _fix(number: int, finding: Finding) -> Component:
    proved = verdict.proof(finding)
    amount, share = saving(finding)
    return html.Article(
        [
            html.Div(
                [
                    html.B(str(number), className="number"),
                    html.H3(text(finding.title)),
                    html.Code(finding.code, className="code"),
                    html.Span([html.B(amount), html.Small(share)], className="saving"),
                ]
            ),
            html.P(text(finding.summary)),
            html.Pre(text(finding.how, 1000)) if finding.how else None,
            html.P([_sign(finding), text(proved)], className="proof") if proved else None,
        ],
        className="fix",
    )


def _sign(finding: Finding) -> str:
    """The mark of the verdict: a tick for what was accepted, and for nothing else."""
    return f"{MARKS[finding.verified.verdict]} " if finding.verified else ""


def _operators(view: View, analysis: Analysis) -> Component:
    ops = by_possible_gain(analysis.ops)[:TOP]
    most = max((op.recoverable_s or 0.0 for op in ops), default=0.0) or 1.0
    more = dcc.Link(f"all {len(analysis.ops)}", href=view.query.address("operators"), className="more")
    head = html.Tr(
        [
            html.Th(name, className=css)
            for name, css in (("Operator", ""), ("Bound", ""), ("Of roof", "n"), ("To gain", "n wide"))
        ]
    )
    rows = [_row(op, most) for op in ops]
    return card(
        "Most time to gain", html.Table([html.Thead(head), html.Tbody(rows)], className="tight fitted"), extra=more
    )


def _row(op: Operator, most: float) -> Component:
    gain = op.recoverable_s or 0.0
    return html.Tr(
        [
            html.Td(
                [
                    operator_link(op.index, op.name.removeprefix("aten::")),
                    html.Small(text(op.shapes or "", 42), className="soft mono"),
                ]
            ),
            html.Td(pill(op.bound, op.limiter)),
            html.Td(format_fraction(op.roof_fraction, 0), className="n"),
            html.Td(
                html.Div(
                    [html.I(style={"width": f"{gain / most:.1%}"}), html.Span(format_time(op.recoverable_s))],
                    className="gauge",
                ),
                className="n wide",
            ),
        ],
        **attributes({"data-op": str(op.index)}),
    )


def _warnings(analysis: Analysis) -> Iterator[Component]:
    notes = [*analysis.quality.reasons, *analysis.warnings]
    if notes:
        items = html.Ul([html.Li(text(note, 600)) for note in notes])
        yield html.Details([html.Summary(f"{len(notes)} notes on what the figures stand on"), items], className="notes")
