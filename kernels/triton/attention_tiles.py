"""How large are the tiles of attention, how many warps and stages work on them, on which architecture?

Chosen so that no register is spilled and the shared memory of the architecture suffices, on every Triton that was
tried, which the tests see in the compiled code; among those the larger tiles, without timing them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Pass = Literal["forward", "keys", "queries"]  # the output; the gradients of keys and values; those of queries
FIRST_ARCHITECTURE = 80
INTERPRETED = 0  # the "architecture" of Triton's interpreter
FLOAT32_BYTES = 4
DELTA_ROWS = 32  # of one program of the kernel that sums out · d_out


@dataclass(frozen=True)
class Tiles:
    """Queries and keys of one tile, warps of one program, and stages of loads under way."""

    queries: int
    keys: int
    warps: int
    stages: int


Table = Mapping[Pass, Mapping[int, Tiles]]  # by head_dim

# Ampere, Ada and GeForce Blackwell: products from registers; 99 KiB of shared memory where it is least.
_REGISTERS: Table = {
    "forward": {
        16: Tiles(128, 64, 4, 3),
        32: Tiles(128, 64, 4, 3),
        64: Tiles(128, 64, 8, 3),
        128: Tiles(128, 32, 8, 2),
        256: Tiles(64, 32, 8, 2),
    },
    "keys": {
        16: Tiles(64, 128, 8, 2),
        32: Tiles(32, 128, 8, 2),
        64: Tiles(32, 128, 8, 2),
        128: Tiles(64, 64, 8, 1),
        256: Tiles(32, 32, 8, 1),
    },
    "queries": {
        16: Tiles(128, 64, 8, 2),
        32: Tiles(128, 64, 8, 2),
        64: Tiles(128, 64, 8, 2),
        128: Tiles(64, 64, 8, 1),
        256: Tiles(32, 32, 8, 1),
    },
}
# Hopper: products of warp groups from shared memory, 64 rows of the first factor at a time; 227 KiB.
_WARP_GROUPS: Table = {
    "forward": {
        16: Tiles(128, 128, 8, 3),
        32: Tiles(128, 128, 8, 3),
        64: Tiles(128, 128, 8, 3),
        128: Tiles(128, 128, 8, 2),
        256: Tiles(64, 64, 8, 2),
    },
    "keys": {
        16: Tiles(64, 128, 8, 2),
        32: Tiles(64, 128, 8, 2),
        64: Tiles(64, 128, 8, 2),
        128: Tiles(64, 64, 8, 2),
        256: Tiles(32, 32, 8, 1),
    },
    "queries": {
        16: Tiles(128, 64, 8, 2),
        32: Tiles(128, 64, 8, 2),
        64: Tiles(128, 64, 8, 2),
        128: Tiles(128, 64, 8, 2),
        256: Tiles(32, 32, 8, 1),
    },
}
# Data-centre Blackwell: sums in tensor memory, not in registers; 227 KiB.
_TENSOR_MEMORY: Table = {
    "forward": {
        16: Tiles(128, 128, 8, 3),
        32: Tiles(128, 128, 8, 3),
        64: Tiles(128, 128, 8, 3),
        128: Tiles(128, 128, 8, 2),
        256: Tiles(64, 64, 8, 2),
    },
    "keys": {
        16: Tiles(64, 128, 8, 2),
        32: Tiles(64, 128, 8, 2),
        64: Tiles(64, 128, 8, 2),
        128: Tiles(64, 128, 8, 2),
        256: Tiles(32, 64, 8, 1),
    },
    "queries": {
        16: Tiles(128, 64, 8, 2),
        32: Tiles(128, 64, 8, 2),
        64: Tiles(128, 64, 8, 2),
        128: Tiles(128, 64, 8, 2),
        256: Tiles(64, 64, 8, 1),
    },
}
_BY_GENERATION: Mapping[int, Table] = {9: _WARP_GROUPS, 10: _TENSOR_MEMORY, 11: _TENSOR_MEMORY}
# float32 from three products in TF32: twice the registers, the same tiles everywhere, and too many of them for 256.
_FLOAT32: Table = {
    "forward": {
        16: Tiles(32, 32, 4, 1),
        32: Tiles(32, 32, 4, 1),
        64: Tiles(32, 32, 4, 1),
        128: Tiles(16, 32, 4, 1),
    },
    "keys": {
        16: Tiles(32, 32, 8, 1),
        32: Tiles(16, 32, 4, 1),
        64: Tiles(32, 32, 8, 1),
        128: Tiles(16, 16, 4, 1),
    },
    "queries": {
        16: Tiles(32, 32, 8, 1),
        32: Tiles(32, 32, 8, 1),
        64: Tiles(32, 32, 8, 1),
        128: Tiles(16, 16, 4, 1),
    },
}


def head_dims(itemsize: int) -> tuple[int, ...]:
    """Those there are tiles for, for elements of `itemsize` bytes."""
    return tuple((_FLOAT32 if itemsize == FLOAT32_BYTES else _REGISTERS)["forward"])


def tiles_for(direction: Pass, head_dim: int, itemsize: int, architecture: int) -> Tiles:
    """For elements of `itemsize` bytes on compute capability architecture / 10."""
    if architecture == INTERPRETED:
        return Tiles(32, 16, 1, 1)  # small, so that short sequences have several
    table = _FLOAT32 if itemsize == FLOAT32_BYTES else _BY_GENERATION.get(architecture // 10, _REGISTERS)
    return table[direction][head_dim]
