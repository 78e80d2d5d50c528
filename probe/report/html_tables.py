"""The still parts of a report's page: the bar of parts, ranks, collectives, scaling, memory, operators."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape

from probe.report import memory, memory_svg, ranks_svg
from probe.report.analysis import by_possible_gain, calls_text, operator_name, uses_device
from probe.report.kpis import kpis
from probe.report.palette import LOOKS
from probe.report.ranks import Column, collective_columns, footnotes, others, rank_columns, rank_notes, scaling_columns
from probe.report.text import printable, shorten
from probe.results.analysis import PARTS, Analysis, Operator
from probe.results.memory_use import Memory
from probe.results.multirank import CollectiveRow, Rank
from probe.results.scaling import Scaling
from probe.units import UNKNOWN, format_fraction, format_time

LONGEST = 400  # characters of a name
LEAST_FRACTION = 0.0005  # of the step: smaller parts have no place in the legend
MOST_ROWS = 500


def text(said: str, most: int = LONGEST) -> str:
    """A text of a trace, fit for a page."""
    return escape(shorten(printable(said), most))


def figures(analysis: Analysis) -> str:
    """The strip of figures."""
    shown = "".join(
        f"<div><small>{text(k.label)}</small><b>{text(k.value)}</b><em>{text(k.of)}</em><small>{text(k.below)}</small></div>"
        for k in kpis(analysis)
    )
    return f'<div class="kpis">{shown}</div>'


def parts(time_s: Mapping[str, float | None], interval_s: Mapping[str, tuple[float, float] | None]) -> str:
    """Where the step goes: a bar, and under it every part with its time, its range over the steps and its share."""
    total = sum(time_s[part] or 0.0 for part in PARTS)
    if total <= 0:
        return "<p>No time was recorded.</p>"
    shares = {part: (time_s[part] or 0.0) / total for part in PARTS if (time_s[part] or 0.0) > 0}
    bar = "".join(
        f'<div class="fill-{part}" style="flex:{share:.4f}" title="{part} {format_fraction(share)}"></div>'
        for part, share in shares.items()
    )
    legend = "".join(
        f'<li><span class="mark ink-{part}">{LOOKS[part].mark}</span> {part} {format_time(time_s[part])}'
        f"{_range(interval_s.get(part))} ({format_fraction(share)})</li>"
        for part, share in sorted(shares.items(), key=lambda item: -item[1])
        if share >= LEAST_FRACTION
    )
    return f'<div class="bar">{bar}</div><ul>{legend}</ul>'


def _range(found: tuple[float, float] | None) -> str:
    return f" [{format_time(found[0])}, {format_time(found[1])}]" if found and found[0] != found[1] else ""


def ranks(found: Sequence[Rank], late: Collection[int]) -> str:
    """The picture with its legend, and a row a rank."""
    drawing = ranks_svg.draw_ranks(found, late)
    legend = "".join(f'<li><i style="background:{colour}"></i>{said}</li>' for colour, said in ranks_svg.LEGEND)
    picture = f"<ul>{legend}</ul>{drawing}" if drawing else ""
    note = "".join(f'<p class="note">{text(said)}</p>' for said in rank_notes(found))
    return picture + _table(rank_columns(found), "scroll tall", [rank.rank in late for rank in found]) + note


def collectives(rows: Sequence[CollectiveRow], top: int) -> str:
    """A row a kind and size, the others added up."""
    shown = rows[:top]
    rest = [others(rows[top:])] if len(rows) > top else []
    notes = "".join(f'<p class="note">{text(note)}</p>' for note in (*rest, *footnotes(shown)))
    return _table(collective_columns(shown), "scroll") + notes


def memory_of(found: Memory, top: int) -> str:
    """The peak, the picture over time, who held it and what would lower it."""
    tables = [memory.holder_columns(found, top)] if found.holders else []
    tables += [memory.forecast_columns(found, top)] if found.forecast else []
    notes = "".join(f'<p class="warning">! {text(note)}</p>' for note in found.notes)
    said = f"<p>{text(memory.sentence(found))}</p>"
    return said + memory_svg.draw(found) + "".join(_table(columns, "scroll") for columns in tables) + notes


def scaling(found: Scaling) -> str:
    """Efficiency over the sizes of the job."""
    note = f'<p class="note">{text(found.assumption)}</p>'
    return ranks_svg.draw_scaling(found) + _table(scaling_columns(found), "scroll narrow") + note


def _table(columns: Sequence[Column], kind: str, late: Sequence[bool] | None = None) -> str:
    """Columns of text as a table; the rows of late ranks stand out."""
    css = [" class=n" if column.numeric else "" for column in columns]
    head = "".join(f"<th{c}>{text(column.title)}</th>" for column, c in zip(columns, css, strict=True))
    body = ""
    for place, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
        row = "".join(f"<td{c}>{text(cell)}</td>" for cell, c in zip(cells, css, strict=True))
        body += f"<tr class=late>{row}</tr>" if late and late[place] else f"<tr>{row}</tr>"
    return f'<div class="{kind}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def operators(analysis: Analysis, top: int) -> str:
    """The operators with most to gain, with the evidence for what is said of them."""
    time = "device" if uses_device(analysis) else "time"
    head = "".join(
        f"<th{' class=n' if numeric else ''}>{label}</th>"
        for label, numeric in (
            ("#", True), ("operator", False), ("shapes", False), ("calls", True), (time, True), ("share", True),
            ("bound", False), ("of roof", True), ("to gain", True), ("evidence", False),
        )
    )  # fmt: skip
    shown = by_possible_gain(analysis.ops)[: min(top, MOST_ROWS)]
    rows = "".join(_row(op, time == "device") for op in shown)
    more = len(analysis.ops) - len(shown)
    foot = f'<tr><td></td><td colspan="9">{more} more</td></tr>' if more > 0 else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}{foot}</tbody></table></div>'


def _row(op: Operator, on_device: bool) -> str:
    name, shapes = text(operator_name(op.name)), text(op.shapes or UNKNOWN)
    numbers = (format_time(op.device_s if on_device else op.self_s), format_fraction(op.share_fraction))
    gains = (format_fraction(op.roof_fraction, 0), format_time(op.recoverable_s))
    limiter = f" ({text(op.limiter)})" if op.limiter else ""
    return (
        f'<tr><td class="n">{op.index}</td><td class="cut" title="{name}">{name}</td>'
        f'<td class="shape" title="{shapes}">{shapes}</td><td class="n">{calls_text(op.calls)}</td>'
        + "".join(f'<td class="n">{n}</td>' for n in numbers)
        + f'<td><span class="mark ink-{op.bound}">{LOOKS[op.bound].mark}</span> {text(op.bound)}{limiter}</td>'
        + "".join(f'<td class="n">{n}</td>' for n in gains)
        + f'<td class="why">{text("; ".join(op.evidence))}</td></tr>'
    )
