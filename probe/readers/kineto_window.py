"""Which pieces of a Kineto trace's text hold a part of it: a first look at the times of all events, and nothing else.

The look decodes category, name and times, and keeps two numbers a piece. What it finds is a superset: the reader
decodes the pieces and narrows what is in them.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from probe.errors import InputError
from probe.readers import kineto_json
from probe.readers.kineto_json import Glance
from probe.readers.kineto_text import Text
from probe.readers.narrow import Selection, existing_steps
from probe.trace import STEP_PREFIX, Mask, step_number

_MARGIN_US = 2.0  # large time stamps are rounded in a first look

Window = tuple[float, float]  # microseconds on the file's clock
Floats: TypeAlias = npt.NDArray[np.float64]
_ANYWHERE = (-math.inf, math.inf)
_QUEUE_US = 1e6  # a driver queues about a thousand launches
_LIMIT_US = 2.0**62 / 1000  # of a time that the reader keeps


class _Kept(dict[str, bool]):
    """Whether a full reading puts the events of a category into a table whose rows hold others together."""

    def __missing__(self, category: str) -> bool:
        kept = self[category] = kineto_json.kind_of(category) not in ("other", "instant", "frame")
        return kept


class _OnDevice(dict[str, bool]):
    """Whether the events of a category are work of a device."""

    def __missing__(self, category: str) -> bool:
        on_device = self[category] = kineto_json.kind_of(category) in ("kernel", "copy")
        return on_device


class Reach(NamedTuple):
    """When the events of a piece are; the outermost of the host one by one, because they hold others together."""

    first: float
    end: float
    works: Window  # first start and last end of the work of devices
    starts: Floats
    ends: Floats


@dataclass
class Survey:
    """Where in a file which times are."""

    reach: list[Reach] = field(default_factory=list)  # per piece
    unseen: bool = False  # whether a piece could not be looked at: it may hold anything
    steps: dict[int, Window] = field(default_factory=dict)
    kept: _Kept = field(default_factory=_Kept)
    on_device: _OnDevice = field(default_factory=_OnDevice)

    def add(self, text: bytes, *, last: bool) -> None:
        """Take note of a piece of text."""
        glances = kineto_json.glance(text, last=last)
        if glances is None:
            self.unseen = True
            return
        start = np.array([g.ts for g in glances], np.float64)
        length = np.array([g.dur for g in glances], np.float64)
        with np.errstate(invalid="ignore"):
            timed = (np.abs(start) < _LIMIT_US) & (length >= 0) & (length < _LIMIT_US)
        timed &= np.array([g.ph == "X" and self.kept[g.cat] for g in glances], bool)
        works = np.array([self.on_device[g.cat] for g in glances], bool)
        start, end, works = start[timed], (start + length)[timed], works[timed]
        outer = _outermost(start[~works], end[~works])
        self.reach.append(Reach(*_span(start, end), _span(start[works], end[works]), *outer))
        if STEP_PREFIX.encode() in text:
            self._note_steps(glances, timed)

    def _note_steps(self, glances: list[Glance], timed: Mask) -> None:
        for number, window in _marks([glances[i] for i in np.flatnonzero(timed)]):
            self.steps[number] = min(window, self.steps.get(number, window))

    def pieces(self, path: str, selection: Selection) -> Container[int]:
        """The pieces that may hold what is selected, and those in which the trace may begin: times count from there.

        Operators are kept with all that they call. Device work runs later than the call that launches it; it is looked
        for as long again as the part lasts, and at least for as long as a full queue takes.
        """
        if self.unseen or not self.reach:
            return _ALL
        origin = min(reach.first for reach in self.reach)
        low, high = _window(path, selection, self.steps, origin)
        start, end = self._with_callers(low - _MARGIN_US, high + _MARGIN_US)
        late = end + max(end - start, _QUEUE_US)
        return frozenset(
            number
            for number, reach in enumerate(self.reach)
            if reach.first <= origin + _MARGIN_US
            or (reach.first <= end and reach.end >= start)
            or (reach.works[0] <= late and reach.works[1] >= start)
        )

    def _with_callers(self, start: float, end: float) -> Window:
        """The window widened to all of each host event that reaches into it."""
        low, high = start, end
        for reach in self.reach:
            inside = (reach.starts <= end) & (reach.ends >= start)
            low = min(low, float(reach.starts[inside].min(initial=low)))
            high = max(high, float(reach.ends[inside].max(initial=high)))
        return low, high


def _span(starts: Floats, ends: Floats) -> Window:
    return (float(starts.min()), float(ends.max())) if len(starts) else (math.inf, -math.inf)


def _outermost(starts: Floats, ends: Floats) -> tuple[Floats, Floats]:
    """The events that no other one contains: what reaches into a part does so no further than they do."""
    order = np.lexsort((-ends, starts))
    starts, ends = starts[order], ends[order]
    further = np.append(True, ends[1:] > np.maximum.accumulate(ends)[:-1])[: len(ends)]
    return starts[further], ends[further]


class _All:
    """Contains every number."""

    def __contains__(self, number: object) -> bool:
        return True


_ALL = _All()


def _marks(glances: list[Glance]) -> Iterator[tuple[int, Window]]:
    """Number and window of the steps that the host marks."""
    for glance in glances:
        number = step_number(glance.name)
        if number is None or glance.ts is None or glance.dur is None:
            continue
        if kineto_json.kind_of(glance.cat) in ("annotation", "op"):
            yield number, (glance.ts, glance.ts + glance.dur)


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
