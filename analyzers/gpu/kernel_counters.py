"""Which kernels of a trace did a counter profiler measure, and what did those of an operator compute and move?

The launches that were measured belong to another run of the same program, often to a part of it. A measured launch and
a kernel of the trace are taken for the same where name (in one spelling), grid and block agree. Where there are as many
launches as kernels, the i-th is the i-th in the order of launch; else any is any, provided that all measured the same.
"""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from probe.trace import DeviceWork, Int32s, Int64s, Mask, Table, Trace

if TYPE_CHECKING:
    from probe.readers.ncu import KernelCounters

Floats = npt.NDArray[np.float64]

SAME_FLOPS = 0.01  # launches of a kernel whose counts lie closer together did the same work
SAME_BYTES = 0.10  # DRAM traffic varies with what the caches hold
_REASONS_SHOWN = 4


@dataclass(frozen=True, eq=False)
class KernelColumns(Table):
    """What was measured of the rows of Trace.kernels, [kernels]."""

    matched: Mask  # whether a measured launch stands for the kernel
    flops: Floats  # nan where not known, which it can be for matched kernels as well
    bytes: Floats  # to and from DRAM; nan where not known


@dataclass(frozen=True)
class KernelMeasurements:
    """The measurements of a trace's kernels, and how much of them could be used."""

    columns: KernelColumns
    launches: int  # that were measured
    used: int  # of those, the ones that stand for kernels
    ambiguous: int  # kernels for which several launches that differ could stand; they are not matched
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class GroupMeasurements(Table):
    """Mean of one kernel of each group, [groups]; nan where a kernel of the group was not measured."""

    kernels: Int64s  # how many the group has
    flops: Floats
    bytes: Floats

    def per_call(self, calls: Int64s) -> tuple[Floats, Floats]:
        """FLOP and bytes of one call of each group's operator, [groups], given how often each was called."""
        kernels = self.kernels / np.where(calls > 0, calls, np.nan)
        return self.flops * kernels, self.bytes * kernels


def per_group(measurements: KernelMeasurements, of_kernel: Int32s, groups: int) -> GroupMeasurements:
    """Means over the kernels of each operator group; `of_kernel` is OpGroups.of_kernel, -1 for kernels of none."""
    inside = of_kernel >= 0
    group = of_kernel[inside]
    count = np.bincount(group, minlength=groups)

    def mean(values: Floats) -> Floats:
        total = np.bincount(group, weights=values[inside], minlength=groups)  # nan where one of them is
        return np.asarray(total / np.where(count > 0, count, np.nan), np.float64)

    return GroupMeasurements(count, mean(measurements.columns.flops), mean(measurements.columns.bytes))


def join(trace: Trace, counters: Sequence[KernelCounters]) -> KernelMeasurements:
    """The measured launches on the trace's kernels; where it is not clear which is which, none is taken."""
    size = len(trace.kernels)
    columns = KernelColumns(np.zeros(size, bool), np.full(size, np.nan), np.full(size, np.nan))
    used = ambiguous = alone = 0
    for rows, launches in _alike(trace, counters):
        chosen = _assigned(len(rows), launches)
        alone += len(launches) if not rows else 0
        ambiguous += len(rows) if chosen is None else 0
        if rows and chosen is not None:
            used += len(launches)
            columns.matched[rows] = True
            columns.flops[rows], columns.bytes[rows] = chosen
    made = KernelMeasurements(columns, len(counters), used, ambiguous)
    return replace(made, warnings=tuple(_warnings(made, counters, alone)))


def _assigned(kernels: int, launches: Sequence[KernelCounters]) -> tuple[Floats, Floats] | None:
    """FLOP and bytes of each of the kernels that these launches stand for, [kernels]; None where that is not clear."""
    flops = np.array([np.nan if c.flops is None else c.flops for c in launches])
    moved = np.array([np.nan if c.bytes is None else c.bytes for c in launches])
    if kernels == len(launches):
        return flops, moved
    if _same(flops, SAME_FLOPS) and _same(moved, SAME_BYTES):
        return np.full(kernels, flops.mean()), np.full(kernels, moved.mean())
    return None


def _same(values: Floats, tolerance: float) -> bool:
    """Whether the values lie within this fraction of the largest, or none is known."""
    if np.isnan(values).all():
        return True
    return bool(values.max() - values.min() <= tolerance * values.max())  # False where one is not known


def _alike(trace: Trace, counters: Sequence[KernelCounters]) -> Iterator[tuple[list[int], list[KernelCounters]]]:
    """Launches that can stand for each other, in their order, with the kernels that they can stand for."""
    kernels = _Kernels(trace)
    groups: dict[_Key, list[KernelCounters]] = defaultdict(list)
    for launch in counters:
        shape = (launch.grid, launch.block) if launch.grid and launch.block else _ANY
        groups[_Key(_short(launch.name), spelling(launch.name), shape)].append(launch)
    for key, launches in groups.items():
        yield kernels.find(key), launches


