"""In which module, and on which line of the program, does an operator run?

Sources, the best first: ranges named probe.module:<path>, which probe's own recordings hold where the model is known;
frames of modules, which torch records with stacks; ranges that the program or a framework named. What runs in the
backward pass lies in the module of the forward operator whose gradient it computes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probe.readers.frames import MODULE
from probe.readers.nesting import innermost, nest
from probe.trace import MODULE_PREFIX, STEP_PREFIX, TENSORS_MARK, Frames, Int32s, Int64s, Mask, Trace

NONE = -1
# Ranges that frameworks open around steps, waits and collectives: no place in the program.
_NO_PLACE = re.compile(
    rf"{STEP_PREFIX}|{re.escape(TENSORS_MARK)}|nccl:|gloo:|mpi:|ucc:|enumerate\(DataLoader\)|probe: |## Call Compiled|"
    r"Torch-Compiled Region|PyTorch Profiler|Profile(?:d|r)|record_param_comms"
)
_DIGITS = re.compile(r"\d+")
_DECORATION = re.compile(r"^[#\s]+|[#\s]+$")
_MOST_PARTS = 3  # of the path of a file


@dataclass(frozen=True, eq=False)
class Places:
    """Module and line of each operator call, [ops]; -1 where neither was recorded."""

    modules: tuple[str, ...]
    lines: tuple[str, ...]
    module: Int32s  # into modules
    line: Int32s  # into lines

    def module_of(self, rows: Sequence[int] | Int64s) -> str | None:
        """The module path of most of the rows, "*" for numbers that differ; None where none is known."""
        return _common({self.modules[i]: count for i, count in _counted(self.module, rows)})

    def line_of(self, rows: Sequence[int] | Int64s) -> str | None:
        """The line from which most of the rows are called; None where none is known."""
        found = dict(_counted(self.line, rows))
        return self.lines[max(found, key=found.__getitem__)] if found else None


def _counted(column: Int32s, rows: Sequence[int] | Int64s) -> list[tuple[int, int]]:
    """The values of these rows without -1, each with how many rows have it."""
    counts = np.bincount(column[np.asarray(rows, np.int64)] + 1)[1:]
    values = np.flatnonzero(counts)
    return list(zip(values.tolist(), counts[values].tolist(), strict=True))


class GroupPlaces:
    """Where the operators of each group run."""

    def __init__(self, places: Places, rows_of: Callable[[int], Int64s]) -> None:
        self._places, self._rows_of = places, rows_of

    def module(self, groups: Iterable[int]) -> str | None:
        """The module of most of their calls."""
        return self._places.module_of(self._rows(groups)) if self._places.modules else None

    def line(self, groups: Iterable[int]) -> str | None:
        """The line from which most of their calls come."""
        return self._places.line_of(self._rows(groups)) if self._places.lines else None

    def _rows(self, groups: Iterable[int]) -> Int64s:
        pieces = [self._rows_of(group) for group in groups]
        return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


def places(trace: Trace) -> Places:
    """Where the operators of a trace run, as far as it says."""
    ranges = _ranges(trace)
    frames = trace.frames
    if not len(ranges) and not len(frames):
        nowhere = np.full(len(trace.host_ops), NONE, np.int32)
        return Places((), (), nowhere, nowhere)
    paths: dict[str, int] = {}
    of_range = [_numbered(paths, _named(trace.names[n])) for n in ranges.name.tolist()]
    of_frame = _module_paths(trace, paths)
    lines: dict[str, int] = {}
    of_line = _lines(trace, lines)
    ops = trace.host_ops
    around = innermost(frames, ops.thread, ops.start_ns)
    within = innermost(ranges, ops.thread, ops.start_ns)
    told = np.array([name.startswith(MODULE_PREFIX) for name in trace.names], bool)[ranges.name]
    module = _first(_at(np.where(told, of_range, NONE), within), _at(of_frame, around), _at(of_range, within))
    line = _at(of_line, around)
    backward = _backward(trace)
    return Places(tuple(paths), tuple(lines), _inherited(trace, module, backward), _inherited(trace, line, backward))


def _numbered(known: dict[str, int], name: str | None) -> int:
    return known.setdefault(name, len(known)) if name else NONE


def _at(values: Sequence[int] | Int32s | Int64s, index: Int32s) -> Int32s:
    """The values at the given places, -1 where the place is -1."""
    found = np.full(len(index), NONE, np.int32)
    hit = index >= 0
    found[hit] = np.asarray(values, np.int32)[index[hit]]
    return found


def _first(*choices: Int32s) -> Int32s:
    """The first choice that is none of -1, row by row."""
    found = choices[-1]
    for choice in reversed(choices[:-1]):
        found = np.where(choice >= 0, choice, found)
    return found


def _ranges(trace: Trace) -> Frames:
    """The ranges on host threads that name a place; where modules are named, only those and their like are needed."""
    marks = trace.annotations
    named = trace.named(lambda name: _named(name) is not None)
    own = trace.named(lambda name: name.startswith(MODULE_PREFIX))
    chosen = np.flatnonzero(~marks.on_device & named[marks.name]) if len(marks) else np.empty(0, np.int64)
    if own[marks.name[chosen]].any():
        chosen = chosen[own[marks.name[chosen]]]
    order = chosen[np.lexsort((-marks.end_ns[chosen], marks.start_ns[chosen], marks.thread[chosen]))]
    end = marks.end_ns[order].copy()
    parent, _ = nest(marks.thread[order], marks.start_ns[order], end)
    return Frames(marks.name[order], marks.thread[order], marks.start_ns[order], end, parent)


def _named(name: str) -> str | None:
    """The place that a range names; None for marks of steps and the like."""
    if name.startswith(MODULE_PREFIX):
        return name.removeprefix(MODULE_PREFIX) or None
    if _NO_PLACE.match(name):
        return None
    return _DECORATION.sub("", name.rpartition("#")[2] if name.startswith("Optimizer.") else name) or None


def _module_paths(trace: Trace, paths: dict[str, int]) -> Int32s:
    """The path of modules around each frame, its own included, [frames]; the names are torch's: Linear_3."""
    frames = trace.frames
    found: list[int] = []
    names = list(paths)
    for name, parent in zip(frames.name.tolist(), frames.parent.tolist(), strict=True):
        above = found[parent] if parent >= 0 else NONE
        text = trace.names[name]
        if text.startswith(MODULE):
            own = text.removeprefix(MODULE)
            path = f"{names[above]}.{own}" if above >= 0 else own
            if path not in paths:
                names.append(path)
            above = _numbered(paths, path)
        found.append(above)
    return np.array(found, np.int32)


