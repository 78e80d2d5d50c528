"""Which tile of rows and columns does one program of a pointwise kernel take? 128-bit accesses, few wasted lanes."""

from __future__ import annotations

from dataclasses import dataclass

ELEMENTS = 4096  # of a tile: 32 a thread with 4 warps, four 128-bit accesses to half types
WIDEST = 1024
NARROWEST = 16
WASTED = 1 / 8  # of the columns, for a wider tile
WARPS = 4


@dataclass(frozen=True)
class Tile:
    """Rows and columns, powers of 2, of a matrix of which it covers a part."""

    rows: int
    columns: int

    def down(self, rows: int) -> int:
        """Tiles one below the other."""
        return -(-rows // self.rows)

    def across(self, columns: int) -> int:
        """Tiles side by side."""
        return -(-columns // self.columns)


def tile_for(columns: int, elements: int = ELEMENTS) -> Tile:
    """The widest tile that wastes little on a row of so many columns."""
    width = min(WIDEST, max(NARROWEST, power_of_2(columns)))
    while width > 128 and -(-columns // width) * width > (1 + WASTED) * columns:
        width //= 2
    return Tile(max(1, elements // width), width)


def power_of_2(n: int) -> int:
    """The least that is not below n."""
    return 1 << max(0, n - 1).bit_length()
