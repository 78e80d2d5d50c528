"""A comparison as Markdown, for pull requests: the sentence, the tables, what is long folded away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from probe.report.compare_words import (
    SAME,
    changed,
    difference,
    left_over,
    noise,
    parts_of_step,
    row_speed,
    sentence,
    step_line,
    suites,
    value,
)
from probe.report.text import markdown_cell
from probe.results.comparison import Comparison, Row
from probe.units import UNKNOWN, format_time

TOP = 10
MARKS = {"faster": "🟢", "slower": "🔴", SAME: "⚪"}


def render(found: Comparison, top: int = TOP) -> str:
    """The whole report; `top` rows are shown, the other changes folded."""
    return "\n".join(_lines(found, top)) + "\n"


def _lines(found: Comparison, top: int) -> Iterator[str]:
    yield f"### {MARKS[found.verdict]} {markdown_cell(sentence(found))}"
    yield ""
    if said := step_line(found):
        yield from (markdown_cell(said), "")
    yield from _table(("", "BASE", "NEW"), _heads(found), "---", "---")
    yield ""
    yield from _parts(found)
    yield from _suites(found)
    yield from _rows(found, top)
    if found.warnings:
        yield from ("<details><summary>notes</summary>", "")
        yield from (f"- {markdown_cell(warning)}" for warning in found.warnings)
        yield from ("", "</details>")


def _heads(found: Comparison) -> Iterator[tuple[str, ...]]:
    """What is compared, and what else differs."""
    base, new = found.sides.base, found.sides.new
    yield "source", markdown_cell(base.path), markdown_cell(new.path)
    if not any(change.what == "device" for change in found.changes):
        yield "device", markdown_cell(base.device or UNKNOWN), markdown_cell(new.device or UNKNOWN)
    for change in found.changes:
        yield f"**{markdown_cell(change.what)}**", markdown_cell(change.base), markdown_cell(change.new)


def _table(titles: Sequence[str], rows: Iterator[tuple[str, ...]], *align: str) -> Iterator[str]:
    """A table; the columns behind those of `align` hold numbers."""
    yield f"| {' | '.join(titles)} |"
    yield f"|---|{'|'.join([*align, *['---:'] * (len(titles) - 1 - len(align))])}|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _parts(found: Comparison) -> Iterator[str]:
    named = parts_of_step(found)
    if named:
        cells = ((n, format_time(p.base_s), format_time(p.new_s), difference(p.delta_s)) for n, p in named)
        yield from _table(("part of the step", "base", "new", "difference"), cells)
        yield ""


def _suites(found: Comparison) -> Iterator[str]:
    named = suites(found)
    if named:
        cells = (
            (markdown_cell(n), *(str(c) for c in (s.faster, s.slower, s.noise, s.new, s.gone)),
             *_speed(s.ratio, s.interval, s.verdict), noise(s))
            for n, s in named
        )  # fmt: skip
        yield from _table(("suite", "faster", "slower", SAME, "new", "gone", "speed", "interval", "noise"), cells)
        yield ""


def _speed(ratio: float | None, interval: tuple[float, float] | None, verdict: str) -> tuple[str, str]:
    """Speed and interval; what changed in bold."""
    said, ends = row_speed(ratio, interval, verdict)
    return (f"**{said}**" if verdict in ("faster", "slower") else said), ends


def _rows(found: Comparison, top: int) -> Iterator[str]:
    """The first changes, then the others folded, then how many are noise."""
    rows = changed(found)
    if rows:
        yield from (*_changed(found, rows[:top]), "")
    if rows[top:]:
        yield from (f"<details><summary>{len(rows) - top} more that changed</summary>", "")
        yield from (*_changed(found, rows[top:]), "", "</details>", "")
    for line in left_over(found, rows):
        yield from (markdown_cell(line), "")


def _changed(found: Comparison, rows: Sequence[Row]) -> Iterator[str]:
    if found.kind == "microbench":
        cells = (
            (markdown_cell(r.name), value(r, r.base), value(r, r.new), *_speed(r.ratio, r.interval, r.verdict))
            for r in rows
        )
        yield from _table(("benchmark", "base", "new", "speed", "interval"), cells)
        return
    operators = (
        (markdown_cell(r.name), markdown_cell(r.shapes) if r.shapes else UNKNOWN, value(r, r.base), value(r, r.new),
         difference(r.delta), *_speed(r.ratio, r.interval, r.verdict))
        for r in rows
    )  # fmt: skip
    yield from _table(("operator", "shapes", "base", "new", "difference", "speed", "interval"), operators, "---")
