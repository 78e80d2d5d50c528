"""What is each block for: a parameter, a gradient, the optimizer's state, an activation, or something short-lived?

Told by when it was allocated and when it was given back; sizes of parameters, where they are known, tell gradients from
what else a backward pass leaves behind.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from probe.analyzers.memory.blocks import AFTER, BEFORE, Blocks
from probe.analyzers.memory.phases import ZERO_GRAD, Phases, named_ranges
from probe.intervals import covers
from probe.results.memory_use import CATEGORIES, PHASES, Category
from probe.trace import Int32s, Int64s, Mask, Trace

FORWARD, BACKWARD, UPDATE = (PHASES.index(name) for name in ("forward", "backward", "optimizer"))
ROUNDED = 512  # bytes: the CUDA caching allocator hands out multiples of it
_PREFIX = "aten::"
# Operators that only provide memory; what it is for is known of the one that calls them.
_PROVIDERS = frozenset(
    _PREFIX + name
    for name in "empty empty_strided empty_like new_empty new_empty_strided empty_permuted resize_ zeros zeros_like "
    "new_zeros ones ones_like full full_like new_full set_ contiguous clone".split()
)


def code(category: Category) -> int:
    """The number of a category."""
    return CATEGORIES.index(category)


def categories(trace: Trace, found: Blocks, pieces: Phases, parameter_bytes: Collection[int]) -> Int64s:
    """The category of each block, as a number into CATEGORIES, [blocks]."""
    first, last = pieces.at(found.begin_ns), pieces.at(found.end_ns)
    begun, ended = pieces.kind[first], pieces.kind[last]
    stays, there = found.end_ns == AFTER, found.begin_ns == BEFORE
    at_once = ~there & (first == last) & ~stays
    trains = _has_backward(pieces, pieces.step[first])
    like_parameter = of_size(found.bytes, parameter_bytes)
    kept = _beyond_next_step(pieces, first, last, stays)
    result = np.full(len(found), code("other"))
    told: tuple[tuple[Category, Mask], ...] = (  # the later ones are surer
        ("activations", (begun == FORWARD) & ~kept),
        ("activations", there & (ended == BACKWARD)),
        ("gradients", ~at_once & (begun == BACKWARD) & like_parameter),
        ("gradients", (begun != FORWARD) & covers(named_ranges(trace, ZERO_GRAD), found.end_ns)),
        ("gradients", there & like_parameter & ~stays & (ended == FORWARD)),
        ("optimizer", (begun == UPDATE) & (kept | stays)),
        ("temporary", ~at_once & (begun == UPDATE) & ~kept & ~stays),
        ("temporary", at_once & (trains | (begun != FORWARD))),
        ("workspace", ~there & (found.end_ns <= _owner_ends(trace, found))),
    )
    for category, rows in told:
        result[rows] = code(category)
    return result


def of_size(sizes: Int64s, wanted: Collection[int]) -> Mask:
    """Which sizes are those of a parameter, rounded or not; all of them where no parameter's size is known."""
    if not wanted:
        return np.ones(len(sizes), bool)
    known = np.array(sorted(wanted), np.int64)
    return np.isin(sizes, np.concatenate([known, -(-known // ROUNDED) * ROUNDED]))


def owners(trace: Trace, op: Int32s) -> Int32s:
    """The operators for which memory was allocated: callers of those that only provide it; -1 for none."""
    provides = trace.named(lambda name: name in _PROVIDERS)
    ops = trace.host_ops
    owner = op.copy()
    while True:
        known = owner >= 0
        climbs = known.copy()
        climbs[known] = provides[ops.name[owner[known]]] & (ops.parent[owner[known]] >= 0)
        if not climbs.any():
            return owner
        owner[climbs] = ops.parent[owner[climbs]]


def _owner_ends(trace: Trace, found: Blocks) -> Int64s:
    """When the operator for which each block was allocated ended; before everything where there was none."""
    owner = owners(trace, found.op)
    return np.where(owner >= 0, np.append(trace.host_ops.end_ns, BEFORE)[owner], BEFORE)


def _has_backward(pieces: Phases, step: Int64s) -> Mask:
    """Whether the given steps have a backward pass; outside of steps there is none."""
    training = np.unique(pieces.step[pieces.kind == BACKWARD])
    return np.isin(step, training) & (step >= 0)


def _beyond_next_step(pieces: Phases, first: Int64s, last: Int64s, stays: Mask) -> Mask:
    """Which blocks outlive the step after the one that allocated them: they are kept, not overwritten in turn."""
    steps = int(pieces.step.max(initial=-1)) + 1
    begun, ended = pieces.step[first], np.where(stays, steps, pieces.step[last])
    ended = np.where(ended < 0, steps, ended)  # given back after the last step
    kept: Mask = (begun < 0) | (ended > begun + 1)
    return kept
