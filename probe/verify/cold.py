"""How much faster where nothing is in the caches? A few single calls of both sides, each after a flush."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from probe.microbench.harness import Clock

FLUSH_BYTES = 1 << 28  # more than any last-level cache but one of the largest servers'
MOST_PAIRS = 7
FEWEST_PAIRS = 3
SPENT_S = 1.5  # at the most, of what the budget has left


def cold_ratio(
    old: Callable[[], float], new: Callable[[], float], device: str, clock: Clock
) -> tuple[float, int] | None:
    """Median of old / new over a few pairs with cold caches, and how many; None where too few fit in."""
    import torch

    flushed = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)
    end = clock() + SPENT_S
    ratios: list[float] = []
    while len(ratios) < MOST_PAIRS and clock() < end:
        seconds = []
        for call in (old, new) if len(ratios) % 2 else (new, old):
            flushed.fill_(len(ratios))
            seconds.append(call())
        first, second = seconds if len(ratios) % 2 else seconds[::-1]
        ratios.append(first / second)
    return (median(ratios), len(ratios)) if len(ratios) >= FEWEST_PAIRS else None
