"""The report as Markdown, for pull requests and CI summaries."""

from __future__ import annotations

from collections.abc import Iterator

from probe.analysis import Analysis
from probe.report.analysis import calls_text, fact_lines, kernel_totals, uses_device
from probe.report.text import kernel_name, markdown_cell
from probe.units import UNKNOWN, format_fraction, format_time


def render(analysis: Analysis, top: int = 20) -> str:
    """The whole report; `top` operators are listed."""
    return "\n".join(_lines(analysis, top)) + "\n"


def _lines(analysis: Analysis, top: int) -> Iterator[str]:
    source = analysis.source
    yield f"# probe: {markdown_cell(source.path)}"
    yield ""
    yield f"{markdown_cell(source.device or 'unknown device')}, torch {markdown_cell(source.torch or UNKNOWN)}"
    yield ""
    for label, text in fact_lines(analysis):
        yield f"- **{label}**: {markdown_cell(text)}"
    yield ""
    yield from _operators(analysis, top)
    if uses_device(analysis):
        yield ""
        yield from _kernels(analysis)
    notes = [*(f"left out: {r}" for r in analysis.quality.reasons), *analysis.warnings]
    if notes:
        yield ""
        yield from (f"> {markdown_cell(note)}  " for note in notes)


def _operators(analysis: Analysis, top: int) -> Iterator[str]:
    yield "| operator | shapes | dtypes | calls | host | device | share |"
    yield "|---|---|---|---:|---:|---:|---:|"
    for op in analysis.ops[:top]:
        names = (markdown_cell(text) if text else UNKNOWN for text in (op.name, op.shapes, op.dtypes))
        device = format_time(op.device_s) if op.device_s else UNKNOWN
        figures = (calls_text(op.calls), format_time(op.self_s), device, format_fraction(op.share_fraction))
        yield f"| {' | '.join((*names, *figures))} |"
    if len(analysis.ops) > top:
        share = format_fraction(sum(op.share_fraction for op in analysis.ops[top:]))
        yield f"| {len(analysis.ops) - top} more | | | | | | {share} |"


def _kernels(analysis: Analysis, top: int = 10) -> Iterator[str]:
    yield "| kernel | launched by | calls | device |"
    yield "|---|---|---:|---:|"
    for name, calls, seconds, owner in kernel_totals(analysis.ops)[:top]:
        cells = (markdown_cell(kernel_name(name)), markdown_cell(owner), calls_text(calls), format_time(seconds))
        yield f"| {' | '.join(cells)} |"
