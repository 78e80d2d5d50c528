"""A canvas of characters for a terminal: lines of braille dots (2 × 4 a character) with texts above them, and its axes.

Where the console's encoding is not UTF, lines are ASCII.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from rich.text import Text

BRAILLE = 0x2800
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # by column and row within a character


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis from `low` to `high` over `dots` dots."""

    low: float
    high: float
    dots: int

    def at(self, value: float) -> float:
        """Where `value` lies, in dots from the low end."""
        return math.log(value / self.low) / math.log(self.high / self.low) * (self.dots - 1)

    def value(self, dot: float) -> float:
        """The value at `dot`."""
        return float(self.low * (self.high / self.low) ** (dot / (self.dots - 1)))

    def decades(self) -> Iterator[float]:
        """The powers of ten on the axis."""
        for exponent in range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1):
            yield 10.0**exponent


@dataclass
class Canvas:
    """Characters with styles; lines as dots beneath, texts above them. Cells are (row, column), from the top left."""

    columns: int
    rows: int
    ascii_only: bool
    dots: dict[tuple[int, int], int] = field(default_factory=dict)
    texts: dict[tuple[int, int], str] = field(default_factory=dict)
    styles: dict[tuple[int, int], str] = field(default_factory=dict)
    slopes: dict[tuple[int, int], str] = field(default_factory=dict)

    def dot(self, x: int, y: int, style: str, slope: str) -> None:
        """Set the dot x from the left and y from the bottom; the first line in a cell gives it its colour."""
        if not (0 <= x < 2 * self.columns and 0 <= y < 4 * self.rows):
            return
        cell = (self.rows - 1 - y // 4, x // 2)
        self.dots[cell] = self.dots.get(cell, 0) | DOTS[x % 2][3 - y % 4]
        self.styles.setdefault(cell, style)
        self.slopes.setdefault(cell, slope)

    def free(self, row: int, column: int, length: int) -> bool:
        """Whether a text there would lie on the canvas and touch nothing, lines included."""
        cells = [(row, c) for c in range(column - 1, column + length + 1)]
        inside = 0 <= row < self.rows and column >= 0 and column + length <= self.columns
        return inside and not any(cell in self.texts or cell in self.dots for cell in cells)

    def write(self, row: int, column: int, text: str, style: str) -> None:
        """Write over whatever is there; what lies outside is cut."""
        for i, character in enumerate(text):
            if 0 <= row < self.rows and 0 <= column + i < self.columns:
                self.texts[row, column + i] = character
                self.styles[row, column + i] = style

    def place(self, spots: Iterable[tuple[int, int]], text: str, style: str) -> bool:
        """Write at the first of the spots that is free, with a free cell on either side; False if none is."""
        for row, column in spots:
            if self.free(row, column, len(text)):
                self.write(row, column, text, style)
                return True
        return False

    def line(self, row: int) -> Text:
        """One row as styled text."""
        text = Text(no_wrap=True, overflow="crop", end="")
        for column in range(self.columns):
            cell = (row, column)
            text.append(self._character(cell), self.styles.get(cell, ""))
        return text

    def _character(self, cell: tuple[int, int]) -> str:
        if cell in self.texts:
            return self.texts[cell]
        if cell not in self.dots:
            return " "
        return self.slopes[cell] if self.ascii_only else chr(BRAILLE + self.dots[cell])
