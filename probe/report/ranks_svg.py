"""Pictures of many ranks: each rank's step as a thin bar with its lateness beside it, and how a job scales."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from probe.report.ranks import Shares, efficiency, late, shares
from probe.results.multirank import Rank
from probe.results.scaling import Scaling, ScalingPoint
from probe.units import format_fraction, format_time, runs

WIDTH, LEFT, TOP, BOTTOM = 1072, 76, 26, 30
STRIP_END, LATE_BEGIN, LATE_END = 760, 800, 1060
ALL_ROWS, LEAST_ROW, LARGEST_ROW = 560, 2, 18  # heights, whole so that rows are drawn alike
LABEL_APART = 12
INK, SOFT = "currentColor", "#8a94a0"
# The parts of a bar in their order: after its own work a rank waits, then all exchange together.
COVERED, COMPUTE, OTHER = "rgba(0,158,115,.45)", "rgba(0,114,178,.45)", "rgba(138,148,160,.45)"
WAIT, EXPOSED = "#d55e00", "#009e73"
LEGEND = (
    (COVERED, "communication behind computation"),
    (COMPUTE, "computation alone"),
    (OTHER, "neither computation nor communication"),
    (WAIT, "exposed, known to be waiting for a later rank"),
    (EXPOSED, "exposed otherwise"),
)

PLOT_WIDTH, PLOT_HEIGHT = 720, 320
PLOT_LEFT, PLOT_RIGHT, PLOT_TOP, PLOT_BOTTOM = 60, 90, 16, 44


@dataclass(frozen=True)
class _Axis:
    """A linear scale from a quantity to a place on the picture."""

    low: float
    high: float
    begin: float
    end: float

    def at(self, value: float) -> float:
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)

    def ticks(self, most: int) -> list[float]:
        """Round values, 1, 2 or 5 times a power of ten apart."""
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        apart = next(power * step for step in (1, 2, 5, 10) if power * step >= rough * 0.999)
        first, last = math.ceil(self.low / apart - 1e-9), math.floor(self.high / apart + 1e-9)
        return [n * apart for n in range(first, last + 1)]


@dataclass(frozen=True)
class _Rows:
    """Where each rank's row is."""

    count: int

    @property
    def height(self) -> int:
        return min(max(ALL_ROWS // self.count, LEAST_ROW), LARGEST_ROW)

    @property
    def thick(self) -> int:
        """Height of a bar: the row less a gap, where there is room for one."""
        return self.height - (3 if self.height >= 10 else 1 if self.height >= 4 else 0)

    @property
    def bottom(self) -> int:
        return TOP + self.count * self.height

    def top(self, place: int) -> int:
        return TOP + place * self.height

    def middle(self, place: int) -> float:
        return self.top(place) + self.thick / 2


def draw_ranks(ranks: Sequence[Rank], late_ranks: Collection[int]) -> str:
    """A bar a rank; empty where the communication of no rank is known."""
    known = [(rank, split) for rank in ranks if (split := shares(rank)) is not None]
    if not known:
        return ""
    rows = _Rows(len(known))
    steps = _Axis(0.0, max(split.step_s for _, split in known), LEFT, STRIP_END)
    lateness = _lateness_axis([rank for rank, _ in known])
    parts = [*_step_axis(steps, rows), *_rank_labels([rank.rank for rank, _ in known], late_ranks, rows)]
    if lateness is not None:
        parts += _late_axis(lateness, rows)
    for place, (rank, split) in enumerate(known):
        marks = "" if lateness is None else _late_mark(rank, lateness, rows, place, rank.rank in late_ranks)
        parts.append(f"<g><title>{_title(rank)}</title>{_bar(split, steps, rows, place)}{marks}</g>")
    label = "Each rank's step: computation, waiting, exposed communication; and how late it is"
    return _svg(WIDTH, rows.bottom + BOTTOM, label, parts)


def _svg(width: float, height: float, label: str, parts: Sequence[str], style: str = "") -> str:
    return f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{label}"{style}>{"".join(parts)}</svg>'


def _title(rank: Rank) -> str:
    told = (
        ("step", format_time(rank.step_s)),
        ("computation", format_time(rank.compute_s)),
        ("communication", format_time(rank.communication_s)),
        ("exposed", format_time(rank.exposed_communication_s)),
        ("wait", format_time(rank.wait_s)),
        ("late", late(rank)),
    )
    return escape(f"rank {rank.rank}: " + ", ".join(f"{name} {text}" for name, text in told))


def _bar(split: Shares, axis: _Axis, rows: _Rows, place: int) -> str:
    """The parts from left to right, over a sheet that catches the pointer between them and the lateness."""
    top, thick = rows.top(place), rows.thick
    text = f'<rect x="{LEFT}" y="{top}" width="{LATE_END - LEFT}" height="{rows.height}" fill-opacity="0"/>'
    done_s = 0.0
    for seconds, colour in (
        (split.covered_s, COVERED), (split.compute_s, COMPUTE), (split.other_s, OTHER), (split.wait_s, WAIT),
        (split.exposed_s, EXPOSED),
    ):  # fmt: skip
        begin, done_s = axis.at(done_s), done_s + seconds
        width = axis.at(done_s) - begin
        if width >= 0.05:
            text += f'<rect x="{begin:.1f}" y="{top}" width="{width:.1f}" height="{thick}" fill="{colour}"/>'
    return text


def _step_axis(axis: _Axis, rows: _Rows) -> Iterator[str]:
    yield _text(LEFT, TOP - 10, "mean step of each rank", "start")
    for value in axis.ticks(8):
        x = axis.at(value)
        yield f'<path d="M{x:.1f} {TOP - 4}V{rows.bottom + 4}" stroke="{SOFT}" stroke-opacity=".25"/>'
        yield _text(x, rows.bottom + 18, format_time(value), "middle")


def _rank_labels(numbers: Sequence[int], late_ranks: Collection[int], rows: _Rows) -> Iterator[str]:
    """Late ranks by name; of the others as many as there is room for."""
    every = next(n for n in (2**e for e in range(32)) if n * rows.height >= LABEL_APART)
    taken: list[int] = []
    for first, last in runs(place for place, number in enumerate(numbers) if number in late_ranks):
        if taken and (first - taken[-1]) * rows.height < LABEL_APART:
            continue
        text = f"▸ {numbers[first]}" + (f"–{numbers[last]}" if last > first else "")
        taken += [first, last]
        yield _text(LEFT - 6, rows.middle(first) + 4, text, "end", WAIT, ' font-weight="700"')
    for place in range(0, len(numbers), every):
        if all(abs(place - other) * rows.height >= LABEL_APART for other in taken):
            yield _text(LEFT - 6, rows.middle(place) + 4, str(numbers[place]), "end")
    yield _text(LEFT - 6, TOP - 10, "rank", "end")


def _lateness_axis(ranks: Sequence[Rank]) -> _Axis | None:
    found = [rank.late_interval_s for rank in ranks if rank.late_interval_s is not None]
    if not found:
        return None
    low, high = min(0.0, *(low for low, _ in found)), max(0.0, *(high for _, high in found))
    return _Axis(low, high, LATE_BEGIN, LATE_END) if high > low else None


def _late_axis(axis: _Axis, rows: _Rows) -> Iterator[str]:
    yield _text(LATE_BEGIN, TOP - 10, "late after the median of the others, 95 %", "start")
    for value in axis.ticks(4):
        x, strong = axis.at(value), ".8" if value == 0 else ".25"
        yield f'<path d="M{x:.1f} {TOP - 4}V{rows.bottom + 4}" stroke="{SOFT}" stroke-opacity="{strong}"/>'
        yield _text(x, rows.bottom + 18, format_time(value), "middle")


def _late_mark(rank: Rank, axis: _Axis, rows: _Rows, place: int, is_late: bool) -> str:
    """A dot for the mean, a line for its interval."""
    if rank.late_s is None or rank.late_interval_s is None:
        return ""
    colour = WAIT if is_late else INK
    y, radius = rows.middle(place), min(max(rows.thick / 3, 1.2), 4.0)
    begin, end = (axis.at(value) for value in rank.late_interval_s)
    return (
        f'<path d="M{begin:.1f} {y:.1f}H{end:.1f}" stroke="{colour}" stroke-opacity=".6"/>'
        f'<circle cx="{axis.at(rank.late_s):.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}"/>'
    )


def draw_scaling(scaling: Scaling) -> str:
    """Speedup against ranks, both by powers of two, with the line that loses nothing."""
    points = scaling.points
    least, most = points[0].world_size, points[-1].world_size
    if most == least:
        return ""
    growth = math.log2(most / least)
    across = _Axis(math.log2(least), math.log2(most), PLOT_LEFT + 20, PLOT_WIDTH - PLOT_RIGHT)
    lowest = min(0.0, *(math.log2(max(low, 1e-3)) for p in points for low in [_whisker(p, points[0])[0]]))
    highest = max(growth, *(math.log2(_whisker(p, points[0])[1]) for p in points))
    up = _Axis(lowest - 0.35, highest + 0.15, PLOT_HEIGHT - PLOT_BOTTOM, PLOT_TOP)
    parts = [*_plot_axes(scaling, across, up), _ideal(across, up, growth), _line(points, across, up)]
    parts += [_point(p, points[0], across, up) for p in points]
    style = f' style="display:block;max-width:{PLOT_WIDTH}px"'
    return _svg(PLOT_WIDTH, PLOT_HEIGHT, "Speedup over the number of ranks", parts, style)


def _whisker(point: ScalingPoint, least: ScalingPoint) -> tuple[float, float]:
    """Interval of the speedup: that of the efficiency times the growth of the job."""
    if point.efficiency_interval_fraction is None:
        return point.speedup, point.speedup
    growth = point.world_size / least.world_size
    low, high = point.efficiency_interval_fraction
    return low * growth, high * growth


def _plot_axes(scaling: Scaling, across: _Axis, up: _Axis) -> Iterator[str]:
    bottom, right = PLOT_HEIGHT - PLOT_BOTTOM, PLOT_WIDTH - PLOT_RIGHT
    last = -math.inf
    for size in sorted({p.world_size for p in scaling.points}):
        x = across.at(math.log2(size))
        yield f'<path d="M{x:.1f} {PLOT_TOP}V{bottom}" stroke="{SOFT}" stroke-opacity=".25"/>'
        if x - last >= 30:
            last = x
            yield _text(x, bottom + 18, str(size), "middle")
    for power in range(math.ceil(up.low), math.floor(up.high) + 1):
        y = up.at(power)
        yield f'<path d="M{PLOT_LEFT} {y:.1f}H{right}" stroke="{SOFT}" stroke-opacity=".25"/>'
        yield _text(PLOT_LEFT - 8, y + 4, f"{2.0**power:g}×", "end")
    yield _text((PLOT_LEFT + right) / 2, PLOT_HEIGHT - 6, "ranks", "middle")


def _ideal(across: _Axis, up: _Axis, growth: float) -> str:
    x, y = across.at(across.high), up.at(growth)
    return (
        f'<path d="M{across.at(across.low):.1f} {up.at(0):.1f}L{x:.1f} {y:.1f}" stroke="{SOFT}" stroke-width="1.5" '
        f'stroke-dasharray="5 4"/>' + _text(x + 10, y + 4, "ideal", "start")
    )


def _line(points: Sequence[ScalingPoint], across: _Axis, up: _Axis) -> str:
    places = [f"{across.at(math.log2(p.world_size)):.1f} {up.at(math.log2(p.speedup)):.1f}" for p in points]
    return f'<path d="M{"L".join(places)}" stroke="{EXPOSED}" stroke-width="2" fill="none"/>'


def _point(point: ScalingPoint, least: ScalingPoint, across: _Axis, up: _Axis) -> str:
    """A dot with its interval and its efficiency."""
    x, y = across.at(math.log2(point.world_size)), up.at(math.log2(point.speedup))
    low, high = (up.at(math.log2(max(end, 1e-3))) for end in _whisker(point, least))
    title = escape(
        f"{point.world_size} ranks: step {format_time(point.step_s)} (n {point.n}), speedup {point.speedup:.2f}×, "
        f"efficiency {efficiency(point)}"
    )
    whisker = f"M{x:.1f} {low:.1f}V{high:.1f}M{x - 5:.1f} {low:.1f}h10M{x - 5:.1f} {high:.1f}h10"
    return (
        f"<g><title>{title}</title>"
        + (f'<path d="{whisker}" stroke="{INK}" fill="none"/>' if point.efficiency_interval_fraction else "")
        + f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{EXPOSED}"/>'
        + _text(x + 10, y + 16, format_fraction(point.efficiency_fraction, 0), "start", INK)
        + "</g>"
    )


def _text(x: float, y: float, text: str, anchor: str, colour: str = SOFT, more: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" fill="{colour}" text-anchor="{anchor}"{more}>'
        f"{escape(text)}</text>"
    )
