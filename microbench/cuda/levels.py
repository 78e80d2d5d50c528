"""Which sizes belong to which level of a GPU's memory hierarchy? L1, L2, its far part, and DRAM, read off latencies.

The pieces of the curve are those that `plateaus.find` cuts. Names follow from what is known of every GPU since Volta:
L1 answers in tens of cycles, L2 in hundreds. What lies within the size that the driver gives for L2 is served by L2,
what was chased through with L2 overwritten before (`params.warmed` is false) by DRAM, and sizes between these are a
mixture without a level. A second, slower piece within L2 is called its far part: the data no longer fits into what is
next to the SM (or, which looks alike, into what a TLB covers).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from probe.microbench import plateaus
from probe.microbench.plateaus import Plateau
from probe.results.measurement import Measurement

L1, SHARED, L2, L2_FAR, DRAM = "L1", "shared", "L2", "L2 far", "DRAM"
THROUGH_L1, PAST_L1 = "ld.global", "ld.global.cg"  # params.load; the sizes of the first are the sweep
L1_BELOW_CYCLES = 128  # Pascal's 84 are the slowest L1 that was published, Volta's 193 the quickest L2


def sweep(measurements: Sequence[Measurement]) -> tuple[Measurement, ...]:
    """Those that show the levels: ordinary loads by size, from the smallest up."""
    rows = [m for m in measurements if m.suite == "cache_latency" and m.params.get("load") == THROUGH_L1]
    return tuple(sorted(rows, key=lambda m: int(m.params["size_bytes"])))


def find(measurements: Sequence[Measurement], l2_bytes: int | None) -> tuple[Plateau, ...]:
    """The levels from the SM outward, with the median of their sizes' best latencies in seconds.

    `capacity_bytes` of each is the largest size that was seen in it. Where the driver gives no size of L2, all that
    was warmed lies in L2 or before it.
    """
    rows = sweep(measurements)
    warmed = [m for m in rows if m.params.get("warmed", True) and m.params["size_bytes"] <= (l2_bytes or np.inf)]
    levels = _cached(warmed)
    beyond = [m for m in rows if not m.params.get("warmed", True)]
    return (*levels, _plateau(DRAM, beyond)) if beyond else levels


def _cached(rows: Sequence[Measurement]) -> tuple[Plateau, ...]:
    """L1, L2 and the far part of L2, those of them that the curve shows."""
    sizes = [int(m.params["size_bytes"]) for m in rows]
    pieces = [[m for m in rows if m.params["size_bytes"] in p.sizes] for p in _pieces(sizes, rows)]
    lasting = [piece for piece in pieces if len(piece) > 1 or piece in (pieces[0], pieces[-1])]  # no climbs
    near = [piece for piece in lasting if _cycles(piece) < L1_BELOW_CYCLES]
    far = [piece for piece in lasting if piece not in near]
    named = [(L1, [m for piece in near for m in piece]), *zip((L2, L2_FAR), far, strict=False)]
    return tuple(_plateau(name, piece) for name, piece in named if piece)


def _pieces(sizes: Sequence[int], rows: Sequence[Measurement]) -> tuple[Plateau, ...]:
    return plateaus.find(sizes, [m.min for m in rows])


def _cycles(piece: Sequence[Measurement]) -> float:
    return float(np.median([m.params["cycles"] for m in piece]))


def _plateau(name: str, rows: Sequence[Measurement]) -> Plateau:
    latency_s = float(np.median([m.min for m in rows]))
    return Plateau(name, tuple(int(m.params["size_bytes"]) for m in rows), latency_s)


def labelled(measurements: Sequence[Measurement], l2_bytes: int | None) -> tuple[Measurement, ...]:
    """The measurements with `params.level`: the sweep's as found, None between levels; the others keep their own."""
    level_of = {size: plateau.name for plateau in find(measurements, l2_bytes) for size in plateau.sizes}
    of_sweep = {id(m) for m in sweep(measurements)}
    return tuple(
        dataclasses.replace(m, params=m.params | {"level": level_of.get(m.params["size_bytes"])})
        if id(m) in of_sweep
        else m
        for m in measurements
    )
