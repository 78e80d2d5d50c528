"""The report as one self-contained page that opens from disk and asks for nothing, and the same for a notebook.

Everything stands on it as text, tables and still pictures; a script of its own (assets/report.js) puts a roofline, a
table of operators and a timeline that people can zoom, sort and search in the place of the still ones.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path

from probe.report import html_findings, html_timeline, verdict
from probe.report import html_tables as tables
from probe.report.analysis import fact_lines
from probe.report.html_data import payload
from probe.report.html_tables import text
from probe.report.html_timeline import Strip
from probe.report.roofline import svg
from probe.report.roofline.plane import roofs_met
from probe.report.timeline.index import Index
from probe.results.analysis import Analysis

ASSETS = Path(__file__).parent / "assets"
LARGEST_PAGE_BYTES, LARGEST_CELL_BYTES = 1_500_000, 500_000  # of a page; of the output of a notebook's cell
COLOURS = {name: f"var(--{name})" for name in html_timeline.CODES}
LONGEST_NOTE = 1000  # characters

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


def render(analysis: Analysis, top: int = 20, timeline: Index | None = None, notes: tuple[str, ...] = ()) -> str:
    """A whole page that opens from disk with no network. `notes`: what else to say of it, such as of the timeline."""
    strip = html_timeline.strip(timeline) if timeline is not None else None
    script = _asset("report.js")
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{_hash(script)}'"
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>probe: {text(analysis.source.path)}</title><style>{PAGE_STYLE}{_style(analysis)}</style></head><body>"
    )
    still = body(analysis, top, strip, notes)
    room = LARGEST_PAGE_BYTES - len((head + still + script).encode()) - 200
    return f"{head}{_alive(still, payload(analysis, top, strip, room, page=True), script)}</body></html>\n"


def fragment(analysis: Analysis, top: int = 20) -> str:
    """The report for a notebook's output cell, without a timeline; where scripts are not run it is still whole."""
    still, script, style = body(analysis, top), _asset("report.js"), _style(analysis)
    room = LARGEST_CELL_BYTES - len((still + script + style).encode())
    return f"<style>{style}</style>{_alive(still, payload(analysis, top, None, room, page=False), script)}"


def _alive(still: str, data: str, script: str) -> str:
    """The still page with the data and the script that make it move."""
    return (
        f'<main class="probe report">{still}<script type="application/json">{data}</script></main>'
        f"<script>{script}</script>"
    )


@cache
def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """What a browser compares an inline script with."""
    return b64encode(sha256(script.encode()).digest()).decode()


def _style(analysis: Analysis) -> str:
    many = len(analysis.ranks) > 1 or analysis.collectives or analysis.scaling is not None
    return STYLE + (MANY_STYLE if many else "") + _asset("report.css")


def body(analysis: Analysis, top: int = 20, strip: Strip | None = None, notes: tuple[str, ...] = ()) -> str:
    """Everything that stands on the page, without a script."""
    return "".join(
        (*_overview(analysis), *_scale(analysis, top), _work(analysis, top, strip), *_facts(analysis, notes))
    )


def _overview(analysis: Analysis) -> Iterator[str]:
    """The verdict, the figures, what to change first, where the step goes."""
    source = analysis.source
    many = f"{source.ranks} ranks" if source.ranks > 1 else None
    where = " · ".join(x for x in (source.path, many, source.device, source.torch and f"torch {source.torch}") if x)
    button = '<button type="button" class="theme" hidden>Theme</button>'
    yield f"<header><h1>{text(where)}</h1>{button}</header>"
    yield f'<p class="verdict">{text(verdict.sentence(analysis))}</p>'
    said = verdict.of_ranks(analysis)
    if said:
        yield f'<p class="ranks">{text(said)}</p>'
    yield tables.figures(analysis) + html_findings.draw(analysis)
    yield "<h2>Where the step goes</h2>" + tables.parts(analysis.time_s, analysis.time_interval_s)


def _scale(analysis: Analysis, top: int) -> Iterator[str]:
    """Ranks, collectives, scaling and memory, where there are any."""
    if len(analysis.ranks) > 1:
        yield "<h2>Ranks</h2>" + tables.ranks(analysis.ranks, {s.rank for s in analysis.stragglers})
    if analysis.collectives:
        yield "<h2>Collectives, most time first</h2>" + tables.collectives(analysis.collectives, top)
    if analysis.scaling is not None:
        yield "<h2>Scaling</h2>" + tables.scaling(analysis.scaling)
    if analysis.memory is not None:
        yield "<h2>Memory</h2>" + tables.memory_of(analysis.memory, top)


def _work(analysis: Analysis, top: int, strip: Strip | None) -> str:
    """Roofline, operators and timeline; the card of what is chosen stands beside them where the script runs."""
    parts = []
    if analysis.ceilings is not None:
        drawing = svg.draw(roofs_met(analysis, analysis.ceilings), analysis.ops, COLOURS)
        parts += [f'<h2>Roofline</h2><div class="roofline">{drawing}</div>'] if drawing else []
    table = tables.operators(analysis, top)
    parts.append(f'<h2>Operators, most time to gain first</h2><div class="operators">{table}</div>')
    if strip is not None:
        drawing = html_timeline.draw(strip, COLOURS)
        note = text(html_timeline.note(strip))
        parts.append(f'<h2>Timeline</h2><div class="timeline">{drawing}</div><p class="note">{note}</p>')
    card = '<div class="aside"><section class="opcard" aria-live="polite" hidden></section></div>'
    return f'<div class="work"><div class="views">{"".join(parts)}</div>{card}</div>'


def _facts(analysis: Analysis, more: tuple[str, ...]) -> Iterator[str]:
    facts = "".join(
        f"<dt>{text(label)}</dt><dd>{text(said, LONGEST_NOTE)}</dd>" for label, said in fact_lines(analysis)
    )
    yield f"<h2>What the figures stand on</h2><dl>{facts}</dl>"
    notes = [*(f"quality: {r}" for r in analysis.quality.reasons), *analysis.warnings, *more]
    yield "".join(f'<p class="warning">! {text(note, LONGEST_NOTE)}</p>' for note in notes)
