"""What of the parts of a recorded step is the profiler's own time, and what are they without it?"""

from __future__ import annotations

import numpy as np

from probe.analyzers.classify import DISPATCHES
from probe.analyzers.operators.op_table import OpGroups
from probe.analyzers.timeline.threads import main_thread
from probe.results.analysis import Bound
from probe.trace import Trace
from probe.units import format_time

# Recording one operator with shapes costs about this at the most (measured: 1.3 to 2.5 µs on a 3 GHz Zen 3 core). What
# a recorded step takes longer than that is the machine's noise, and no part's own.
MOST_PER_CALL_S = 3e-6


def recording_shares(trace: Trace, groups: OpGroups, bounds: tuple[Bound, ...], dispatch_s: float) -> dict[str, float]:
    """In which parts the profiler's own work lies: recording an operator lengthens what encloses its call.

    That is the operator that made the call, or the gap before it. On a device it is the host's dispatching.
    """
    thread = main_thread(trace)
    rows = np.flatnonzero((trace.host_ops.thread == thread) & (groups.step_of_op >= 0))
    if trace.on_device or not len(rows):
        return {"overhead": 1.0}
    parent = trace.host_ops.parent[rows]
    kinds = groups.of_calls(bounds)
    top = rows[parent < 0]
    pause = np.diff(trace.host_ops.start_ns[top], prepend=trace.host_ops.start_ns[top[:1]])
    pause[1:] -= (trace.host_ops.end_ns - trace.host_ops.start_ns)[top[:-1]]
    long_gaps = int((pause > DISPATCHES * dispatch_s * 1e9).sum())
    names, counts = np.unique(kinds[parent[parent >= 0]], return_counts=True)
    found = dict(zip(names.tolist(), counts.tolist(), strict=True))
    found["host"] = found.get("host", 0) + long_gaps
    found["overhead"] = found.get("overhead", 0) + len(top) - long_gaps
    return {part: count / len(rows) for part, count in found.items()}


def without_profiler(
    mean: dict[str, float], bare_s: float | None, shares: dict[str, float], calls: float
) -> tuple[dict[str, float], str | None]:
    """The parts of a step that ran without the profiler, and how they were corrected.

    What the profiler added, and no more than so many operator calls can have cost, is taken from the parts in the given
    shares, as far as each can carry it; what is left over, or a bare step that took longer than the recorded ones, is
    spread over all parts in proportion.
    """
    total = sum(mean.values())
    if bare_s is None or total <= 0:
        return mean, None
    excess = min(max(total - bare_s, 0.0), MOST_PER_CALL_S * calls)
    taken = {part: min(shares.get(part, 0.0) * excess, value) for part, value in mean.items()}
    reduced = {part: value - taken[part] for part, value in mean.items()}
    rest = sum(reduced.values())
    scale = bare_s / rest if rest > 0 else 1.0
    corrected = {part: value * scale for part, value in reduced.items()}
    return corrected, _correction(sum(taken.values()), scale)


def _correction(taken_s: float, scale: float) -> str | None:
    removed = f"{format_time(taken_s)} of the profiler's own time were taken out" if taken_s else ""
    scaled = f"all parts were scaled by {scale:.3f}" if abs(scale - 1) > 1e-3 else ""
    said = ", ".join(t for t in (removed, scaled) if t)
    return f"parts are for the bare step: {said}" if said else None
