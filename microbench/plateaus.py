"""Which sizes belong to which level of the memory hierarchy? Read off the latencies, whatever the system reports.

A footprint cannot be slower than a larger one except by disturbance, so each latency is first replaced by the least of
its own and all larger sizes. The curve (logarithms) is then cut into at most four flat pieces by trying all
cuts, with the least sum of absolute deviations from the pieces' medians; a further piece must explain clearly more.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from probe.machine.device import Cache
from probe.units import format_bytes

MOST_LEVELS = 4
WORTH_A_LEVEL = 0.8  # sum of |log2| deviations that a further cut must save: two sizes 1.5 × off, say
DRAM_AT_LEAST_S = 45e-9  # no DRAM answers a core sooner, no last-level cache on 4 KiB pages is as slow when quiet
AGREES_WITHIN = 2.0  # sizes are powers of two: the true capacity lies within a factor of two


@dataclass(frozen=True)
class Plateau:
    """One level: its name, the sizes that lie in it, and the median of their least latencies (None: not measured)."""

    name: str
    sizes: tuple[int, ...]
    latency_s: float | None

    @property
    def capacity_bytes(self) -> int | None:
        """The largest size that still has this latency; None for DRAM, whose end was not seen."""
        return None if self.name == "DRAM" else self.sizes[-1]


def find(sizes: Sequence[int], latencies_s: Sequence[float]) -> tuple[Plateau, ...]:
    """The levels from the smallest size up; `sizes` ascending, one least latency each."""
    if not sizes:
        return ()
    envelope = np.minimum.accumulate(np.asarray(latencies_s, np.float64)[::-1])[::-1]
    edges = _cuts(np.log2(envelope))
    pieces = [slice(a, b) for a, b in itertools.pairwise(edges)]
    medians = [float(np.median(envelope[piece])) for piece in pieces]
    names = _names(medians)
    return tuple(
        Plateau(name, tuple(sizes[piece]), latency) for name, piece, latency in zip(names, pieces, medians, strict=True)
    )


def reported(caches: Sequence[Cache]) -> tuple[Plateau, ...]:
    """The levels as the system reports them, for when no latencies were measured; empty if it reports none."""
    known = sorted({cache.level: cache.bytes for cache in caches}.items())
    levels = [Plateau(f"L{level}", (size,), None) for level, size in known]
    return (*levels, Plateau("DRAM", (), None)) if levels else ()


def _names(latencies_s: list[float]) -> list[str]:
    """L1, L2, L3 in order; the last is DRAM if it is as slow as DRAM."""
    names = [f"L{i + 1}" for i in range(len(latencies_s))]
    if len(latencies_s) == MOST_LEVELS or (len(latencies_s) > 1 and latencies_s[-1] >= DRAM_AT_LEAST_S):
        names[-1] = "DRAM"
    return names


def _cuts(curve: npt.NDArray[np.float64]) -> list[int]:
    """Edges of the best pieces: [0, …, len(curve)]."""
    n = len(curve)
    deviations = {(a, b): _deviation(curve[a:b]) for a, b in itertools.combinations(range(n + 1), 2)}

    def cost(edges: list[int]) -> float:
        return sum(deviations[piece] for piece in itertools.pairwise(edges))

    best = [0, n]
    for pieces in range(2, min(MOST_LEVELS, n) + 1):
        inner = itertools.combinations(range(1, n), pieces - 1)
        candidate = min(([0, *edges, n] for edges in inner), key=cost)
        if cost(best) - cost(candidate) < WORTH_A_LEVEL:
            break
        best = candidate
    return best


def _deviation(piece: npt.NDArray[np.float64]) -> float:
    return float(np.sum(np.abs(piece - np.median(piece))))


def capacity(plateau: Plateau, caches: Sequence[Cache]) -> int | None:
    """The level's capacity: what was seen, made exact by what the system reports where the two agree."""
    seen = plateau.capacity_bytes
    reported = reported_bytes(plateau.name, caches)
    if seen and reported and seen / AGREES_WITHIN <= reported <= seen * AGREES_WITHIN:
        return reported
    return seen


def reported_bytes(name: str, caches: Sequence[Cache]) -> int | None:
    """The capacity the system reports for level `name` ("L2"); None where it reports none."""
    return next((cache.bytes for cache in caches if f"L{cache.level}" == name), None)


def disagreements(plateaus: Sequence[Plateau], caches: Sequence[Cache]) -> list[str]:
    """A sentence for each level whose seen capacity is not what the system reports."""
    found = []
    for plateau in plateaus:
        seen, reported = plateau.capacity_bytes, reported_bytes(plateau.name, caches)
        if seen and reported and capacity(plateau, caches) != reported:
            found.append(
                f"cache_latency: {plateau.name} looks like {format_bytes(seen)}, the system reports "
                f"{format_bytes(reported)}: it is shared with others, or the machine was busy"
            )
    return found
