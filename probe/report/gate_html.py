"""What a gate found, as one self-contained page: verdict, every session's ratio, what was compared, what caused it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from probe.report.gate import change, is_nothing, is_operator, numbers, signed, words
from probe.report.html import PAGE_STYLE, STYLE
from probe.report.text import printable
from probe.results.gate_result import Cause, GateResult, Metric

COLOURS = {"pass": "#009e73", "fail": "#d55e00", "inconclusive": "#e69f00"}
SIGNS = {"pass": "✓", "fail": "✗", "inconclusive": "?"}
NUMBERS = frozenset({"base", "new", "change", "95 %", "limit", "adds", "share"})  # titles of columns
WIDTH, ROW, LEFT, RIGHT = 1000, 22, 90, 30


def as_html(result: GateResult) -> str:
    """The page; every name escaped, no script, no request."""
    body = "".join(_blocks(result))
    style = f"{PAGE_STYLE}{STYLE}"
    head = f'<meta charset="utf-8"><title>probe gate: {result.verdict}</title><style>{style}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body><main class="probe">{body}</main></body></html>\n'


def _blocks(result: GateResult) -> Iterator[str]:
    where = f"{result.base.name} → {result.new.name} · {result.sessions} sessions on {result.new.device or '?'}"
    yield f"<h1>{_text(where)}</h1>"
    colour = COLOURS[result.verdict]
    yield f'<p class="verdict"><span style="color:{colour}">{result.verdict}</span> {_text(result.summary)}</p>'
    ratios = session_ratios(result)
    if len(ratios) > 1:
        yield "<h2>Each session: the median over pairs of blocks, new by base</h2>"
        yield _sessions(ratios, next(m for m in result.metrics if m.name.startswith("step ")))
    yield "<h2>What was compared</h2>"
    yield _metrics([m for m in result.metrics if not is_nothing(m) and (not is_operator(m) or m.verdict != "pass")])
    if result.causes:
        yield "<h2>What the difference is made of</h2>"
        yield _causes(result)
    if operators := [m for m in result.metrics if is_operator(m) and m.verdict == "pass"]:
        yield f"<details><summary>{len(operators)} other operators</summary>{_metrics(operators)}</details>"
    yield from (f'<p class="warning">! {_text(warning)}</p>' for warning in result.warnings)


def session_ratios(result: GateResult) -> list[float]:
    """The statistic of each session, from the blocks that the result holds."""
    pairs = zip(result.samples.get("base_s", []), result.samples.get("new_s", []), strict=True)
    return [math.exp(statistics.median(math.log(n / b) for b, n in zip(*pair, strict=True))) for pair in pairs]


def _sessions(ratios: Sequence[float], step: Metric) -> str:
    """A dot a session, and the mean with its interval below."""
    low, high = step.interval or (min(ratios), max(ratios))
    ends = (min(*ratios, low, 1.0), max(*ratios, high, 1.0))
    room = max((ends[1] - ends[0]) * 0.06, 0.002)
    axis = _Axis(ends[0] - room, ends[1] + room)
    bottom = ROW * (len(ratios) + 1)
    limits = [(1.0, "equal", "end")]
    if step.threshold_fraction is not None and 1 + step.threshold_fraction < axis.last:
        limits.append((1 + step.threshold_fraction, f"{step.threshold_fraction:+.0%}", "start"))
    parts = [_line(axis.x(ratio), label, anchor, bottom) for ratio, label, anchor in limits]
    for number, ratio in enumerate(ratios):
        parts += _row(f"session {number + 1}", ROW * (number + 0.5), axis.x(ratio), "#0072b2", change(ratio))
    y = ROW * (len(ratios) + 0.5)
    colour = COLOURS[step.verdict]
    width = axis.x(high) - axis.x(low)
    place = f'x="{axis.x(low):.1f}" y="{y - 4}" width="{width:.1f}" height="8"'
    parts.append(f'<rect {place} rx="4" fill="{colour}" opacity=".35"/>')
    parts += _row("all", y, axis.x(step.ratio or 1.0), colour, change(step.ratio))
    box = f"0 0 {WIDTH} {bottom + ROW + 8}"
    return f'<svg viewBox="{box}" role="img" aria-label="Ratios of the sessions" font-size="12">{"".join(parts)}</svg>'


@dataclass(frozen=True)
class _Axis:
    """Ratios from `first` to `last`, over the width that the names leave."""

    first: float
    last: float

    def x(self, ratio: float) -> float:
        """Where a ratio lies."""
        return LEFT + (ratio - self.first) / (self.last - self.first) * (WIDTH - LEFT - RIGHT)


def _row(name: str, y: float, x: float, colour: str, said: str) -> list[str]:
    return [
        f'<text x="0" y="{y + 4}" fill="currentColor">{name}</text>',
        f'<circle cx="{x:.1f}" cy="{y}" r="5" fill="{colour}"><title>{said}</title></circle>',
    ]


def _line(x: float, label: str, anchor: str, bottom: float) -> str:
    """A dashed line of a limit, with its name below."""
    place = f'x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{bottom}"'
    return (
        f'<line {place} stroke="currentColor" opacity=".4" stroke-dasharray="3 3"/>'
        f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="{anchor}" fill="currentColor" opacity=".7">{label}</text>'
    )


def _metrics(metrics: Sequence[Metric]) -> str:
    titles = ("", "per step", "base", "new", "change", "95 %", "limit", "why")
    return _table(titles, [_metric(m) for m in metrics])


def _metric(metric: Metric) -> list[str]:
    colour = COLOURS[metric.verdict]
    sign = f'<b style="color:{colour}">{SIGNS[metric.verdict]}</b>' if metric.gates else "·"
    return [sign, _text(words(metric)), *map(_text, numbers(metric)), _text(metric.reason or "")]


def _causes(result: GateResult) -> str:
    rows = [_cause(cause) for cause in result.causes]
    if result.unexplained_s is not None and result.delta_s:
        rows.append(
            ["", "not explained", signed(result.unexplained_s), _share(result.unexplained_s / result.delta_s), ""]
        )
        rows.append(["", "<b>the step</b>", signed(result.delta_s), "100 %", ""])
    return _table(("", "operator", "adds", "share", "why"), rows)


def _cause(cause: Cause) -> list[str]:
    share = "" if cause.share_fraction is None else _share(cause.share_fraction)
    return ["", _text(f"{cause.op} {cause.shapes or ''}".strip()), signed(cause.delta_s), share, _text(cause.reason)]


def _share(fraction: float) -> str:
    return f"{fraction * 100:.0f} %"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(_cell("th", title, title) for title in titles)
    body = "".join(f"<tr>{''.join(map(_cell, ['td'] * len(row), titles, row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _cell(tag: str, title: str, content: str) -> str:
    kind = ' class="n"' if title in NUMBERS else ' class="why"' if title == "why" else ""
    return f"<{tag}{kind}>{content}</{tag}>"


def _text(text: str) -> str:
    return escape(printable(text))
