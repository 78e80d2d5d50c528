"""Draw the pictures of the README again from the committed results and sample traces.

Usage: python docs/pictures.py
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import msgspec
from rich.console import Console, RenderableType
from rich.terminal_theme import TerminalTheme

import probe
from probe.report import analysis as report
from probe.report import microbench
from probe.results.measurement import MicrobenchResult

ROOT = Path(__file__).parent.parent
THEME = TerminalTheme(
    (17, 21, 26),
    (214, 219, 226),
    [(72, 79, 88), (240, 113, 98), (120, 190, 120), (224, 192, 90), (96, 160, 232), (196, 132, 220), (86, 190, 200),
     (214, 219, 226)],
    [(110, 118, 129), (255, 140, 125), (140, 215, 140), (245, 215, 120), (130, 185, 250), (215, 160, 240),
     (115, 215, 225), (245, 247, 250)],
)  # fmt: skip


def picture(
    name: str, title: str, content: RenderableType | None = None, result: MicrobenchResult | None = None
) -> None:
    """Write one terminal picture as SVG, without the web font that rich would have it load."""
    console = Console(record=True, width=80, force_terminal=True, color_system="truecolor", file=io.StringIO())
    if result is not None:
        microbench.render(result, console)
    else:
        console.print(content)
    svg = console.export_svg(title=title, theme=THEME)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace("Fira Code", "DejaVu Sans Mono")
    (ROOT / "docs" / "images" / f"{name}.svg").write_text(svg)


def main() -> None:
    os.chdir(ROOT)
    results = sorted((ROOT / "microbench" / "results").glob("*.json"))
    for path in results[:1]:
        picture(
            "microbench", "probe run microbench", result=msgspec.json.decode(path.read_bytes(), type=MicrobenchResult)
        )
    analysis = probe.analyze("sample_traces/transformer_step", ceilings="sample_traces/ceilings.json")
    picture("report", "probe analyze sample_traces/transformer_step", report.render(analysis))


if __name__ == "__main__":
    main()
