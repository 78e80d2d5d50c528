"""The roofline as a file for a paper or a slide: SVG, PNG or PDF, drawn by kaleido with a Chromium of this machine."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from probe.dashboard.figures.axes import GRID, INK, SOFT
from probe.dashboard.figures.roofline import margin, roof_labels, roofline, roofs_of, telling
from probe.errors import InputError, UnavailableError, UsageError
from probe.files import write_report
from probe.report.palette import DARK_GROUND, LIGHT_GROUND, LOOKS
from probe.report.roofline.plane import placed, plane
from probe.report.text import printable, shorten
from probe.results.analysis import Analysis

THEMES = ("light", "dark")
FORMATS = (".svg", ".png", ".pdf")
WIDTH, HEIGHT = 1120, 640
TOP, BOTTOM = 44, 54  # of the margins: above is the legend
SCALE = 2  # pixels of a PNG for each of the figure's
# What stands in a figure by what the dark theme has instead; the same as in assets/probe.css.
DARK = {
    INK: "#E6EBF5", SOFT: "#9AA6BD", GRID: "#1E283B", LIGHT_GROUND: DARK_GROUND,
    **{look.light: look.dark for look in LOOKS.values()},
}  # fmt: skip
INSTALL = "pip install 'torch-probe[figures]'"
LONGEST_REASON = 200


def refuse(path: Path, theme: str = "light") -> None:
    """UsageError for a kind of file or a theme that there is not, UnavailableError without kaleido; before any work."""
    if theme not in THEMES:
        raise UsageError(f"--theme {shorten(printable(theme), 40)}: a figure is light or dark")
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: a figure is an .svg, .png or .pdf; give the file such a name")
    if find_spec("kaleido") is None:
        raise UnavailableError(f"{path}: drawing a figure needs kaleido, which is not installed; {INSTALL}")


def save(analysis: Analysis, path: Path, theme: str = "light") -> None:
    """Draw the roofline of `analysis` into a file. Raises ProbeError in one line."""
    refuse(path, theme)
    write_report(path, _drawn(themed(figure(analysis), theme), path))


def figure(analysis: Analysis) -> dict[str, Any]:
    """What plotly draws: the dashboard's roofline with a legend of the classes, in the light theme."""
    device = shorten(printable(analysis.source.device or "this device"), 80)
    lines, ops = roofs_of(analysis), placed(analysis.ops)
    if not lines:
        raise InputError(f"no roofline can be drawn: no ceilings are known for {device}; `probe run microbench` there")
    if not ops:
        raise InputError("no roofline can be drawn: no operator has both a known cost and a time; record_shapes=True")
    margins = margin(roof_labels(lines, plane(lines, telling(ops)))) | {"t": TOP, "b": BOTTOM}
    across, up = WIDTH - margins["l"] - margins["r"], HEIGHT - TOP - BOTTOM
    drawn: dict[str, Any] = roofline(lines, ops, aspect=across / up).to_plotly_json()
    for trace in drawn["data"]:
        trace["showlegend"] = str(trace["uid"]).startswith("class")
    drawn["layout"] |= {
        "width": WIDTH, "height": HEIGHT, "margin": margins, "showlegend": True,
        "paper_bgcolor": LIGHT_GROUND, "plot_bgcolor": LIGHT_GROUND,
        "legend": {"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom", "itemsizing": "constant"},
    }  # fmt: skip
    return drawn


def themed(part: Any, theme: str) -> Any:
    """A figure, or a part of one, in the colours of a theme."""
    if theme == "light":
        return part
    if isinstance(part, dict):
        return {name: themed(value, theme) for name, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [themed(value, theme) for value in part]
    return DARK.get(part, part) if isinstance(part, str) else part


def _drawn(content: dict[str, Any], path: Path) -> bytes:
    """The picture as bytes; UnavailableError where kaleido finds no browser, or that does not start."""
    kaleido: Any = import_module("kaleido")
    if not hasattr(kaleido, "calc_fig_sync"):
        raise UnavailableError(f"{path}: this kaleido is too old; {INSTALL}")
    options = {"format": path.suffix.lower()[1:], "width": WIDTH, "height": HEIGHT, "scale": SCALE}
    try:
        # Without "mathjax": False the page that draws asks for a script from the web.
        picture: bytes = kaleido.calc_fig_sync(content, opts=options, kopts={"mathjax": False})
    except Exception as error:  # its browser's: each release has other classes
        reason = shorten(printable(next(iter(str(error).splitlines()), "") or type(error).__name__), LONGEST_REASON)
        raise UnavailableError(
            f"{path}: kaleido drew nothing ({reason}); it needs a Chromium or Chrome: install one, "
            "and name it in BROWSER_PATH where it is not found"
        ) from error
    return picture
