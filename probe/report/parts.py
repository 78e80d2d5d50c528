"""The bar of parts: what the step's time was spent on."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text

from probe.results.analysis import PARTS
from probe.units import format_fraction, format_time

# A part has a colour and a texture of its own, so that it is told apart without colour too.
STYLES = {
    "compute": ("█", "blue"),
    "memory": ("▓", "dark_orange"),
    "latency": ("▚", "purple"),
    "overhead": ("▒", "yellow"),
    "communication": ("▞", "magenta"),
    "host": ("░", "red"),
    "idle": ("·", "bright_black"),
    "unknown": ("?", "bright_black"),
}
LEAST_FRACTION = 0.005  # smaller parts are not listed


def bar(time_s: Mapping[str, float | None], width: int) -> Text:
    """One line of `width` characters, each part as long as its share; every part of 1 % or more gets a character."""
    total = sum(time_s[part] or 0.0 for part in PARTS)
    text = Text()
    if total <= 0:
        return text
    for part, cells in zip(PARTS, _cells([(time_s[part] or 0.0) / total for part in PARTS], width), strict=True):
        glyph, style = STYLES[part]
        text.append(glyph * cells, style)
    return text


def _cells(shares: list[float], width: int) -> list[int]:
    """Whole characters that add up to `width`, by largest remainder."""
    floors = [max(int(share * width), 1 if share >= 0.01 else 0) for share in shares]
    missing = width - sum(floors)
    order = sorted(range(len(shares)), key=lambda i: shares[i] * width - floors[i], reverse=missing > 0)
    at = 0
    while missing:
        index = order[at % len(order)]
        if missing > 0 or floors[index] > 1:
            floors[index] += 1 if missing > 0 else -1
            missing += -1 if missing > 0 else 1
        at += 1
    return floors


def legend(time_s: Mapping[str, float | None]) -> list[Text]:
    """Each part with its time and share, the largest first."""
    total = sum(time_s[part] or 0.0 for part in PARTS)
    entries = []
    for part in sorted(PARTS, key=lambda p: -(time_s[p] or 0.0)):
        seconds = time_s[part] or 0.0
        if total > 0 and seconds / total >= LEAST_FRACTION:
            glyph, style = STYLES[part]
            shown = f" {part} {format_time(seconds)} {format_fraction(seconds / total, 0)}"
            entries.append(Text.assemble((glyph, style), shown))
    return entries
