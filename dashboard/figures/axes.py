"""What all figures have in common: axes with SI ticks, and colours that the page's style sheet replaces by theme.

A figure carries the colours of the light theme, which is what an exported picture shows. On a page assets/probe.css
gives each trace the colour of its `uid` instead, so that a change of theme draws nothing anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape
from typing import Any

from probe.report.text import printable, shorten
from probe.units import format_si

INK, SOFT, GRID = "#131A26", "#566176", "#E3E8F0"
FONT = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
LONGEST = 120


def layout(**more: Any) -> dict[str, Any]:
    """The layout of a figure without titles and legends of its own."""
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 12, "color": SOFT},
        "margin": {"l": 72, "r": 24, "t": 12, "b": 48},
        "hovermode": "closest",
        "showlegend": False,
        "hoverlabel": {"bgcolor": "#FFFFFF", "bordercolor": "#C9D2E0", "font": {"color": INK, "size": 12}},
        **more,
    }


def axis(title: str, **more: Any) -> dict[str, Any]:
    """A linear axis."""
    return {
        "title": {"text": title, "standoff": 8}, "gridcolor": GRID, "zeroline": False, "showline": False,
        "ticks": "outside", "ticklen": 5, "tickcolor": "rgba(0,0,0,0)", **more,
    }  # fmt: skip


def logarithmic(title: str, low: float, high: float, show: Callable[[float], str], **more: Any) -> dict[str, Any]:
    """A logarithmic axis from `low` to `high` with two to eight ticks: at powers of ten, or between them too."""
    ticks = _decade_ticks(low, high)
    return axis(
        title, type="log", range=[math.log10(low), math.log10(high)], tickvals=ticks,
        ticktext=[show(value) for value in ticks], minor={"ticks": "", "showgrid": False}, **more,
    )  # fmt: skip


def _decade_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for among in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        every = [m * 10.0**power for power in range(first, last + 1) for m in among]
        ticks = [value for value in every if low * 0.999 <= value <= high * 1.001]
        if len(ticks) >= 3:
            break
    return ticks[:: math.ceil(len(ticks) / 8)] if ticks else [low, high]


def round_ticks(low: float, high: float, most: int = 6, base: float = 10.0) -> list[float]:
    """At most so many round numbers between `low` and `high`; base 1024 for sizes in memory."""
    if high <= low:
        return [low]
    multiples = (1.0, 2.0, 5.0) if base == 10.0 else tuple(float(1 << n) for n in range(10))
    steps = (m * base**power for power in range(-12, 16) for m in multiples)
    step = next(step for step in steps if (high - low) / step <= most)
    return [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def si(value: float, unit: str = "") -> str:
    """A tick: 100 G, 0.01."""
    return format_si(value, unit, 1) if value >= 1 else f"{value:g}"


def said(text: str, most: int = LONGEST) -> str:
    """A name as plotly may show it: plotly reads some markup in its texts, a name holds none."""
    return escape(shorten(printable(text), most), quote=False)
