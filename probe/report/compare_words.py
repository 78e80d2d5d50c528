"""The answer of a comparison in words: a sentence, and the cells that terminal, Markdown and HTML have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from probe.report.text import printable
from probe.results.comparison import Comparison, Interval, Part, Row, Suite, Verdict
from probe.units import UNKNOWN, format_fraction, format_time, format_value, significant

SAME, MINUS = "~", "−"
LEAST_SHOWN, MOST_SHOWN = 0.1, 10.0  # ends of intervals beyond them are told as being beyond them
LITTLE = 0.05  # of the difference: operators that explain less are not worth naming


def sentence(found: Comparison) -> str:
    """Whether NEW is faster, by how much, how sure that is, and what explains it."""
    if found.verdict == SAME:
        return _no_difference(found)
    times, interval = speed(found.ratio, found.interval, found.verdict)
    explained = _explained(found)
    return f"NEW is {times} {found.verdict} {interval}{f': {explained}' if explained else ''}."


def _no_difference(found: Comparison) -> str:
    if found.ratio is None or found.interval is None:
        return f"Whether NEW is faster cannot be told: {found.reason or 'nothing could be compared'}."
    low, high = found.interval
    at = f"NEW runs at {times(found.ratio)}× BASE's speed [{times(low)}, {times(high)}]"
    below = f", {found.reason}" if found.reason and not found.reason.startswith("the interval") else ""
    return f"No difference beyond noise: {at}{below}."


def speed(ratio: float | None, interval: Interval | None, verdict: Verdict) -> tuple[str, str]:
    """How many times faster or slower, both as numbers above 1: ("1.24×", "[1.21, 1.27]")."""
    if ratio is None:
        return UNKNOWN, ""
    if verdict == "slower":
        ratio, interval = 1 / ratio, (1 / interval[1], 1 / interval[0]) if interval else None
    ends = f"[{times(interval[0])}, {times(interval[1])}]" if interval else ""
    return f"{times(ratio)}×", ends


def times(ratio: float) -> str:
    """A ratio: 0.97, 1.24, 12.3, 0.0451."""
    return f"{ratio:.2f}" if LEAST_SHOWN <= ratio < MOST_SHOWN else significant(ratio)


def _explained(found: Comparison) -> str:
    """What makes the difference: operators, or how the benchmarks went."""
    if found.kind == "microbench":
        rows = [row for row in found.rows if row.ratio is not None]
        same_way = sum(row.verdict == found.verdict for row in rows)
        return f"{same_way} of {len(rows)} benchmarks are {found.verdict}"
    if found.explained is None or found.explained.share_fraction < LITTLE:
        return "no operator explains it" if found.rows else ""
    count, share = found.explained.operators, format_fraction(min(found.explained.share_fraction, 1.0), 0)
    return f"{count} operator{'s explain' if count > 1 else ' explains'} {share} of the difference"


def step_line(found: Comparison) -> str:
    """What a step takes on both sides; "" where that is not known."""
    base, new = found.sides.base, found.sides.new
    if base.step_s is None or new.step_s is None:
        return ""
    how = "bare" if base.steps == "bare" else "profiled"
    sides = (f"{format_time(s.step_s)}{_range(s.step_interval_s)}, n {s.n}" for s in (base, new))
    return f"A step, {how}: {' → '.join(sides)}."


def _range(interval: Interval | None) -> str:
    """Both ends, the unit once where it is the same."""
    if interval is None:
        return ""
    low, high = (format_time(end) for end in interval)
    number, _, unit = low.partition(" ")
    return f" [{number if high.endswith(f' {unit}') else low}–{high}]"


def row_speed(ratio: float | None, interval: Interval | None, verdict: str) -> tuple[str, str]:
    """The cells of a row: its speed-up, or ~, new, gone; and the ends of the interval."""
    if verdict in ("new", "gone"):
        return verdict, ""
    return (SAME if verdict == SAME or ratio is None else f"{times(ratio)}×"), _ends(interval) if interval else ""


def _ends(interval: Interval) -> str:
    """The ends of an interval: 1.21–1.27, and no more of a wide one than that it is wide."""
    low, high = interval
    shown = (
        f"<{LEAST_SHOWN}" if low < LEAST_SHOWN <= high else times(low),
        f">{MOST_SHOWN:.0f}" if high > 100 else times(high),
    )
    return "–".join(shown)


def difference(seconds: float | None) -> str:
    """A signed time: +1.20 ms, −17.3 ms."""
    if not seconds:
        return UNKNOWN if seconds is None else format_time(0.0)
    return f"{MINUS if seconds < 0 else '+'}{format_time(abs(seconds))}"


def value(row: Row, side: float | None) -> str:
    """A row's figure of one side."""
    return format_value(side, row.unit) if side is not None else UNKNOWN


def shapes(row: Row) -> str:
    """A row's shapes without the blanks there is no room for."""
    return printable(row.shapes).replace(", ", ",").replace(" × ", "×") if row.shapes else UNKNOWN


def changed(found: Comparison) -> list[Row]:
    """The rows that changed beyond noise: operators in their order, benchmarks by how much they changed."""
    rows = [row for row in found.rows if row.verdict != SAME]
    if found.kind == "run":
        return rows
    both = [row for row in rows if row.ratio is not None]
    return sorted(both, key=lambda row: -round(distance(row), 4))


def distance(row: Row) -> float:
    """How many times faster or slower a row is, above 1; 0 where not known."""
    return max(row.ratio, 1 / row.ratio) if row.ratio else 0.0


def parts_of_step(found: Comparison) -> list[tuple[str, Part]]:
    """The parts of the step that take any time, the largest difference first."""
    named = [(name, p) for name, p in found.parts.items() if isinstance(p, Part) and name != "step"]
    return sorted(((n, p) for n, p in named if p.base_s or p.new_s), key=lambda one: -abs(one[1].delta_s or 0.0))


def apart(part: Part) -> bool:
    """Whether the ranges of a part on both sides, over several steps, have nothing in common."""
    base, new = part.base_interval_s, part.new_interval_s
    if base is None or new is None or base[0] == base[1] or new[0] == new[1]:
        return False
    return base[1] < new[0] or new[1] < base[0]


def noise(suite: Suite) -> str:
    """The change from which a benchmark of the suite is no noise: 1.20×."""
    return f"{times(1 + suite.noise_fraction)}×"


def suites(found: Comparison) -> list[tuple[str, Suite]]:
    """The suites, in the order of the files."""
    return [(name, part) for name, part in found.parts.items() if isinstance(part, Suite)]


def left_over(found: Comparison, shown: Sequence[Row]) -> Iterator[str]:
    """How many rows are not shown, and why."""
    what = "operator" if found.kind == "run" else "benchmark"
    hidden = [row for row in found.rows if not any(row is one for one in shown)]
    noise = [row for row in hidden if row.verdict == SAME]
    single = [row for row in hidden if row.verdict in ("new", "gone")] if found.kind == "microbench" else []
    more = len(hidden) - len(noise) - len(single)
    if more:
        yield f"{_count(more, f'more {what}')} changed"
    if noise:
        yield f"{_count(len(noise), what)} without a difference beyond noise ({SAME})"
    if single:
        ways = [f"{n} {way}" for way in ("new", "gone") if (n := sum(row.verdict == way for row in single))]
        yield f"on one side only: {', '.join(ways)}"


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count > 1)}"