def _lines(trace: Trace, lines: dict[str, int]) -> Int32s:
    """The innermost line of the program at each frame, [frames]."""
    frames = trace.frames
    found: list[int] = []
    for name, parent in zip(frames.name.tolist(), frames.parent.tolist(), strict=True):
        text = trace.names[name]
        above = found[parent] if parent >= 0 else NONE
        found.append(above if text.startswith(MODULE) else _numbered(lines, _short(text)))
    return np.array(found, np.int32)


def _short(line: str) -> str:
    """ "/home/me/project/train.py(82): train_step" as "me/project/train.py:82 in train_step"."""
    path, _, rest = line.partition("(")
    number, _, function = rest.partition("): ")
    return f"{'/'.join(path.split('/')[-_MOST_PARTS:])}:{number} in {function}"


def _backward(trace: Trace) -> Mask:
    """Operators of the backward pass that say which forward operator they belong to."""
    ops = trace.host_ops
    return (ops.forward_thread > 0) & (ops.sequence >= 0)


def _inherited(trace: Trace, place: Int32s, backward: Mask) -> Int32s:
    """The places, with those of backward operators taken from their forward ones, and callees from their callers."""
    ops = trace.host_ops
    forward = np.flatnonzero((ops.sequence >= 0) & ~backward & (place >= 0))
    if not backward.any() or not len(forward):
        return place
    last = forward[np.argsort(ops.sequence[forward], kind="stable")]
    numbers, first = np.unique(ops.sequence[last], return_index=True)
    rows = np.flatnonzero(backward)
    at = np.minimum(np.searchsorted(numbers, ops.sequence[rows]), len(numbers) - 1)
    known = numbers[at] == ops.sequence[rows]
    found = place.copy()
    outer = np.zeros(len(place), bool)
    outer[rows[known]] = True
    found[rows[known]] = place[last[first[at[known]]]]
    return _handed_down(ops.parent, found, outer, place)


def _handed_down(parent: Int32s, found: Int32s, given: Mask, own: Int32s) -> Int32s:
    """Callees of operators whose place was given take it, except where they have a place that their caller had not."""
    above = np.where(given, np.arange(len(parent)), parent)
    while True:  # each pass doubles the levels climbed
        further = np.where((above >= 0) & ~given[np.maximum(above, 0)], above[np.maximum(above, 0)], above)
        if (further == above).all():
            break
        above = further
    takes = (above >= 0) & (own < 0)
    result = found.copy()
    result[takes] = found[above[takes]]
    return result


def _common(counts: Mapping[str, int]) -> str | None:
    """The most frequent path, with "*" for the numbers in which paths of the same form differ."""
    forms: dict[str, list[str]] = {}
    weights: Counter[str] = Counter()
    for path, count in counts.items():
        form = _DIGITS.sub("*", path)
        forms.setdefault(form, []).append(path)
        weights[form] += count
    if not weights:
        return None
    alike = forms[weights.most_common(1)[0][0]]
    numbers = list(zip(*(_DIGITS.findall(path) for path in alike), strict=True))
    same = iter(column[0] if len(set(column)) == 1 else "*" for column in numbers)
    return _DIGITS.sub(lambda _: next(same), alike[0])
