"""How does a Trace become the part of it that a user asked for: some steps, a window of time, some kinds of rows?

An operator reaches into the window or not as a whole, with everything it called, so that its self time, its FLOP and
its device time stay those of the same call: half an operator would be a wrong number.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from probe.errors import InputError
from probe.readers.counts import Rows, counted_part, told_of_file, told_of_part, told_of_rows
from probe.trace import Collectives, DeviceWork, HostOps, Int32s, Int64s, Mask, Quality, RuntimeCalls, Trace
from probe.units import format_time, runs_text

Category: TypeAlias = Literal["ops", "runtime", "kernels", "copies", "annotations", "collectives"]
CATEGORIES: frozenset[Category] = frozenset(get_args(Category))

_DIGITS = 6  # of times in messages
_LISTED = 12  # steps in a message
_UNREAD = "; the rest of the file was not read: events that were left out or cut are not counted"


@dataclass(frozen=True)
class Selection:
    """What part of a trace is wanted; None wants all."""

    steps: tuple[int, int] | None = None  # first and last number
    window_ns: tuple[int, int] | None = None  # [start, end) from the trace's nanosecond 0
    categories: frozenset[Category] | None = None

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return self.steps is None and self.window_ns is None and self.categories in (None, CATEGORIES)


def narrow(trace: Trace, selection: Selection, *, whole: bool = True) -> Trace:
    """`trace` with the selected part only; times, names and signatures keep their origin and numbers.

    Rows that overlap the window are kept whole. Device work that calls inside it launched is kept too, though it ran
    later, and so are the calls and the device work of each operator that is kept. Steps must lie wholly inside.
    `collectives` without `ops` or `kernels` keeps the operators and kernels of collectives.
    Quality and warnings are those of the window, and of its file as far as `whole`: the trace holds all of it. Leaving
    out kinds of rows changes neither: a kernel whose launch was not asked for still has one.

    Raises InputError where a step does not exist, and where nothing would be left.
    """
    if selection.everything:
        return trace
    covered = []
    if selection.steps is not None or selection.window_ns is not None:
        window = _window_ns(trace, selection)
        trace = _inside(trace, window, whole)
        covered.append(_told(selection, window))
    if selection.categories not in (None, CATEGORIES):
        trace = _of_categories(trace, selection.categories or frozenset())
        covered.append(" and ".join(c for c in get_args(Category) if c in (selection.categories or ())))
    said = f"the figures cover a part of the trace: {', '.join(covered)}{'' if whole else _UNREAD}"
    return dataclasses.replace(trace, warnings=(*trace.warnings, said))


def _told(selection: Selection, window: tuple[int, int]) -> str:
    """The window in words."""
    times = f"{_time(window[0])} to {_time(window[1])}"
    if selection.steps is None:
        return times
    first, last = selection.steps
    return f"step {first} ({times})" if first == last else f"steps {first} to {last} ({times})"


def _time(time_ns: int) -> str:
    """A moment as finely as two ends of a short window in a long trace need it: 1.23457 s, 21 ns, 1234.567 s."""
    seconds = abs(time_ns) / 1e9
    number, unit = (format_time(seconds, _DIGITS) if seconds < 100 else f"{seconds:.3f} s").split()
    short = number.rstrip("0").rstrip(".") if "." in number else number
    return f"{'-' if time_ns < 0 else ''}{short} {unit}"


def _window_ns(trace: Trace, selection: Selection) -> tuple[int, int]:
    """What both the steps and the window cover, [start, end)."""
    windows = [w for w in (selection.window_ns, _of_steps(trace, selection.steps)) if w is not None]
    start, end = max(w[0] for w in windows), min(w[1] for w in windows)
    if end <= start:
        raise InputError(f"{trace.path}: the window from {_time(start)} to {_time(end)} is empty; {_span(trace)}")
    return start, end


def _of_steps(trace: Trace, wanted: tuple[int, int] | None) -> tuple[int, int] | None:
    """From the start of the first wanted step to the end of the last."""
    if wanted is None:
        return None
    first, last = wanted
    numbers = trace.steps.number
    missing = [n for n in wanted if n not in numbers]
    if missing:
        raise InputError(f"{trace.path}: no step {missing[0]}; {existing_steps(numbers)}")
    if last < first:
        raise InputError(f"{trace.path}: steps {first} to {last} run backwards; give the smaller number first")
    rows = (numbers >= first) & (numbers <= last)
    return int(trace.steps.start_ns[rows].min()), int(trace.steps.end_ns[rows].max())


def existing_steps(numbers: Int64s) -> str:
    """Which steps there are, runs of numbers as their ends."""
    if not len(numbers):
        return "it has no steps; choose a window of time"
    return f"choose from {runs_text(numbers.tolist(), _LISTED)}"


def _span(trace: Trace) -> str:
    start, end = trace.span_ns
    return f"the trace covers {_time(start)} to {_time(end)}"


def _inside(trace: Trace, window: tuple[int, int], whole: bool) -> Trace:
    """The rows that overlap the window, and what belongs to them."""
    ops = _trees(trace.host_ops, window)
    calls = _overlapping(trace.runtime_calls, window) | _chosen(trace.runtime_calls.op, ops)
    started = _started(trace.runtime_calls, window)
    kernels, copies = (
        _overlapping(work, window) | _chosen(work.op, ops) | _chosen(work.launch, started)
        for work in (trace.kernels, trace.copies)
    )
    kept = _with_rows(trace, ops, calls, kernels, copies)  # and all allocations: the level is that of all before
    steps = trace.steps
    kept = dataclasses.replace(
        kept,
        annotations=trace.annotations.where(_overlapping(trace.annotations, window)),
        steps=steps.where((steps.start_ns >= window[0]) & (steps.end_ns <= window[1])),
        window_ns=window,
    )
    if not any(len(t) for t in (kept.host_ops, kept.runtime_calls, kept.kernels, kept.copies, kept.annotations)):
        raise InputError(f"{trace.path}: nothing from {_time(window[0])} to {_time(window[1])}; {_span(trace)}")
    return _judged(kept, trace, Rows(calls, kernels, copies), whole)


def _judged(part: Trace, trace: Trace, kept: Rows, whole: bool) -> Trace:
    """The part with its own counts and warnings in place of those of all rows that `trace` has."""
    if not whole:
        part = _without_the_file(part)
    replaced = {*told_of_rows(trace), *told_of_part(trace, trace)}  # the latter where the trace is a part already
    lasting = (warning for warning in part.warnings if warning not in replaced)
    said = told_of_part(part, trace) if trace.on_device or not whole else told_of_rows(part)
    return dataclasses.replace(part, quality=counted_part(part, trace, kept), warnings=(*lasting, *said))


def _without_the_file(part: Trace) -> Trace:
    """The part without what was counted over the events that were decoded, which are more than its own by chance."""
    counted = set(told_of_file(part.quality))
    lasting = [warning for warning in part.warnings if warning not in counted]
    if part.quality.truncated:
        lasting.insert(0, "the file is cut; what followed the cut is missing")
    if part.quality.dropped:
        lasting.append("some events in or near the part that was read could not be read and were left out")
    tables = (part.host_ops, part.runtime_calls, part.kernels, part.copies, part.annotations)
    quality = Quality(events=sum(len(table) for table in tables), truncated=part.quality.truncated)
    return dataclasses.replace(part, quality=quality, warnings=tuple(lasting))


def _overlapping(table: Any, window: tuple[int, int]) -> Mask:
    """Which rows share an instant with the window; one without duration counts where it starts."""
    inside: Mask = (table.start_ns < window[1]) & ((table.end_ns > window[0]) | (table.start_ns >= window[0]))
    return inside


def _started(calls: RuntimeCalls, window: tuple[int, int]) -> Mask:
    inside: Mask = (calls.start_ns >= window[0]) & (calls.start_ns < window[1])
    return inside


def _trees(ops: HostOps, window: tuple[int, int]) -> Mask:
    """Which operators reach into the window themselves, or are called within an outermost one that does."""
    return _overlapping(ops, window)[_roots(ops.parent)]


def _roots(parent: Int32s) -> Int64s:
    """For each operator the outermost one around it, [n]; each pass doubles the levels climbed."""
    rows = np.arange(len(parent))
    above = np.where(parent >= 0, parent, rows)
    while (above[above] != above).any():
        above = above[above]
    return above


def _chosen(index: Int32s, rows: Mask) -> Mask:
    """Which indices refer to one of the chosen rows."""
    chosen = index >= 0
    chosen[chosen] = rows[index[chosen]]
    return chosen


def _renumbered(index: Int32s, rows: Mask) -> Int32s:
    """Indices into the chosen rows; -1 where the row is not chosen."""
    place = np.where(rows, np.cumsum(rows) - 1, -1)
    new = np.full(len(index), -1, np.int32)
    some = index >= 0
    new[some] = place[index[some]]
    return new


def _with_rows(trace: Trace, ops: Mask, calls: Mask, kernels: Mask, copies: Mask) -> Trace:
    """The trace with these rows, and the collectives of which an operator or kernel is left."""
    host_ops = trace.host_ops.where(ops)
    runtime_calls = trace.runtime_calls.where(calls)
    all_collectives = trace.collectives
    collectives = all_collectives.where(_chosen(all_collectives.op, ops) | _chosen(all_collectives.kernel, kernels))
    return dataclasses.replace(
        trace,
        host_ops=dataclasses.replace(host_ops, parent=_renumbered(host_ops.parent, ops)),
        runtime_calls=dataclasses.replace(runtime_calls, op=_renumbered(runtime_calls.op, ops)),
        kernels=_work(trace.kernels.where(kernels), ops, calls),
        copies=_work(trace.copies.where(copies), ops, calls),
        collectives=dataclasses.replace(
            collectives, op=_renumbered(collectives.op, ops), kernel=_renumbered(collectives.kernel, kernels)
        ),
        allocations=dataclasses.replace(trace.allocations, op=_renumbered(trace.allocations.op, ops)),  # and all frames
    )


def _work(work: DeviceWork, ops: Mask, calls: Mask) -> DeviceWork:
    return dataclasses.replace(work, op=_renumbered(work.op, ops), launch=_renumbered(work.launch, calls))


def _of_categories(trace: Trace, wanted: frozenset[Category]) -> Trace:
    """The trace with the rows of these kinds."""
    if not wanted:
        raise InputError(f"{trace.path}: no kind of rows chosen; choose from {', '.join(get_args(Category))}")
    told = trace.collectives if "collectives" in wanted else trace.collectives.where(np.empty(0, np.int64))
    ops = np.full(len(trace.host_ops), "ops" in wanted) | _called_by(trace.host_ops, told)
    calls = np.full(len(trace.runtime_calls), "runtime" in wanted)
    kernels = np.full(len(trace.kernels), "kernels" in wanted)
    kernels[told.kernel[told.kernel >= 0]] = True
    copies = np.full(len(trace.copies), "copies" in wanted)
    kept = _with_rows(dataclasses.replace(trace, collectives=told), ops, calls, kernels, copies)
    if "annotations" in wanted:
        return kept
    return dataclasses.replace(kept, annotations=trace.annotations.where(np.empty(0, np.int64)))


def _called_by(ops: HostOps, collectives: Collectives) -> Mask:
    """The operators of collectives and all within them."""
    chosen = np.zeros(len(ops), bool)
    chosen[collectives.op[collectives.op >= 0]] = True
    while True:  # once a level of nesting
        more = chosen | _chosen(ops.parent, chosen)
        if (more == chosen).all():
            return chosen
        chosen = more
