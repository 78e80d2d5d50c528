"""What to change: every finding with its evidence, the code to copy, what it saves, the command that verifies it."""

from __future__ import annotations

from collections.abc import Iterator

import dash_mantine_components as dmc
from dash import html
from dash.development.base_component import Component

from probe.dashboard.pieces import card, empty, finding_chips, saving, text
from probe.dashboard.view import View
from probe.results.analysis import Analysis, Fix
from probe.results.findings import Finding, Verified
from probe.units import format_bytes, format_fraction, format_time

EFFORT = {"flag": "a flag", "line": "a line", "function": "a function", "design": "a change of design"}
VERDICTS = {"accept": "good", "reject": "bad", "inconclusive": "open", "trade": "open"}


def render(view: View) -> Component:
    """The plan of fixes with its cumulative effect, then the findings one by one."""
    analysis = view.analysis
    if not analysis.findings:
        why = "No rule of the catalogue matches this run: nothing in it is known to be done better another way."
        return empty("Nothing to suggest", why, "\n".join(analysis.not_recorded))
    names = [op.name.removeprefix("aten::") for op in analysis.ops]
    plan = [_plan(analysis)] if analysis.fixes else []
    source = view.entry.name if view.entry else "RUN"
    found = [_finding(finding, names, source) for finding in analysis.findings]
    return html.Div([*plan, *found], className="page narrow")


def _plan(analysis: Analysis) -> Component:
    """The step's time after each fix, the most saved for the least effort first."""
    step_s = analysis.time_s.get("step") or 0.0
    titles = {f.id: f for f in analysis.findings}
    rows = [_bar("as it is", "", step_s, step_s, None)]
    rows += [_step(fix, titles[fix.id], step_s) for fix in analysis.fixes if fix.id in titles]
    body = html.Table(html.Tbody(rows), className="plan")
    return card("One after the other", body, note="the step once each fix and all above it are made; predicted")


def _step(fix: Fix, finding: Finding, step_s: float) -> Component:
    return _bar(f"{finding.code} {finding.title}", EFFORT[finding.effort], fix.step_after_s, step_s, fix)


def _bar(name: str, effort: str, seconds: float, most: float, fix: Fix | None) -> Component:
    share = min(seconds / most, 1.0) if most else 0.0
    less = f"−{format_fraction(fix.cumulative_saving_fraction, 0)}" if fix else ""
    return html.Tr(
        [
            html.Td(text(name, 70)),
            html.Td(effort, className="soft"),
            html.Td(
                html.Div(
                    [html.I(style={"width": f"{share:.1%}"}), html.Span(format_time(seconds))], className="gauge long"
                )
            ),
            html.Td(less, className="n good"),
        ]
    )


def _finding(finding: Finding, names: list[str], source: str) -> Component:
    """One finding as an article."""
    return html.Article(
        [_head(finding), html.P(text(finding.summary, 1000)), *_body(finding, names, source)],
        className="card finding",
        id=f"finding-{text(finding.id, 40)}",
    )


def _head(finding: Finding) -> Component:
    amount, share = saving(finding)
    tags = [EFFORT[finding.effort], f"matched by {finding.matched}"] + (["preview"] if finding.preview else [])
    return html.Header(
        [
            html.Code(finding.code, className="code"),
            html.H2(text(finding.title)),
            *(html.Span(tag, className="tag") for tag in tags),
            html.Div(className="spring"),
            html.Div([html.Strong(amount), html.Small(f"{share}, at most" if share else "")], className="amount"),
        ]
    )


def _body(finding: Finding, names: list[str], source: str) -> Iterator[Component]:
    if finding.how:
        yield _copyable(text(finding.how, 4000))
    where = " · ".join(text(part) for part in (finding.where, finding.module) if part)
    if where:
        yield html.P(["Where: ", html.Span(where, className="mono")], className="soft")
    if finding.ops:
        yield finding_chips(finding.ops, names)
    if finding.evidence:
        yield html.Ul([html.Li(text(said, 600)) for said in finding.evidence], className="evidence")
    for result in (finding.verified, *finding.alternatives):
        if result is not None:
            yield _proof(result)
    if finding.verified is None and finding.replacement:
        yield html.P(
            [
                "Not verified yet. To run it on the recorded shapes: ",
                html.Code(f"probe verify {text(source, 80)} --code {finding.code}"),
            ],
            className="soft",
        )


def _copyable(code: str) -> Component:
    copy = dmc.CopyButton(value=code, size="compact-xs", variant="default", children="Copy", copiedChildren="Copied")
    return html.Div([html.Pre(code), copy], className="code-block")


def _proof(result: Verified) -> Component:
    """What running a replacement showed."""
    ratio = f"{result.speedup:.2f}×" if result.speedup is not None else ""
    if result.interval is not None:
        ratio += f" [{result.interval[0]:.2f}, {result.interval[1]:.2f}]"
    memory = ""
    if result.peak_bytes_before is not None and result.peak_bytes_after is not None:
        memory = f"peak {format_bytes(result.peak_bytes_before)} → {format_bytes(result.peak_bytes_after)}"
    told = (
        text(result.candidate or "", 80),
        ratio,
        memory,
        f"n {result.n}" if result.n else "",
        result.device,
        result.reason or "",
    )
    words = " · ".join(text(part) for part in told if part)
    return html.P([html.B(result.verdict, className=VERDICTS[result.verdict]), " ", words], className="proof")
