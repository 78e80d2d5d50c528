"""What do the figures stand on: the machine, the versions, what was recorded and what was not, the ceilings used?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dash import html
from dash.development.base_component import Component

from probe.dashboard.pieces import card, pairs, table, text
from probe.dashboard.readings import amount, words
from probe.dashboard.view import View
from probe.machine.device import Ceilings
from probe.report.analysis import fact_lines
from probe.report.ranks import Column
from probe.results.analysis import Analysis
from probe.results.telemetry import TelemetryUse
from probe.units import UNKNOWN, format_bytes, format_bytes_per_s, format_flops_per_s, format_time


def render(view: View) -> Component:
    """Facts on the left, ceilings on the right, then telemetry and everything the run wrote of its surroundings."""
    analysis = view.analysis
    assert view.loaded is not None
    left = [
        card("What the figures stand on", pairs(list(fact_lines(analysis)))),
        *_missing(analysis),
        _source(analysis),
    ]
    right = [*_ceilings(analysis.ceilings), *_written(view.loaded.environment)]
    notes = [*analysis.quality.reasons, *analysis.warnings]
    tail = [card("Notes", html.Ul([html.Li(text(note, 600)) for note in notes]))] if notes else []
    return html.Div(
        [html.Div([html.Div(left), html.Div(right)], className="two"), *_telemetry(analysis.telemetry), *tail],
        className="page",
    )


def _source(analysis: Analysis) -> Component:
    source = analysis.source
    rows = [
        ("File", source.path),
        ("Kind", source.kind),
        ("Device", source.device or UNKNOWN),
        ("Ranks", str(source.ranks)),
        ("torch", source.torch or UNKNOWN),
        ("Events read", f"{analysis.quality.included:,}"),
        ("Left out", f"{analysis.quality.excluded:,}"),
        *((f"Tag {key}", value) for key, value in source.tags.items()),
    ]
    return card("Source", pairs([(text(label, 60), value) for label, value in rows]))


def _missing(analysis: Analysis) -> Iterator[Component]:
    if analysis.not_recorded:
        items = html.Ul([html.Li(text(one)) for one in analysis.not_recorded])
        yield card("Not recorded", items, note="with the option that records it")


def _ceilings(ceilings: Ceilings | None) -> Iterator[Component]:
    if ceilings is None:
        return
    rows = [
        ("Device", ceilings.device),
        ("Origin", ceilings.origin),
        ("Measured", ceilings.measured_at or UNKNOWN),
        ("DRAM", format_bytes_per_s(ceilings.dram_bytes_per_s)),
        ("Launch", format_time(ceilings.launch_s)),
    ]
    rows += [(dtype, format_flops_per_s(rate)) for dtype, rate in ceilings.flops_per_s.items()]
    for name, level in ceilings.levels.items():
        told = (
            format_bytes(level.capacity_bytes) if level.capacity_bytes else "",
            format_bytes_per_s(level.bytes_per_s),
            format_time(level.latency_s),
        )
        rows.append((name, " · ".join(part for part in told if part and part != UNKNOWN)))
    yield card("Ceilings", pairs(rows))


def _written(environment: dict[str, Any]) -> Iterator[Component]:
    """What the run wrote, nested values in one line."""
    rows = [(key.replace("_", " "), _plain(value)) for key, value in environment.items() if value not in (None, "", {})]
    if rows:
        yield card("As the run wrote it", pairs([(text(key, 60), value) for key, value in rows]))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(_plain(one) for one in value)
    return str(value)


def _telemetry(use: TelemetryUse | None) -> Iterator[Component]:
    if use is None:
        return
    rows = use.quantities
    columns = (
        Column("Quantity", tuple(words(q.name) for q in rows), False),
        Column("Of", tuple(q.entity for q in rows), False),
        Column("Steps", tuple(q.window for q in rows), False),
        Column("Mean", tuple(amount(q.name, q.mean) for q in rows)),
        Column("Low", tuple(amount(q.name, q.low) for q in rows)),
        Column("High", tuple(amount(q.name, q.high) for q in rows)),
        Column("n", tuple(str(q.n) for q in rows)),
    )
    said = [html.P(text(judgement.says)) for judgement in use.judgements]
    yield card("Telemetry", *said, table(columns), note="sampled beside the run")
