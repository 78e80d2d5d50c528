"""M01, M02: memory is taken from the driver, or given back to it, in every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from probe.analyzers.operators.steps import step_of
from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.timeline.calls import calls_named, is_allocation, is_draining
from probe.analyzers.timeline.device import device_busy
from probe.intervals import difference, intersection, union
from probe.trace import Int64s, Mask, RuntimeCalls
from probe.units import format_bytes, format_fraction, format_time

WARM_STEP = 2  # from here on a step should find all memory in the allocator's cache
HOST_MEMORY = ("host", "register")  # of calls that make memory of the host known to the device
RETRIED = "memory is given back within operators: an allocation failed and was tried again"
GIVES_BACK = ("free", "unmap", "release")


def emptied_cache(context: Context) -> Iterator[Match]:
    """M02: torch.cuda.empty_cache() in the loop: memory is given back to the driver outside every operator."""
    calls = _steady(context)
    given_back = _emptying(context, calls)
    if not given_back.any():
        return
    frees = len(np.unique(calls.start_ns[given_back])) / len(context.steps)
    mallocs = (len(calls) - int(given_back.sum())) / len(context.steps)
    lost_s = _lost_s(context, calls)
    yield Match(
        rows=(),
        ops=(),
        summary=(
            f"the allocator's cache is given back to the driver {times(frees)}"
            f"{f' and taken again with {mallocs:.0f} calls' if mallocs else ''}: "
            f"the device idles {format_time(lost_s)} for it, {format_fraction(lost_s / context.step_s)} of the step"
        ),
        evidence=(_named(context, calls), "outside every operator, where only empty_cache() frees", *_dropped(context)),
        saving_s=lost_s,
        where="outside operators",
        replacement="no call of torch.cuda.empty_cache() in the loop",
        how="# remove torch.cuda.empty_cache() from the step; the allocator reuses what it holds",
    )


def steady_state(context: Context) -> Iterator[Match]:
    """M01: operators of a step that is no longer new still ask the driver for memory, or wait while it takes some."""
    calls = _steady(context)
    if not len(calls) or _emptying(context, calls).any():
        return
    lost_s = _lost_s(context, calls)
    host = _with_words(context, calls, HOST_MEMORY)
    pinned = int(host.sum()) * 2 > len(calls)
    spent_s = int((calls.end_ns - calls.start_ns).sum()) / 1e9 / len(context.steps)
    retried = _with_words(context, calls, GIVES_BACK) & ~host & (calls.op >= 0)
    yield Match(
        rows=(),
        ops=tuple(dict.fromkeys(context.groups.of_op[calls.op[calls.op >= 0]].tolist())),
        summary=(
            f"{len(calls) / len(context.steps):.0f} calls per step take {'pinned ' if pinned else ''}memory from the "
            f"driver or give it back: {format_time(spent_s)}, in which the device idles {format_time(lost_s)}"
        ),
        evidence=(
            _named(context, calls),
            f"in steps {int(context.steps.number[0])} to {int(context.steps.number[-1])}, which are no longer new",
            *((RETRIED,) if retried.any() else ()),
        ),
        saving_s=lost_s,
        where=_callers(context, calls),
        replacement="one pinned buffer, reused" if pinned else "segments that grow, and shapes that repeat",
        how=(
            "buffer = torch.empty(shape, pin_memory=True)  # once, before the loop; then buffer.copy_(batch)"
            if pinned
            else 'PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True  # and pad the batches to a few fixed sizes'
        ),
    )  # fmt: skip


def _steady(context: Context) -> RuntimeCalls:
    """Calls that take or give back memory in steps that are no longer new; none where they do not go on to the end."""
    trace, steps = context.trace, context.steps
    calls = trace.runtime_calls
    rows = np.flatnonzero(calls_named(trace, is_allocation))
    step = step_of(steps, calls.start_ns[rows])
    if not len(trace.steps):
        return calls.where(rows[:0])
    warm = (step >= 0) & (steps.number[np.maximum(step, 0)] >= WARM_STEP)
    last = len(steps) - 1
    goes_on = bool((step[warm] == last).any()) and len(np.unique(step[warm])) * 2 >= len(steps)
    return calls.where(rows[warm] if goes_on else rows[:0])


def _with_words(context: Context, calls: RuntimeCalls, words: tuple[str, ...]) -> Mask:
    """Which of the calls have one of the words in their names."""
    found: Mask = context.trace.named(lambda name: any(word in name.lower() for word in words))[calls.name]
    return found


def _emptying(context: Context, calls: RuntimeCalls) -> Mask:
    """Which calls give back memory of the device outside every operator."""
    host = _with_words(context, calls, HOST_MEMORY)
    return _with_words(context, calls, GIVES_BACK) & ~host & (calls.op < 0)


def _lost_s(context: Context, calls: RuntimeCalls) -> float:
    """Idle time of the device per step during such calls; after one that drains the queue, until the next work."""
    busy = device_busy(context.trace)
    drains = context.trace.named(is_draining)[calls.name]
    following = np.searchsorted(busy.starts, calls.end_ns)
    refilled = np.append(busy.starts, np.iinfo(np.int64).max)[following]
    end = np.where(drains & (following < len(busy)), refilled, calls.end_ns)
    in_steps = union(context.steps.start_ns, context.steps.end_ns)
    idle = intersection(difference(union(calls.start_ns, end), busy), in_steps)
    return idle.length_ns / 1e9 / len(context.steps)


def _named(context: Context, calls: RuntimeCalls) -> str:
    """The calls by name: "cudaMalloc 3 times per step, cudaFree once per step"."""
    counts = Counter(context.trace.names[name] for name in calls.name.tolist())
    return ", ".join(f"{name} {times(count / len(context.steps))}" for name, count in counts.most_common())


def _callers(context: Context, calls: RuntimeCalls) -> str | None:
    """The operator that makes most of the calls."""
    rows: Int64s = calls.op[calls.op >= 0].astype(np.int64)
    if not len(rows):
        return None
    names: Counter[str] = Counter(context.trace.names[name] for name in context.trace.host_ops.name[rows].tolist())
    return max(names, key=names.__getitem__)


def _dropped(context: Context) -> Iterator[str]:
    """How far what the allocator holds falls within the steps, where allocations were recorded."""
    use = context.memory
    if use is None or use.levels.reserved is None:
        return
    held = use.levels.reserved[use.levels.inside]
    fall = int(-np.diff(held).min(initial=0))
    if fall > 0:
        yield f"what the allocator holds falls by {format_bytes(fall)} at once"


RULES = (
    Rule(
        code="M02",
        name="empty-cache-in-loop",
        title="the allocator's cache is emptied in the loop",
        find=emptied_cache,
        trigger="cudaFree (or unmapping) outside every operator in steps that are no longer new",
        advice="remove torch.cuda.empty_cache() from the step; where memory is short, lower the peak instead",
        saving="time during which the device is idle while memory is given back and taken again",
        cannot_show="why it was called: another process may need the memory in between",
        proof="flag",
        effort="line",
        needs=("launches",),
        example=Example("loss.backward(); torch.cuda.empty_cache()", "loss.backward()"),
        shares=True,
        about="memory",
    ),
    Rule(
        code="M01",
        name="steady-state-malloc",
        title="memory is still taken from the driver",
        find=steady_state,
        trigger="cudaMalloc, cudaFree or their like in steps that are no longer new, up to the last recorded one",
        advice="expandable segments, shapes that repeat, or a larger pool; for pinned memory a buffer that is reused",
        saving="time during which the device is idle while such calls run; a cudaFree drains its queue first",
        cannot_show="whether the sizes differ in every step for a reason",
        proof="flag",
        effort="flag",
        needs=("launches",),
        example=Example("python train.py", "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True python train.py"),
        shares=True,
        about="memory",
    ),
)
