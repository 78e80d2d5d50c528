"""What do register banks cost, as pictures? Cycles by operands along the number of warps, and a map of all patterns."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from probe.report.curves import LEAST_POINTS, Figure, Series
from probe.report.microbench_rows import in_cycles
from probe.results.measurement import Measurement

SUITE = "register_banks"
# Patterns that are measured with every number of warps: one bank for all sources, as many as can be, all kept.
KINDS = {"conflict": "R0 R0 R0", "free": "R0 R1 R2", "all .reuse": "R0.reuse R0.reuse R0.reuse"}
CELL_WIDTH, CELL_HEIGHT, LEFT, TOP = 60, 26, 44, 44
RESIDUES = 4  # registers are told apart by their number modulo this many
STYLE = """
.probe svg .cell{fill:var(--s0);stroke:var(--paper)} .probe svg .cycles{fill:var(--ink);text-anchor:middle}
"""


def without(measurements: Sequence[Measurement]) -> list[Measurement]:
    """All measurements but those of the suite, which has pictures of its own."""
    return [m for m in measurements if m.suite != SUITE]


def curve(measurements: Sequence[Measurement]) -> Figure | None:
    """Cycles of an FFMA whose operands conflict, do not, or are kept, along the warps of an SM; None without."""
    series = []
    for kind, pattern in KINDS.items():
        found = [m for m in measurements if m.suite == SUITE and _plain(m) and _has(m, pattern)]
        points = sorted((in_cycles(m) for m in found), key=lambda m: float(m.params["warps"]))
        if len(points) >= LEAST_POINTS:
            series.append(Series({"operands": kind}, tuple(points)))
    return Figure("register banks: an FFMA", "warps", "cycles", tuple(series)) if series else None


def _has(m: Measurement, pattern: str) -> bool:
    """Whether these are the sources; those that are held without being kept are another variant."""
    return m.params.get("pattern") == pattern and m.params.get("held") == m.params.get("reuse")


def _plain(m: Measurement) -> bool:
    return m.params.get("instruction") == "FFMA" and m.params.get("stall", 1) == 1 and not m.params.get("constant")


def pattern_map(measurements: Sequence[Measurement]) -> str:
    """An SVG map of the cycles of an FFMA by its three sources, each a register number modulo 4; "" without them."""
    cells = {
        tuple(int(word[1:]) for word in m.params["pattern"].split()): in_cycles(m)
        for m in measurements
        if m.suite == SUITE and m.params.get("warps") == RESIDUES and _plain(m) and _is_pattern(m)
    }
    if len(cells) < RESIDUES**3:
        return ""
    slowest = max(m.value for m in cells.values())
    drawn = "".join(_cell(sources, m, slowest) for sources, m in sorted(cells.items()))
    width, height = LEFT + RESIDUES * RESIDUES * CELL_WIDTH // 2, TOP + 2 * RESIDUES * CELL_HEIGHT + 8
    half = CELL_WIDTH / 2
    seconds = "".join(
        f'<text x="{LEFT + (i + 0.5) * RESIDUES * half:.0f}" y="{TOP - 22}" text-anchor="middle">R{i}</text>'
        for i in range(RESIDUES)
    )
    thirds = "".join(
        f'<text x="{LEFT + (i + 0.5) * half:.0f}" y="{TOP - 7}" text-anchor="middle">R{i % RESIDUES}</text>'
        for i in range(RESIDUES * RESIDUES)
    )
    rows = "".join(
        f'<text x="{LEFT - 8}" y="{TOP + (i + 0.65) * 2 * CELL_HEIGHT:.0f}" text-anchor="end">R{i}</text>'
        for i in range(RESIDUES)
    )
    return f'<svg viewBox="0 0 {width} {height}" role="img">{seconds}{thirds}{rows}{drawn}</svg>'


def _is_pattern(m: Measurement) -> bool:
    """Whether the sources are registers below R4 that no other variant holds."""
    words = str(m.params.get("pattern", "")).split()
    return not m.params.get("held") and len(words) == 3 and all(w in ("R0", "R1", "R2", "R3") for w in words)


def _cell(sources: tuple[int, ...], m: Measurement, slowest: float) -> str:
    a, b, c = sources
    x, y = LEFT + (b * RESIDUES + c) * CELL_WIDTH / 2, TOP + a * 2 * CELL_HEIGHT
    shade = 0.10 + 0.75 * (m.value / slowest) ** 2
    title = escape(f"FFMA Rd, R{a}, R{b}, R{c}: {m.value:.2f} cycles")
    return (
        f'<g><title>{title}</title><rect class="cell" x="{x:.0f}" y="{y:.0f}" width="{CELL_WIDTH / 2:.0f}" '
        f'height="{2 * CELL_HEIGHT}" style="fill-opacity:{shade:.2f}"/>'
        f'<text class="cycles" x="{x + CELL_WIDTH / 4:.0f}" y="{y + CELL_HEIGHT + 4:.0f}">{m.value:.1f}</text></g>'
    )
