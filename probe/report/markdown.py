"""The report as Markdown, for pull requests and CI summaries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from probe.report import memory, verdict
from probe.report.analysis import by_possible_gain, calls_text, fact_lines, kernel_totals, uses_device
from probe.report.ranks import Column, collective_columns, footnotes, others, rank_columns, rank_notes, scaling_columns
from probe.report.text import kernel_name, markdown_cell, printable
from probe.results.analysis import PARTS, Analysis
from probe.results.findings import Finding
from probe.units import UNKNOWN, format_bytes, format_fraction, format_time

FOLDED = 64  # ranks from which their table is folded


def render(analysis: Analysis, top: int = 20) -> str:
    """The whole report; `top` operators are listed."""
    return "\n".join(_lines(analysis, top)) + "\n"


def _lines(analysis: Analysis, top: int) -> Iterator[str]:
    source = analysis.source
    yield f"# probe: {markdown_cell(source.path)}"
    yield ""
    yield f"**{markdown_cell(verdict.sentence(analysis))}**"
    yield ""
    said = verdict.of_ranks(analysis)
    if said:
        yield from (markdown_cell(said), "")
    many = f"{source.ranks} ranks, " if source.ranks > 1 else ""
    yield f"{many}{markdown_cell(source.device or 'unknown device')}, torch {markdown_cell(source.torch or UNKNOWN)}"
    yield ""
    for number, finding in enumerate(verdict.first(analysis.findings), start=1):
        yield from _fix(number, finding)
    yield from _parts(analysis)
    yield ""
    yield from _many(analysis, top)
    yield from _memory(analysis, top)
    yield from _operators(analysis, top)
    if uses_device(analysis):
        yield ""
        yield from _kernels(analysis)
    yield ""
    for label, text in fact_lines(analysis):
        yield f"- **{label}**: {markdown_cell(text)}"
    notes = [*(f"quality: {r}" for r in analysis.quality.reasons), *analysis.warnings]
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


def _many(analysis: Analysis, top: int) -> Iterator[str]:
    """Ranks, collectives and jobs, each block followed by an empty line."""
    if len(analysis.ranks) > 1:
        yield from (*_ranks(analysis), "")
        yield from (*(f"{markdown_cell(note)}  " for note in rank_notes(analysis.ranks)), "")
    if analysis.collectives:
        shown, rest = analysis.collectives[:top], analysis.collectives[top:]
        yield from (*_table(collective_columns(shown)), "")
        notes = [*([others(rest)] if rest else []), *footnotes(shown)]
        yield from (*(f"{markdown_cell(note)}  " for note in notes), "")
    if analysis.scaling is not None:
        yield from (*_table(scaling_columns(analysis.scaling)), "")
        yield from (markdown_cell(analysis.scaling.assumption), "")


def _ranks(analysis: Analysis) -> Iterator[str]:
    """A row a rank; folded where they are many."""
    columns = rank_columns(analysis.ranks)
    late = {s.rank for s in analysis.stragglers}
    marked = [rank.rank in late for rank in analysis.ranks]
    if len(analysis.ranks) < FOLDED:
        yield from _table(columns, marked)
        return
    yield from (f"<details><summary>{len(analysis.ranks)} ranks</summary>", "")
    yield from _table(columns, marked)
    yield from ("", "</details>")


def _table(columns: Sequence[Column], bold: Sequence[bool] = ()) -> Iterator[str]:
    yield f"| {' | '.join(column.title for column in columns)} |"
    yield f"|{'|'.join('---:' if column.numeric else '---' for column in columns)}|"
    for place, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
        strong = "**" if bold and bold[place] else ""
        yield f"| {' | '.join(f'{strong}{markdown_cell(cell)}{strong}' for cell in cells)} |"


def _memory(analysis: Analysis, top: int) -> Iterator[str]:
    """The peak, who held it and what would lower it, followed by an empty line, where memory was recorded."""
    found = analysis.memory
    if found is None:
        return
    yield from (f"**Memory**: {markdown_cell(memory.sentence(found))}", "")
    if found.peak_bytes is not None:
        told = (f"{name} {format_bytes(size)} ({format_fraction(share)})" for name, size, share in memory.parts(found))
        yield from (" · ".join(told), "", *_table(memory.holder_columns(found, top)), "")
    if found.forecast:
        yield from (*_table(memory.forecast_columns(found, top)), "")


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
