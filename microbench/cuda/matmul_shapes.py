"""Which shapes of matrix products are tried on a GPU, and what bounds them: its memory, and the time of one product?"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

from probe.microbench.precisions import Precision, Shape
from probe.microbench.suite import Context

SHAPES: tuple[Shape, ...] = (
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (3072, 3072, 3072),
    (2048, 13312, 2048),
    (4096, 4096, 4096),
    (4096, 8192, 4096),
    (6144, 6144, 6144),
    (8192, 4096, 8192),
    (8192, 8192, 8192),
    (10240, 10240, 10240),
    (16384, 16384, 16384),
)
QUICK: tuple[Shape, ...] = ((2048, 2048, 2048), (4096, 4096, 4096), (8192, 8192, 8192))
# Nobody takes time slices away here, and before its first product a GPU waits some microseconds for the host: in
# windows this long that is about a thousandth.
WINDOW_S, QUICK_WINDOW_S = 10e-3, 3e-3
SAFE_SHARE = 0.25  # of the free memory; the rest belongs to whoever else is on the GPU
TILE = (128, 256)  # rows and columns of the result that one block of a fast kernel often computes
TILES_ACROSS, TILES_AN_SM = 16, 4
DEPTH = 8192  # of the shape with whole waves


@dataclass(frozen=True)
class Limits:
    """What bounds the search: seconds of a window and of one product, and bytes of memory (None: not asked).

    `foreseen`: the time of a larger shape follows from the rate so far, as it does where nobody shares the device.
    """

    window_s: float
    longest_s: float
    room_bytes: int | None = None
    foreseen: bool = False

    def too_large(self, precision: Precision, shape: Shape) -> bool:
        """Whether the matrices of one product do not fit."""
        return self.room_bytes is not None and precision.memory_bytes(shape) > self.room_bytes

    def too_long(self, shape: Shape, flops_per_s: float) -> bool:
        """Whether one product of `shape` takes too long at the best rate so far (0: none is known)."""
        return self.foreseen and flops_per_s > 0 and 2 * math.prod(shape) > self.longest_s * flops_per_s


def shapes(context: Context) -> tuple[Shape, ...]:
    """The shapes to try on the context's device, the least work first."""
    wanted = {*(QUICK if context.quick else SHAPES), *whole_waves(context.device.sm_count)}
    return tuple(sorted(wanted, key=lambda shape: (math.prod(shape), shape)))


def whole_waves(sm_count: int | None) -> tuple[Shape, ...]:
    """A shape whose result is four tiles for each SM, so that in the end no SM waits for the others; () for no such."""
    tiles = TILES_AN_SM * (sm_count or 0)
    if not tiles or tiles % TILES_ACROSS:
        return ()
    rows, columns = TILE
    return ((tiles // TILES_ACROSS * rows, DEPTH, TILES_ACROSS * columns),)


def room_bytes(index: int) -> int:
    """A safe share of the free memory of torch's `cuda:<index>`; what torch kept for later is given back first."""
    import torch

    give_back()
    free, _ = torch.cuda.mem_get_info(index)
    return int(SAFE_SHARE * free)


def give_back() -> None:
    """Make torch return the memory that it keeps for later: suites without torch cannot use it."""
    import torch

    with suppress(RuntimeError):  # a GPU that was lost has nothing to give back
        torch.cuda.empty_cache()
