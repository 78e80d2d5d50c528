"""Which of two is faster on a machine that others use too? Short windows in pairs of random order.

Random order makes a pair of equals a fair coin, whatever the noise and however long it lasts: neighbours, clocks and
caches meet both alike. Both sides are built anew at each round, so that where the allocator happens to put a side's
memory is noise too and not a property of the side.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from probe.microbench.harness import Clock, Window
from probe.verify.ratios import Pairs
from probe.verify.verdict import LOOKS, settled

LEAST_S = 0.5  # neighbours come and go within tenths of a second: less shows only one mood of the machine
ROUNDS = (7, 14, *LOOKS)  # pairs after which both sides are built anew: three layouts before the first look


def measure(build: Callable[[], tuple[Window, Window]], budget_s: float, seed: int, clock: Clock) -> Pairs:
    """Pairs (original, candidate) in seconds per call, until they decide or the budget is spent.

    `build` gives a fresh window of each side; a round begins with one unrecorded pair.
    """
    rng = random.Random(seed)
    start = clock()
    least_s = min(LEAST_S, budget_s / 2)
    old_s: list[float] = []
    new_s: list[float] = []
    for pairs_by_then in ROUNDS:
        sides = build()
        _pair(*sides, rng)
        while len(old_s) < pairs_by_then:
            if clock() - start >= budget_s:
                return Pairs(old_s, new_s)
            old, new = _pair(*sides, rng)
            old_s.append(old)
            new_s.append(new)
        if pairs_by_then in LOOKS and clock() - start >= least_s and settled(Pairs(old_s, new_s)):
            break
    return Pairs(old_s, new_s)


def _pair(old: Window, new: Window, rng: random.Random) -> tuple[float, float]:
    """One window of each in random order: seconds of (old, new)."""
    if rng.random() < 0.5:
        first = old()
        return first, new()
    second = new()
    return old(), second