@dataclass(frozen=True)
class _Key:
    """What a measured launch and a kernel of the trace have in common."""

    short: bool  # the name is the function's alone
    name: str
    shape: tuple[tuple[int, ...], tuple[int, ...]]  # grid and block


_ANY = ((), ())  # the shape of a launch that was printed without it: of kernels of any


class _Kernels:
    """The kernels of a trace by name and launch shape, in the order of launch."""

    def __init__(self, trace: Trace) -> None:
        self.rows: dict[_Key, list[int]] = defaultdict(list)
        self.spelled: dict[_Key, set[str]] = defaultdict(set)
        names = {i: spelling(trace.names[i]) for i in np.unique(trace.kernels.name).tolist()}
        for row in _launch_order(trace, trace.kernels).tolist():
            name = names[int(trace.kernels.name[row])]
            launch = int(trace.kernels.launch_shape[row])
            shape = (trace.launch_shapes[launch].grid, trace.launch_shapes[launch].block) if launch >= 0 else _ANY
            for key in {
                _Key(short, n, s) for short, n in ((False, name), (True, function(name))) for s in (shape, _ANY)
            }:
                self.rows[key].append(row)
                self.spelled[key].add(name)

    def find(self, key: _Key) -> list[int]:
        """Rows of one kernel; none where a name without template arguments is that of several."""
        return self.rows[key] if key in self.rows and len(self.spelled[key]) == 1 else []


def _launch_order(trace: Trace, kernels: DeviceWork) -> Int64s:
    """The rows by the start of the call that launched them; those that a graph's one launch ran, by their own."""
    if len(kernels) == 0 or (kernels.launch < 0).any():
        return np.argsort(kernels.start_ns, kind="stable")
    return np.lexsort((kernels.start_ns, trace.runtime_calls.start_ns[kernels.launch]))


def _warnings(made: KernelMeasurements, counters: Sequence[KernelCounters], alone: int) -> Iterator[str]:
    if alone:
        yield (
            f"{alone} of {made.launches} measured launches are of no kernel of the trace by name, grid and block; "
            "print them with ncu --print-kernel-base demangled, of the program that the trace is of"
        )
    if made.ambiguous:
        yield f"{made.ambiguous} kernels could be any of several measured launches that differ and were left out"
    reasons = Counter(reason for launch in counters for reason in launch.unknown)
    for reason, count in reasons.most_common(_REASONS_SHOWN):
        yield f"not known of {count} of {made.launches} measured launches: {reason}"


# Nsight writes "(int)4", "(bool)0", "<unnamed>::", "[lambda(int) (instance 1)]" and "const T &", and leaves out some
# namespaces; the GNU demangler, whose names Kineto has, writes "4", "false", "(anonymous namespace)::",
# "{lambda(int)#1}" and "T const&".
_SPELLINGS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\bconst\b", ""),
        (r"(?:\(anonymous namespace\)|<unnamed>|\{anonymous\})::", ""),
        (r"operator\s*\(\)", "call"),
        (r"\(bool\)(?:1|true)\b", "true"),
        (r"\(bool\)(?:0|false)\b", "false"),
        (r"\([A-Za-z_][\w: ]*\)(?=-?\d)", ""),  # of a number in the template arguments
        (r"\b(\d+)(?:[uU]?[lL]{0,2})\b", r"\1"),
        (r"\{lambda\((.*?)\)#(\d+)\}", r"lambda \1#\2"),
        (r"\[lambda\((.*?)\) \(instance (\d+)\)\]", r"lambda \1#\2"),
        (r"(\)|#\d+)\s*::", r"\1."),  # inside a function: no namespace
        (r"\bvoid (?=\w)", ""),
    )
)


@functools.lru_cache(maxsize=1 << 14)
def spelling(name: str) -> str:
    """A kernel's name with its template arguments in one spelling: no namespaces, return type, arguments or spaces."""
    for pattern, replacement in _SPELLINGS:
        name = pattern.sub(replacement, name)
    name = _without(name, "(", ")")
    return re.sub(r"\s", "", re.sub(r"\w+::", "", name))


def function(name: str) -> str:
    """The name alone, as ncu prints it when asked for no more: without namespaces and template arguments."""
    return _without(spelling(name), "<", ">")


def _short(name: str) -> bool:
    """Whether a name was printed without arguments: then it can be that of any instance of a template."""
    return not set("<(:") & set(name)


def _without(text: str, opening: str, closing: str) -> str:
    """The text without what stands between these brackets, nested ones included."""
    kept: list[str] = []
    depth = 0
    for character in text:
        depth += character == opening
        if depth == 0:
            kept.append(character)
        depth -= character == closing and depth > 0
    return "".join(kept)
