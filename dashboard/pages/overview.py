"""Where did the time go, what bounds it, what do I change first? The answer in five seconds."""

from __future__ import annotations

from collections.abc import Iterator

from dash import dcc, html
from dash.development.base_component import Component

from probe.analysis import Analysis, Operator
from probe.dashboard.pieces import attributes, card, kpi, operator_link, parts_bar, pill, saving, text
from probe.dashboard.view import View
from probe.findings import Finding
from probe.report import verdict
from probe.report.analysis import by_possible_gain, uses_device
from probe.units import format_bytes, format_fraction, format_si, format_time

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
            html.Div(list(_kpis(analysis)), className="kpis"),
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


def _kpis(analysis: Analysis) -> Iterator[Component]:
    """Step time with its spread, what it gets through, how busy, what could be gained, memory."""
    steps, use = analysis.steps, analysis.utilisation
    step_s = analysis.time_s.get("step")
    spread = f"p50 {format_time(steps.p50_s)} · p95 {format_time(steps.p95_s)}" if steps.p50_s else ""
    profiled = f"{format_time(steps.profiled_mean_s)} while recorded" if steps.profiled_mean_s else ""
    yield kpi("Step time", format_time(step_s), f"n {steps.n}", spread or profiled)
    rate = steps.throughput.tokens_per_s or steps.throughput.samples_per_s
    if rate:
        unit = "tokens/s" if steps.throughput.tokens_per_s else "samples/s"
        other = steps.throughput.samples_per_s if unit == "tokens/s" else None
        yield kpi("Throughput", format_si(rate, unit), "", f"{format_si(other, 'samples/s')}" if other else "")
    busy = "device works" if uses_device(analysis) else "an operator runs"
    yield kpi("Busy", format_fraction(use.device_busy_fraction), "of the step", f"{busy}; the rest waits")
    if use.mfu_fraction is not None or use.mbu_fraction is not None:
        below = f"memory {format_fraction(use.mbu_fraction)} of its peak" if use.mbu_fraction is not None else ""
        yield kpi("Model FLOP utilisation", format_fraction(use.mfu_fraction), "of the peak", below)
    share = gain_fraction(analysis)
    gain_s = share * step_s if share is not None and step_s else None
    below = "if every operator met its roof"
    yield kpi("To gain, at most", format_time(gain_s), f"{format_fraction(share, 0)} of the step", below)
    if analysis.memory is not None and analysis.memory.peak_bytes:
        known = analysis.memory
        below = f"of {format_bytes(known.capacity_bytes)}" if known.capacity_bytes else (known.peak_at or "")
        yield kpi("Peak memory", format_bytes(known.peak_bytes), "", text(below, 40))


def gain_fraction(analysis: Analysis) -> float | None:
    """What the operators could gain together as a share of the step; of the recorded steps, whose times they have."""
    gain_s = sum(op.recoverable_s or 0.0 for op in analysis.ops)
    recorded_s = analysis.steps.profiled_mean_s or analysis.time_s.get("step")
    return min(gain_s / recorded_s, 1.0) if recorded_s else None


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
    """A tick for what was accepted, and for nothing else."""
    verdicts = {"accept": "✓ ", "reject": "✗ "}
    return verdicts.get(finding.verified.verdict, "~ ") if finding.verified else ""


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
