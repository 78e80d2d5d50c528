"""Which operators make the difference between two steps, and what changed about them?

An operator's own effect often spreads: the one after it finds colder caches. Causes are therefore ordered by what they
add to the step, not by how sure they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from probe.analyzers.gates.evidence import Key, OperatorTimes, Session
from probe.analyzers.gates.sequential import bounds
from probe.results.gate_result import Cause

MOST = 10


@dataclass(frozen=True)
class Change:
    """One operator over all sessions: mean seconds per step of both sides, and the log ratios where both have it."""

    key: Key
    base_s: float
    new_s: float
    log_ratios: tuple[float, ...]

    @property
    def delta_s(self) -> float:
        """What it adds to the step."""
        return self.new_s - self.base_s


def changes(sessions: Sequence[Session], scale: float = 1.0) -> list[Change]:
    """Every operator; `scale` takes the profiled times to those without the profiler."""
    keys = dict.fromkeys(key for s in sessions for side in (s.base_operators, s.new_operators) for key in side.seconds)
    return [_change(key, sessions, scale) for key in keys]


def _change(key: Key, sessions: Sequence[Session], scale: float) -> Change:
    pairs = [(s.base_operators.seconds.get(key, 0.0), s.new_operators.seconds.get(key, 0.0)) for s in sessions]
    base, new = np.asarray(pairs).T * scale
    both = tuple(float(np.log(n / b)) for b, n in zip(base, new, strict=True) if b > 0 and n > 0)
    return Change(key, float(base.mean()), float(new.mean()), both if len(both) == len(pairs) else ())


def causes(sessions: Sequence[Session], found: Sequence[Change], delta_s: float, least_s: float) -> tuple[Cause, ...]:
    """The operators whose change is sure and at least `least_s`, those first that add most to the difference."""
    sure = [c for c in found if abs(c.delta_s) >= least_s and _is_sure(c)]
    base, new = _with_calls(sessions, "base"), _with_calls(sessions, "new")
    return weightiest([_cause(c, base, new, found, delta_s) for c in sure], delta_s)


def weightiest(found: Sequence[Cause], delta_s: float) -> tuple[Cause, ...]:
    """Those that add most to the difference, first; no more than ten."""
    sign = -1.0 if delta_s < 0 else 1.0
    return tuple(sorted(found, key=lambda cause: -cause.delta_s * sign)[:MOST])


def called_otherwise(before: float, after: float) -> str | None:
    """How often an operator is called per step, where that changed."""
    return f"called {after:g} times per step, {before:g} before" if round(before) != round(after) else None


def _is_sure(change: Change) -> bool:
    """Whether it is on one side only, or its time is surely another."""
    if not change.base_s or not change.new_s:
        return True
    if len(change.log_ratios) < 2:
        return False
    found = bounds(change.log_ratios)
    return found.lower > 0 or found.upper < 0


def _with_calls(sessions: Sequence[Session], side: str) -> OperatorTimes:
    """Calls and kernels of the first session that has them; they do not vary as times do."""
    for session in sessions:
        times: OperatorTimes = session.base_operators if side == "base" else session.new_operators
        if times.calls:
            return times
    return OperatorTimes()


def _cause(change: Change, base: OperatorTimes, new: OperatorTimes, found: Sequence[Change], delta_s: float) -> Cause:
    name, shapes = change.key
    return Cause(
        op=name,
        shapes=shapes,
        base_s=change.base_s or None,
        new_s=change.new_s or None,
        delta_s=change.delta_s,
        share_fraction=change.delta_s / delta_s if delta_s else None,
        reason=_reason(change, base, new, found),
        base_calls=base.calls.get(change.key),
        new_calls=new.calls.get(change.key),
    )


def _reason(change: Change, base: OperatorTimes, new: OperatorTimes, found: Sequence[Change]) -> str:
    before, after = base.calls.get(change.key, 0.0), new.calls.get(change.key, 0.0)
    if not change.base_s or not change.new_s:
        other = _with_other_shapes(change, found)
        here = "new" if change.new_s else "gone"
        return f"{here}: the shapes were {other}" if other and change.new_s else here
    if before and after and (called := called_otherwise(before, after)):
        return called
    left, right = base.kernels.get(change.key[0], ()), new.kernels.get(change.key[0], ())
    if left and right and set(left) != set(right):
        return f"runs {_first(right, left)} instead of {_first(left, right)}"
    per_call = change.new_s / change.base_s
    same = "the same kernels" if left else "the same calls"
    return f"{same}, each {'slower' if per_call > 1 else 'faster'}: {per_call:.2f}× the time"


def _first(names: tuple[str, ...], without: tuple[str, ...]) -> str:
    return next((name for name in names if name not in without), "fewer kernels")


def _with_other_shapes(change: Change, found: Sequence[Change]) -> str | None:
    """The shapes that the same operator had on the other side, where it vanished there."""
    for other in found:
        if other.key[0] == change.key[0] and other.key != change.key and other.base_s and not other.new_s:
            return other.key[1]
    return None


def scale_of(sessions: Sequence[Session], bare_s: float) -> float:
    """How much shorter a step is without the profiler: bare seconds by the sum of the operators', at most 1."""
    sums = [sum(s.base_operators.seconds.values()) for s in sessions if s.base_operators.seconds]
    return min(bare_s / float(np.mean(sums)), 1.0) if sums and np.mean(sums) > 0 else 1.0


def by_name(found: Sequence[Change], step_s: float, share: float) -> Iterator[tuple[str, Change]]:
    """The operators that are on both sides in every session and large enough to be tested."""
    for change in found:
        if change.log_ratios and max(change.base_s, change.new_s) >= share * step_s:
            yield label(change.key), change


def label(key: Key) -> str:
    """An operator in one line."""
    return f"{key[0]} {key[1]}" if key[1] else key[0]
