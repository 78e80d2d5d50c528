"""Which pieces of a Kineto trace's text hold a part of it: a first look at the times of all events, and nothing else.

The look decodes category, name and times, and keeps two numbers a piece. What it finds is a superset: the reader
decodes the pieces and narrows what is in them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from probe.errors import InputError
from probe.readers import kineto_json
from probe.readers.kineto_json import STEP_PREFIX, Glance
from probe.readers.kineto_text import Text
from probe.readers.narrow import Selection, existing_steps

_STEP = re.compile(rf"{STEP_PREFIX}(\d{{1,17}})")
_MARGIN_US = 2.0  # large time stamps are rounded in a first look

Window = tuple[float, float]  # microseconds on the file's clock
_NOWHERE, _ANYWHERE = (math.inf, -math.inf), (-math.inf, math.inf)


class _Kept(dict[str, bool]):
    """Whether a full reading puts the events of a category into a table."""

    def __missing__(self, category: str) -> bool:
        kept = self[category] = kineto_json.kind_of(category) not in ("other", "instant")
        return kept


@dataclass
class Survey:
    """Where in a file which times are."""

    reach: list[Window] = field(default_factory=list)  # per piece: its first start and its last end
    steps: dict[int, Window] = field(default_factory=dict)
    kept: _Kept = field(default_factory=_Kept)

    def add(self, text: bytes, *, last: bool) -> None:
        """Take note of a piece of text; one that cannot be looked at may hold anything."""
        glances = kineto_json.glance(text, last=last)
        if glances is None:
            self.reach.append(_ANYWHERE)
            return
        start = np.array([g.ts for g in glances], np.float64)
        length = np.array([g.dur for g in glances], np.float64)
        timed = np.array([self.kept[g.cat] for g in glances], bool) & np.isfinite(start) & np.isfinite(length)
        start, length = start[timed], length[timed]
        self.reach.append((float(start.min()), float((start + length).max())) if len(start) else _NOWHERE)
        if STEP_PREFIX.encode() in text:
            self.steps |= {number: window for number, window in _marks(glances) if number not in self.steps}

    def pieces(self, path: str, selection: Selection) -> frozenset[int]:
        """The pieces that may hold what is selected, and the one in which the trace begins: times count from there.

        Device work runs later than the call that launches it; it is looked for as long again as the part lasts.
        """
        first = min(range(len(self.reach)), key=lambda i: self.reach[i][0])
        start, end = _window(path, selection, self.steps, self.reach[first][0])
        late = end + (end - start) + _MARGIN_US
        return frozenset(
            {first, *(i for i, (low, high) in enumerate(self.reach) if low <= late and high >= start - _MARGIN_US)}
        )


def _marks(glances: list[Glance]) -> Iterator[tuple[int, Window]]:
    """Number and window of the steps that the host marks."""
    for glance in glances:
        found = _STEP.fullmatch(glance.name)
        if not found or glance.ts is None or glance.dur is None:
            continue
        if kineto_json.kind_of(glance.cat) in ("annotation", "op"):
            yield int(found[1]), (glance.ts, glance.ts + glance.dur)


def _window(path: str, selection: Selection, steps: dict[int, Window], origin: float) -> Window:
    start, end = _ANYWHERE
    if selection.window_ns is not None and math.isfinite(origin):
        start, end = (origin + limit / 1000 for limit in selection.window_ns)
    if selection.steps is not None:
        for number in selection.steps:
            if number not in steps:
                raise InputError(f"{path}: no step {number}; {existing_steps(np.array(list(steps), np.int64))}")
        chosen = [w for n, w in steps.items() if selection.steps[0] <= n <= selection.steps[1]]
        start = max([start, min((w[0] for w in chosen), default=start)])
        end = min([end, max((w[1] for w in chosen), default=end)])
    return start, end


def survey(text: Text) -> Survey:
    """One pass over a trace."""
    found = Survey()
    for piece, last in text.texts():
        found.add(piece, last=last)
    return found
