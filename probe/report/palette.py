"""Which colour, mark and word does a class of time have? Colours told apart with every common colour vision.

The least CIEDE2000 difference of two of them under normal, protan, deutan and tritan vision is above 16 in both themes,
their contrast with the ground at least 3:1. A mark always goes with the colour: nothing is told by colour alone.
The same colours stand in dashboard/assets/probe.css and report/assets/report.css; tests keep them equal.
"""

from __future__ import annotations

from dataclasses import dataclass

from probe.results.analysis import PARTS


@dataclass(frozen=True)
class Look:
    """How a class is drawn: colour on dark and on light ground, a character, and plotly's name of the same mark."""

    dark: str
    light: str
    mark: str
    symbol: str


LOOKS = {
    "compute": Look("#0F71E8", "#1F609C", "●", "circle"),
    "memory": Look("#EB6A26", "#EC7108", "■", "square"),
    "latency": Look("#FFEE65", "#705B10", "▲", "triangle-up"),
    "overhead": Look("#998772", "#4C0F12", "▼", "triangle-down"),
    "communication": Look("#F3A1ED", "#D95BEF", "◆", "diamond"),
    "host": Look("#5FE2BB", "#0DA686", "✚", "cross"),
    "idle": Look("#3A465E", "#C3CBD8", "□", "square-open"),
    "unknown": Look("#656A71", "#4E5259", "○", "circle-open"),
}
CLASSES = PARTS  # the code of a class is its place here; tiles and the scripts that draw them count on it
BOUNDS = tuple(name for name in CLASSES if name != "idle")
DARK_GROUND, LIGHT_GROUND = "#121826", "#FFFFFF"
SERIES = 9  # colours --s0 to --s8 of assets/probe.css, for curves that are no classes
SERIES_LIGHT = (
    "#1F609C", "#EC7108", "#0DA686", "#D95BEF", "#705B10", "#4C0F12", "#4E5259", "#3A9BD6", "#8A5A44",
)  # fmt: skip
