"""A comparison in a notebook: the sentence and the rows as one HTML fragment."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from probe.report.compare_words import SAME, difference, left_over, row_speed, sentence, step_line, value
from probe.report.text import printable
from probe.results.comparison import Comparison, Row
from probe.units import UNKNOWN

COLOURS = {"faster": "#1a7f37", "slower": "#cf222e", SAME: "#6e7781", "new": "#cf222e", "gone": "#1a7f37"}
TOP = 20
TITLES = ("", "shapes", "base", "new", "difference", "speed", "interval")


def fragment(found: Comparison, top: int = TOP) -> str:
    """Sentence, what else changed, the first rows and the warnings; every name escaped."""
    return f"<div>{''.join(_blocks(found, top))}</div>"


def _blocks(found: Comparison, top: int) -> Iterator[str]:
    yield f"<p><b style='color:{COLOURS[found.verdict]}'>{_text(sentence(found))}</b> {_text(step_line(found))}</p>"
    if found.changes:
        told = "; ".join(f"{c.what}: {c.base} → {c.new}" for c in found.changes)
        yield f"<p>What else changed: {_text(told)}</p>"
    chosen = [row for row in found.rows if found.kind == "run" or row.verdict != SAME][:top]
    if chosen:
        titles = "".join(
            f"<th>{title}</th>" for title in ("", "shapes", "base", "new", "difference", "speed", "interval")
        )
        yield f"<table><tr>{titles}</tr>{''.join(map(_row, chosen))}</table>"
    yield from (f"<p>{_text(line)}</p>" for line in left_over(found, chosen))
    yield from (f"<p>! {_text(warning)}</p>" for warning in found.warnings)


def _row(row: Row) -> str:
    said, ends = row_speed(row.ratio, row.interval, row.verdict)
    change = difference(row.delta) if row.unit == "s" else UNKNOWN
    cells = (row.name, row.shapes or UNKNOWN, value(row, row.base), value(row, row.new), change, said, ends)
    body = "".join(f"<td>{_text(cell)}</td>" for cell in cells)
    return f"<tr style='color:{COLOURS[row.verdict]}'>{body}</tr>"


def _text(text: str) -> str:
    return escape(printable(text))
