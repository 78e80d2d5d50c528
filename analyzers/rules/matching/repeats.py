"""Where does a sequence of calls repeat itself, as a Python loop makes it do, and how long do stretches of one take?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from probe.analyzers.rules.context import Context
from probe.intervals import union
from probe.trace import Int64s

LONGEST = 40  # calls in the body of a loop: longer bodies cost more by what they do than by being repeated


class Repeat(NamedTuple):
    """A stretch of a sequence that is `times` copies of its first `period` entries."""

    first: int
    period: int
    times: int

    @property
    def last(self) -> int:
        """Index behind the stretch."""
        return self.first + self.period * self.times


def repeats(keys: Sequence[int] | Int64s, fewest: int, longest: int = LONGEST) -> list[Repeat]:
    """The stretches in which `keys` repeat at least `fewest` times, in order; of two that overlap the longer one.

    Of bodies that cover a stretch equally well, the shortest is the body.
    """
    return list(_repeats(np.asarray(keys, np.int64).tobytes(), fewest, longest))


@lru_cache(maxsize=256)  # steps repeat
def _repeats(keys: bytes, fewest: int, longest: int) -> tuple[Repeat, ...]:
    values = np.frombuffer(keys, np.int64)
    found = [r for period in range(1, min(longest, len(values) // fewest) + 1) for r in _of(values, period, fewest)]
    found.sort(key=lambda r: (-r.period * r.times, r.period))
    taken = np.zeros(len(values), bool)
    kept = []
    for repeat in found:
        if not taken[repeat.first : repeat.last].any():
            taken[repeat.first : repeat.last] = True
            kept.append(repeat)
    return tuple(sorted(kept))


def _of(values: Int64s, period: int, fewest: int) -> list[Repeat]:
    """The stretches of one period: an entry equals the one a period later, for long enough."""
    same = np.concatenate([[False], values[:-period] == values[period:], [False]])
    edges = np.flatnonzero(np.diff(same.astype(np.int8)))
    pairs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return [Repeat(a, period, (b - a) // period + 1) for a, b in pairs if (b - a) // period + 1 >= fewest]


def elapsed_s(context: Context, spans: Iterable[tuple[int, int]]) -> float:
    """What stretches of host code, in nanoseconds, take per step, without the profiler's own part.

    On a CPU that is their length, Python between the calls included. Where a device does the work it is the time from
    the first kernel that a stretch launches to the end of the last: what the device waits in between counts too.
    """
    pairs = np.array(list(spans), np.int64).reshape(-1, 2)
    if context.trace.on_device:
        return float(_on_device(context, pairs)) / 1e9 / len(context.steps)
    length_ns = union(pairs[:, 0], pairs[:, 1]).length_ns
    return float(length_ns) / 1e9 / len(context.steps) * bare_fraction(context)


def _on_device(context: Context, pairs: Int64s) -> int:
    """Length of the device work that the stretches launch, nanoseconds."""
    kernels = context.trace.kernels
    owned = np.flatnonzero(kernels.op >= 0)
    launched = context.trace.host_ops.start_ns[kernels.op[owned]]
    owned = owned[np.argsort(launched, kind="stable")]
    launched = np.sort(launched)
    first, last = np.searchsorted(launched, pairs[:, 0]), np.searchsorted(launched, pairs[:, 1])
    ranges = [owned[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True) if b > a]
    starts = [int(kernels.start_ns[rows].min()) for rows in ranges]
    ends = [int(kernels.end_ns[rows].max()) for rows in ranges]
    return union(starts, ends).length_ns


def bare_fraction(context: Context) -> float:
    """How long host code takes without the profiler, as a share of what was recorded; a device's work is not slowed."""
    return 1.0 if context.trace.on_device else context.bare_fraction


def as_recorded_s(context: Context, bare_s: float) -> float:
    """A time without the profiler as the recorded one, which is what savings of operators are stated in."""
    return bare_s / (bare_fraction(context) or 1.0)


def replaced_as_recorded_s(context: Context, least_s: float) -> float:
    """What takes the place of recorded operators, to be taken from their recorded time.

    The profiler would hardly stretch it; a busy machine slows it as it slowed the step.
    """
    return least_s / (min(bare_fraction(context), 1.0) or 1.0)


def share_of_step(context: Context, bare_s: float) -> float:
    """A time without the profiler as a share of the step; both as recorded, where a busy machine slows both alike."""
    return as_recorded_s(context, bare_s) / context.recorded_s if context.recorded_s > 0 else 0.0


def rows_between(context: Context, first: int, last: int) -> list[int]:
    """All operators from row `first` to row `last` of one thread, with what the last one calls, unless claimed."""
    ops = context.trace.host_ops
    beyond = last + 1
    while beyond < len(ops) and ops.thread[beyond] == ops.thread[last] and ops.start_ns[beyond] < ops.end_ns[last]:
        beyond += 1
    return [row for row in range(first, beyond) if row not in context.claimed]
