"""The report as one self-contained page, and as a fragment for notebooks. Plain for now: no scripts, no requests."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from html import escape

from probe.analysis import PARTS, Analysis, Operator
from probe.findings import Finding
from probe.memory_use import Memory
from probe.multirank import CollectiveRow, Rank
from probe.report import memory, memory_svg, ranks_svg, verdict
from probe.report.analysis import by_possible_gain, calls_text, fact_lines, operator_name, roofs_met, uses_device
from probe.report.ranks import Column, collective_columns, footnotes, others, rank_columns, rank_notes, scaling_columns
from probe.report.roofline_svg import draw
from probe.report.text import printable
from probe.scaling import Scaling
from probe.units import UNKNOWN, format_fraction, format_time

# Colours told apart by people with the common colour-vision deficiencies (Okabe and Ito's palette).
COLOURS = {
    "compute": "#0072b2",
    "memory": "#e69f00",
    "latency": "#cc79a7",
    "overhead": "#f0e442",
    "communication": "#009e73",
    "host": "#d55e00",
    "idle": "#b8bcc4",
    "unknown": "#8a8f98",
}

PAGE_STYLE = "body{margin:0}@media (prefers-color-scheme:dark){body{background:#14171b}}"
STYLE = """
.probe{--ink:#1b1f24;--soft:#5b6470;--line:#e3e6ea;--card:#f7f8fa;--paper:#fff;color:var(--ink);background:var(--paper);
font:15px/1.5 system-ui,sans-serif;max-width:1120px;margin:0 auto;padding:24px}
@media (prefers-color-scheme:dark){.probe{--ink:#e6e8eb;--soft:#9aa4b0;--line:#30363d;--card:#1c2128;--paper:#14171b}}
.probe h1{font-size:15px;font-weight:600;color:var(--soft);margin:0 0 4px;overflow-wrap:anywhere}
.probe .verdict{font-size:22px;line-height:1.35;font-weight:600;margin:0 0 20px}
.probe h2{font-size:13px;letter-spacing:.06em;text-transform:uppercase;color:var(--soft);margin:28px 0 10px}
.probe .fix{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 16px;margin:0 0 10px}
.probe .fix header{display:flex;justify-content:space-between;gap:16px;font-weight:600}
.probe .fix p{margin:4px 0 8px;color:var(--soft)} .probe code{font:13px ui-monospace,monospace;overflow-wrap:anywhere}
.probe .fix code{display:block;background:var(--paper);border:1px solid var(--line);border-radius:6px;padding:6px 10px}
.probe .bar{display:flex;height:26px;border-radius:6px;overflow:hidden} .probe .bar div{min-width:2px}
.probe ul{list-style:none;display:flex;flex-wrap:wrap;gap:4px 18px;padding:0;margin:10px 0 0;color:var(--soft)}
.probe li i{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:6px}
.probe .scroll{overflow-x:auto} .probe table{border-collapse:collapse;width:100%;font-size:13px}
.probe th{text-align:left;color:var(--soft);font-weight:500} .probe th,.probe td{padding:5px 8px;white-space:nowrap}
.probe td{border-top:1px solid var(--line)} .probe .n{text-align:right;font-variant-numeric:tabular-nums}
.probe td.why{white-space:normal;min-width:240px;font-size:12px;color:var(--soft)}
.probe td{vertical-align:top} .probe td.shape{max-width:180px;overflow:hidden;text-overflow:ellipsis;color:var(--soft)}
.probe dl{display:grid;grid-template-columns:auto 1fr;gap:2px 16px;color:var(--soft);margin:0}
.probe dt{font-weight:600}
.probe dd{margin:0} .probe .warning{color:var(--soft);margin:2px 0} .probe svg{max-width:100%;height:auto}
"""
# Only where there are ranks, collectives or jobs to show.
MANY_STYLE = """
.probe .ranks{font-size:17px;line-height:1.45;margin:-10px 0 20px}
.probe .note{color:var(--soft);font-size:12px;margin:4px 0}
.probe .tall{max-height:430px;overflow:auto;color-scheme:light dark}
.probe .tall th{position:sticky;top:0;background:var(--paper)}
.probe .narrow table{width:auto;min-width:50%} .probe tr.late td{font-weight:600;color:#d55e00}
.probe ul+svg{margin-top:14px} .probe svg+.scroll{margin-top:14px}
"""


def render(analysis: Analysis, top: int = 20) -> str:
    """A whole page that opens from disk with no network."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>probe: {_text(analysis.source.path)}</title><style>{PAGE_STYLE}{_style(analysis)}</style></head>"
        f"<body>{_body(analysis, top)}</body></html>\n"
    )


def fragment(analysis: Analysis, top: int = 20) -> str:
    """The report for a notebook's output cell."""
    return f"<style>{_style(analysis)}</style>{_body(analysis, top)}"


def _style(analysis: Analysis) -> str:
    many = len(analysis.ranks) > 1 or analysis.collectives or analysis.scaling is not None
    return STYLE + MANY_STYLE if many else STYLE


def _body(analysis: Analysis, top: int) -> str:
    return f'<main class="probe">{"".join(_sections(analysis, top))}</main>'


def _sections(analysis: Analysis, top: int) -> Iterator[str]:
    source = analysis.source
    many = f"{source.ranks} ranks" if source.ranks > 1 else None
    where = " · ".join(x for x in (source.path, many, source.device, source.torch and f"torch {source.torch}") if x)
    yield f'<h1>{_text(where)}</h1><p class="verdict">{_text(verdict.sentence(analysis))}</p>'
    said = verdict.of_ranks(analysis)
    if said:
        yield f'<p class="ranks">{_text(said)}</p>'
    if analysis.findings:
        yield "<h2>What to change first</h2>" + "".join(_fix(f) for f in verdict.first(analysis.findings))
    yield "<h2>Where the step goes</h2>" + _parts(analysis)
    if len(analysis.ranks) > 1:
        yield "<h2>Ranks</h2>" + _ranks(analysis.ranks, {s.rank for s in analysis.stragglers})
    if analysis.collectives:
        yield "<h2>Collectives, most time first</h2>" + _collectives(analysis.collectives, top)
    if analysis.scaling is not None:
        yield "<h2>Scaling</h2>" + _scaling(analysis.scaling)
    if analysis.memory is not None:
        yield "<h2>Memory</h2>" + _memory(analysis.memory, top)
    if analysis.ceilings is not None:
        drawing = draw(roofs_met(analysis, analysis.ceilings), analysis.ops, COLOURS)
        yield f"<h2>Roofline</h2>{drawing}" if drawing else ""
    yield "<h2>Operators, most time to gain first</h2>" + _operators(analysis, top)
    facts = "".join(f"<dt>{_text(label)}</dt><dd>{_text(text)}</dd>" for label, text in fact_lines(analysis))
    yield f"<h2>What the figures stand on</h2><dl>{facts}</dl>"
    notes = [*(f"quality: {r}" for r in analysis.quality.reasons), *analysis.warnings]
    yield "".join(f'<p class="warning">! {_text(note)}</p>' for note in notes)


def _text(text: str) -> str:
    return escape(printable(text))


def _fix(finding: Finding) -> str:
    how = f"<code>{_text(finding.how)}</code>" if finding.how else ""
    proved = verdict.proof(finding)
    proof = f"<p>✓ {_text(proved)}</p>" if proved else ""
    return (
        f'<section class="fix"><header><span>{_text(finding.title)} · {_text(finding.code)}</span>'
        f"<span>{_text(verdict.saving(finding))}</span></header><p>{_text(finding.summary)}</p>{how}{proof}</section>"
    )


def _parts(analysis: Analysis) -> str:
    total = sum(analysis.time_s[part] or 0.0 for part in PARTS)
    if total <= 0:
        return "<p>No time was recorded.</p>"
    shares = {part: (analysis.time_s[part] or 0.0) / total for part in PARTS}
    bar = "".join(
        f'<div style="flex:{share:.4f};background:{COLOURS[part]}" title="{part} {format_fraction(share)}"></div>'
        for part, share in shares.items()
        if share > 0
    )
    legend = "".join(
        f'<li><i style="background:{COLOURS[part]}"></i>{part} {format_time(analysis.time_s[part])} '
        f"({format_fraction(share)})</li>"
        for part, share in sorted(shares.items(), key=lambda item: -item[1])
        if share > 0
    )
    return f'<div class="bar">{bar}</div><ul>{legend}</ul>'


def _ranks(ranks: Sequence[Rank], late: Collection[int]) -> str:
    """The picture with its legend, and a row a rank."""
    drawing = ranks_svg.draw_ranks(ranks, late)
    legend = "".join(f'<li><i style="background:{colour}"></i>{text}</li>' for colour, text in ranks_svg.LEGEND)
    picture = f"<ul>{legend}</ul>{drawing}" if drawing else ""
    note = "".join(f'<p class="note">{_text(text)}</p>' for text in rank_notes(ranks))
    return picture + _table(rank_columns(ranks), "scroll tall", [rank.rank in late for rank in ranks]) + note


def _collectives(rows: Sequence[CollectiveRow], top: int) -> str:
    shown = rows[:top]
    rest = [others(rows[top:])] if len(rows) > top else []
    notes = "".join(f'<p class="note">{_text(note)}</p>' for note in (*rest, *footnotes(shown)))
    return _table(collective_columns(shown), "scroll") + notes


def _memory(found: Memory, top: int) -> str:
    """The peak, the picture over time, who held it and what would lower it."""
    tables = [memory.holder_columns(found, top)] if found.holders else []
    tables += [memory.forecast_columns(found, top)] if found.forecast else []
    notes = "".join(f'<p class="warning">! {_text(note)}</p>' for note in found.notes)
    said = f"<p>{_text(memory.sentence(found))}</p>"
    return said + memory_svg.draw(found) + "".join(_table(columns, "scroll") for columns in tables) + notes


def _scaling(scaling: Scaling) -> str:
    note = f'<p class="note">{_text(scaling.assumption)}</p>'
    return ranks_svg.draw_scaling(scaling) + _table(scaling_columns(scaling), "scroll narrow") + note


def _table(columns: Sequence[Column], kind: str, late: Sequence[bool] | None = None) -> str:
    """Columns of text as a table; the rows of late ranks stand out."""
    css = [" class=n" if column.numeric else "" for column in columns]
    head = "".join(f"<th{c}>{_text(column.title)}</th>" for column, c in zip(columns, css, strict=True))
    body = ""
    for place, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
        row = "".join(f"<td{c}>{_text(cell)}</td>" for cell, c in zip(cells, css, strict=True))
        body += f"<tr class=late>{row}</tr>" if late and late[place] else f"<tr>{row}</tr>"
    return f'<div class="{kind}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _operators(analysis: Analysis, top: int) -> str:
    time = "device" if uses_device(analysis) else "time"
    head = "".join(
        f"<th{' class=n' if numeric else ''}>{label}</th>"
        for label, numeric in (
            ("#", True), ("operator", False), ("shapes", False), ("calls", True), (time, True), ("share", True),
            ("bound", False), ("of roof", True), ("to gain", True), ("evidence", False),
        )
    )  # fmt: skip
    rows = "".join(_row(op, time == "device") for op in by_possible_gain(analysis.ops)[:top])
    more = len(analysis.ops) - top
    foot = f'<tr><td></td><td colspan="9">{more} more</td></tr>' if more > 0 else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}{foot}</tbody></table></div>'


def _row(op: Operator, on_device: bool) -> str:
    shapes = _text(op.shapes or UNKNOWN)
    numbers = (format_time(op.device_s if on_device else op.self_s), format_fraction(op.share_fraction))
    gains = (format_fraction(op.roof_fraction, 0), format_time(op.recoverable_s))
    return (
        f'<tr><td class="n">{op.index}</td><td>{_text(operator_name(op.name))}</td>'
        f'<td class="shape" title="{shapes}">{shapes}</td><td class="n">{calls_text(op.calls)}</td>'
        + "".join(f'<td class="n">{n}</td>' for n in numbers)
        + f"<td>{_text(op.bound)}{_text(f' ({op.limiter})') if op.limiter else ''}</td>"
        + "".join(f'<td class="n">{n}</td>' for n in gains)
        + f'<td class="why">{_text("; ".join(op.evidence))}</td></tr>'
    )
