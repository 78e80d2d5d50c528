"""The events of a source, ready to be drawn: its ranks' traces read, each event given its operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from probe.errors import ProbeError
from probe.examine.flows import split
from probe.examine.sources import Named, files_of
from probe.readers import formats
from probe.readers.narrow import Selection
from probe.results.analysis import Analysis

if TYPE_CHECKING:
    from probe.report.timeline.index import Index

MOST_RANKS = 8  # of a job, in one timeline
MOST_EVENTS = 5_000_000  # that are laid out for a page


def timeline(
    source: Named, analysis: Analysis, selection: Selection | None = None, told: Callable[[str], None] | None = None
) -> Index:
    """The timeline of what `analysis` is of; ProbeError, in one line, where there is none."""
    from probe.report.timeline.build import Recorded, build

    if analysis.source.kind == "snapshot":
        raise ProbeError("a snapshot of the allocator holds no events in time")
    files = files_of(source)[:MOST_RANKS]
    recorded = []
    for number, file in enumerate(files, start=1):
        if told is not None:
            told(f"laying out the events of {number} of {len(files)} ranks" if len(files) > 1 else "laying out")
        recorded.append(Recorded(split(formats.read(file, selection), None).trace, whole=len(files) == 1))
    return build(recorded, analysis)


def page(
    analysis: Analysis, top: int, source: Named, steps: tuple[int, int] | None = None,
    window_s: tuple[float, float] | None = None,
) -> str:  # fmt: skip
    """The report of `analysis` as one self-contained page, with the timeline of `source` or the asked part."""
    from probe.report.html import render

    window_ns = None if window_s is None else (round(window_s[0] * 1e9), round(window_s[1] * 1e9))
    try:
        if analysis.quality.included > MOST_EVENTS:
            raise ProbeError(f"more than {MOST_EVENTS:,} events; `probe dashboard` shows them")
        return render(analysis, top, timeline(source, analysis, Selection(steps, window_ns)))
    except ProbeError as error:
        return render(analysis, top, notes=(f"the timeline is left out: {error}",))
