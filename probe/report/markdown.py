"""The report as Markdown, for pull requests and CI summaries."""

from __future__ import annotations

from collections.abc import Iterator

from probe.analysis import PARTS, Analysis
from probe.findings import Finding
from probe.report import verdict
from probe.report.analysis import by_possible_gain, calls_text, fact_lines, kernel_totals, uses_device
from probe.report.text import kernel_name, markdown_cell, printable
from probe.units import UNKNOWN, format_fraction, format_time


def render(analysis: Analysis, top: int = 20) -> str:
    """The whole report; `top` operators are listed."""
    return "\n".join(_lines(analysis, top)) + "\n"


def _lines(analysis: Analysis, top: int) -> Iterator[str]:
    source = analysis.source
    yield f"# probe: {markdown_cell(source.path)}"
    yield ""
    yield f"**{markdown_cell(verdict.sentence(analysis))}**"
    yield ""
    yield f"{markdown_cell(source.device or 'unknown device')}, torch {markdown_cell(source.torch or UNKNOWN)}"
    yield ""
    for number, finding in enumerate(verdict.first(analysis.findings), start=1):
        yield from _fix(number, finding)
    yield from _parts(analysis)
    yield ""
    yield from _operators(analysis, top)
    if uses_device(analysis):
        yield ""
        yield from _kernels(analysis)
    yield ""
    for label, text in fact_lines(analysis):
        yield f"- **{label}**: {markdown_cell(text)}"
    notes = [*(f"left out: {r}" for r in analysis.quality.reasons), *analysis.warnings]
    if notes:
        yield ""
        yield from (f"> {markdown_cell(note)}  " for note in notes)


def _fix(number: int, finding: Finding) -> Iterator[str]:
    """One suggestion, with the line to paste and what running it showed."""
    yield f"{number}. **{markdown_cell(finding.title)}** ({finding.code}, {verdict.saving(finding)}): "
    yield f"   {markdown_cell(finding.summary)}"
    if finding.how:
        yield ""
        yield f"   ```python\n   {printable(finding.how)}\n   ```"
    proved = verdict.proof(finding)
    if proved:
        yield f"   {markdown_cell(proved)}"
    yield ""


def _parts(analysis: Analysis) -> Iterator[str]:
    """The parts of the step, the largest first."""
    total = sum(analysis.time_s[part] or 0.0 for part in PARTS)
    yield "| part | time | share |"
    yield "|---|---:|---:|"
    for part in sorted(PARTS, key=lambda p: -(analysis.time_s[p] or 0.0)):
        seconds = analysis.time_s[part] or 0.0
        if seconds:
            yield f"| {part} | {format_time(seconds)} | {format_fraction(seconds / total)} |"


def _operators(analysis: Analysis, top: int) -> Iterator[str]:
    yield "| # | operator | shapes | calls | time | share | bound | of roof | to gain |"
    yield "|---:|---|---|---:|---:|---:|---|---:|---:|"
    on_device = uses_device(analysis)
    ranked = by_possible_gain(analysis.ops)
    for op in ranked[:top]:
        names = (markdown_cell(op.name), markdown_cell(op.shapes) if op.shapes else UNKNOWN)
        time = format_time(op.device_s if on_device else op.self_s)
        bound = f"{op.bound} ({op.limiter})" if op.limiter else op.bound
        gain = (format_fraction(op.roof_fraction, 0), format_time(op.recoverable_s))
        figures = (calls_text(op.calls), time, format_fraction(op.share_fraction), bound, *gain)
        yield f"| {op.index} | {' | '.join((*names, *figures))} |"
    if len(analysis.ops) > top:
        share = format_fraction(sum(op.share_fraction for op in ranked[top:]))
        yield f"| | {len(analysis.ops) - top} more | | | | {share} | | | |"


def _kernels(analysis: Analysis, top: int = 10) -> Iterator[str]:
    yield "| kernel | launched by | calls | device |"
    yield "|---|---|---:|---:|"
    for name, calls, seconds, owner in kernel_totals(analysis.ops)[:top]:
        cells = (markdown_cell(kernel_name(name)), markdown_cell(owner), calls_text(calls), format_time(seconds))
        yield f"| {' | '.join(cells)} |"
