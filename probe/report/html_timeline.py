"""The timeline of a report: what a page can hold of it, as marks that a script zooms into, and as a still picture."""

from __future__ import annotations

from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby
from typing import Any

import numpy as np

from probe.report.analysis import operator_name
from probe.report.palette import CLASSES
from probe.report.text import printable, shorten
from probe.report.timeline.index import Index, Lane
from probe.report.timeline.tiles import Marks, Window, marks, message
from probe.units import format_time

MOST_MARKS = 20_000
MOST_LANES = 48
FINEST, COARSEST = 8192, 256  # bins over the whole recording
LONGEST_NAME = 120
# Of the still picture, in pixels.
WIDTH, GUTTER, ROW, BINS, LANES = 1072, 128, 14, 420, 24
CODES = (*CLASSES, "range", "python")


@dataclass(frozen=True, eq=False)
class Strip:
    """The part of a timeline that a page holds. `bin_ns`: events narrower than that are drawn together."""

    index: Index  # with the lanes that are shown, and only names that are used
    drawn: tuple[Marks, ...]  # a lane
    bin_ns: float
    left_out: tuple[str, ...]


def strip(index: Index, most: int = MOST_MARKS) -> Strip | None:
    """Marks of the whole recording, as fine as fits; None where it holds no events. Frames of Python are left out."""
    there = [lane for lane in index.lanes if lane.kind != "python" and len(lane.start_ns)]
    if not there:
        return None
    lanes = tuple(there[:MOST_LANES])
    told = [f"{len(there) - len(lanes)} more rows are not shown"] if len(there) > len(lanes) else []
    if any(lane.kind == "python" for lane in index.lanes):
        told.append("frames of Python are not shown")
    bins = FINEST
    while True:
        found = [marks(lane, _whole(index, bins)) for lane in lanes]
        if bins <= COARSEST or sum(len(one.count) for one in found) <= most:
            break
        bins //= 2
    used, drawn = _names_used(index.names, found)
    width = index.end_ns - index.begin_ns
    return Strip(replace(index, lanes=lanes, names=used), drawn, width / bins, tuple(told))


def _whole(index: Index, bins: int) -> Window:
    return Window(index.begin_ns, index.end_ns, bins, 0, MOST_LANES)


def _names_used(names: Sequence[str], found: Sequence[Marks]) -> tuple[tuple[str, ...], tuple[Marks, ...]]:
    """The names of single marks, and the marks with their new numbers; joined marks show no name."""
    kept = np.unique(np.concatenate([one.name[one.count == 1] for one in found]))
    number = np.zeros(len(names) + 1, np.int32)
    number[kept] = np.arange(len(kept))
    drawn = tuple(replace(one, name=np.where(one.count == 1, number[one.name], 0).astype(np.int32)) for one in found)
    return tuple(shorten(operator_name(names[i]), LONGEST_NAME) for i in kept.tolist()), drawn


def note(found: Strip) -> str:
    """What the picture shows of the recording."""
    joined = any((one.count > 1).any() for one in found.drawn)
    fine = f"Events shorter than {format_time(found.bin_ns * 1.5 / 1e9, 2)} are drawn together. " if joined else ""
    more = ", ".join(found.left_out)
    return fine + (f"{more[:1].upper()}{more[1:]}. " if more else "") + "`probe dashboard` shows every event."


def content(found: Strip) -> dict[str, Any]:
    """The timeline as values for JSON; the marks as a message of timeline/tiles.py, in base 64."""
    begin = found.index.begin_ns
    return {
        "width": found.index.end_ns - begin,
        "lanes": [[printable(lane.group), printable(lane.label)] for lane in found.index.lanes],
        "steps": [[start - begin, end - begin] for _, start, end in found.index.steps],
        "names": list(found.index.names),
        "tile": b64encode(message(list(enumerate(found.drawn)), begin)).decode(),
    }


def draw(found: Strip, colours: Mapping[str, str]) -> str:
    """The still picture, an SVG: a row a lane, a path a class."""
    index = found.index
    shown = index.lanes[:LANES]
    paths: dict[str, list[str]] = defaultdict(list)
    texts, y = [], 4
    for group, lanes in groupby(shown, key=lambda lane: lane.group):
        texts.append(_text(2, y + 11, group))
        y += ROW
        for lane in lanes:
            texts.append(_text(10, y + 11, lane.label, ' fill-opacity=".7"'))
            for code, part in _stretches(lane, index):
                paths[CODES[code]].append(f"M{part[0]:.1f} {y + ROW / 2:.0f}h{part[1]:.1f}")
            y += ROW
    drawn = "".join(
        f'<path d="{"".join(parts)}" stroke="{colours[name]}" stroke-width="{ROW - 3}"/>'
        for name, parts in paths.items()
    )
    time = _text(WIDTH, y + 16, format_time((index.end_ns - index.begin_ns) / 1e9), ' text-anchor="end"')
    label = f"Timeline of {len(shown)} rows"
    return f'<svg viewBox="0 0 {WIDTH} {y + 22}" role="img" aria-label="{label}">{drawn}{"".join(texts)}{time}</svg>'


def _text(x: float, y: float, text: str, more: str = "") -> str:
    said = escape(shorten(printable(text), 22))
    return f'<text x="{x}" y="{y}" font-size="11" fill="currentColor"{more}>{said}</text>' if said else ""


def _stretches(lane: Lane, index: Index) -> Iterator[tuple[int, tuple[float, float]]]:
    """The marks of a lane as (class, (x, width)) in pixels, neighbours of a class joined."""
    scale = (WIDTH - GUTTER) / (index.end_ns - index.begin_ns)
    found = marks(lane, _whole(index, BINS))
    order = np.argsort(found.start_ns)
    rows = zip(found.start_ns[order].tolist(), found.width_ns[order].tolist(), found.code[order].tolist(), strict=True)
    last: tuple[int, float, float] | None = None
    for start, width, code in rows:
        x = GUTTER + (start - index.begin_ns) * scale
        until = x + max(width * scale, 0.7)
        if last is not None and last[0] == code and x - last[2] < 1.0:
            last = (code, last[1], max(until, last[2]))
            continue
        if last is not None:
            yield last[0], (last[1], last[2] - last[1])
        last = (code, x, until)
    if last is not None:
        yield last[0], (last[1], last[2] - last[1])
