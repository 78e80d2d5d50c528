"""Which measurements make a curve, and which stand alone? Grouped by what they have in common, whatever the suite.

A group is what one suite measured of one metric. Its curves run along a size; what tells two measurements of the same
size apart (kernel, threads, ranks, …) is found out and names the series. What has no such size stands alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from probe.results.measurement import Measurement
from probe.units import format_bytes, format_value

SIZE = "size_bytes"
# What a suite varies, where it is not the footprint.
ALONG = {"tlb": "lines", "storage": "block_bytes", "attention": "sequence"}
LEAST_POINTS = 3  # of a series: two make no curve
MOST_SERIES = 4  # in one figure, before it is split
NO_LABEL = ("level", "cpu", SIZE)
METRICS = {"flops_per_s": "rate", "busbw": "bus bandwidth", "algbw": "algorithm bandwidth"}
WAYS = ("kernel", "implementation", "load_bytes")  # labels of which the best counts: ways to do the same
COUNTED = ("threads", "ranks", "streams", "workers")


@dataclass(frozen=True)
class Series:
    """Measurements along a size, ascending; `labels` are the parameters that tell it from the other series."""

    labels: dict[str, object]
    points: tuple[Measurement, ...]

    @property
    def name(self) -> str:
        """The labels in words; empty for the only series."""
        return " · ".join(word(key, value) for key, value in self.labels.items())


@dataclass(frozen=True)
class Span:
    """Consecutive points of a series that have something in common."""

    first: float
    last: float
    name: str


@dataclass(frozen=True)
class Figure:
    """Series of one quantity along the parameter `along`."""

    title: str
    along: str
    unit: str
    series: tuple[Series, ...]

    def x(self, measurement: Measurement) -> float:
        """Where a point lies along the curve."""
        return float(measurement.params[self.along])

    def tick(self, value: float) -> str:
        """A place along the curve in words."""
        return format_bytes(value) if self.along.endswith("bytes") else f"{value:.0f}"

    @property
    def levels(self) -> tuple[Span, ...]:
        """The levels of the memory hierarchy along the curve; empty where they are not the same for every series."""
        found = {tuple(self._levels(series)) for series in self.series}
        return found.pop() if len(found) == 1 else ()

    def _levels(self, series: Series) -> Iterator[Span]:
        where: dict[str, list[float]] = {}
        for m in series.points:
            if level := m.params.get("level"):
                where.setdefault(str(level), []).append(self.x(m))
        yield from (Span(min(xs), max(xs), name) for name, xs in where.items())


@dataclass(frozen=True)
class Alone:
    """Measurements of one quantity that make no curve: bars rather."""

    title: str
    unit: str
    measurements: tuple[Measurement, ...]


def word(key: str, value: object) -> str:
    """A parameter in words: copy, 2 threads, 4 KiB pages."""
    if isinstance(value, bool):
        return key if value else f"not {key}"
    if key in COUNTED:
        return f"{value} {key if value != 1 else key[:-1]}"
    if isinstance(value, int) and key.endswith("_bytes"):
        return f"{key.removesuffix('_bytes').replace('_', ' ')} {format_bytes(value)}"
    return str(value) if isinstance(value, str) else f"{key.replace('_', ' ')} {value}"


def tick(value: float, unit: str) -> str:
    """A value on an axis: two significant digits, no decimals that say nothing."""
    if value == 0:
        return "0"
    number, _, suffix = format_value(float(f"{value:.2g}"), unit).partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {suffix}".rstrip()


def is_better(one: Measurement, other: Measurement) -> bool:
    """Whether `one` is the better of two measurements of one unit: the shorter time, the higher rate."""
    return one.value < other.value if one.unit == "s" else one.value > other.value


def arrange(measurements: Sequence[Measurement]) -> tuple[tuple[Figure, ...], tuple[Alone, ...]]:
    """All curves, and what makes none, in the order of the measurements; each measurement in exactly one of them."""
    groups: dict[tuple[str, str, str], list[Measurement]] = {}
    for m in measurements:
        groups.setdefault((m.suite, m.metric, m.unit), []).append(m)
    figures, alone = [], []
    for (suite, metric, unit), group in groups.items():
        along = ALONG.get(suite, SIZE)
        series = _series(group, along)
        used = {id(m) for one in series for m in one.points}
        title = _title(suite, metric)
        if series:
            figures.append(Figure(title, along, unit, tuple(series)))
        if rest := tuple(m for m in group if id(m) not in used):
            alone.append(Alone(title, unit, rest))
    return tuple(figures), tuple(alone)


def split(figure: Figure) -> tuple[Figure, ...]:
    """The figure as several, one for each value of the label with the fewest, where it has too many series for one."""
    keys = list(figure.series[0].labels)
    if len(figure.series) <= MOST_SERIES or len(keys) < 2:
        return (figure,)
    values = {key: list(dict.fromkeys(series.labels[key] for series in figure.series)) for key in keys}
    key = min(keys, key=lambda k: len(values[k]))
    return tuple(_part(figure, key, value) for value in values[key])


def _part(figure: Figure, key: str, value: object) -> Figure:
    rest = [
        replace(series, labels={k: v for k, v in series.labels.items() if k != key})
        for series in figure.series
        if series.labels[key] == value
    ]
    return replace(figure, title=f"{figure.title}, {word(key, value)}", series=tuple(rest))


def merged(figure: Figure, most: int = MOST_SERIES - 1) -> Figure:
    """The figure with at most `most` series: at each place the best of several ways; without ways the first series."""
    keys = [key for key in figure.series[0].labels if key in WAYS]
    if len(figure.series) <= most:
        return figure
    if not keys:
        title = f"{figure.title}, {most} of {len(figure.series)}"
        return replace(figure, title=title, series=figure.series[:most])
    values = {key: {series.labels[key] for series in figure.series} for key in keys}
    key = max(keys, key=lambda k: len(values[k]))
    best: dict[tuple[tuple[str, object], ...], dict[float, Measurement]] = {}
    for series in figure.series:
        labels = tuple((k, v) for k, v in series.labels.items() if k != key)
        for m in series.points:
            at = best.setdefault(labels, {})
            if figure.x(m) not in at or is_better(m, at[figure.x(m)]):
                at[figure.x(m)] = m
    rest = tuple(
        Series(dict(labels), tuple(m for _, m in sorted(points.items(), key=lambda p: p[0])))
        for labels, points in best.items()
    )
    ways = {"load_bytes": "widths"}.get(key, f"{key}s")
    return merged(replace(figure, title=f"{figure.title}, best of {len(values[key])} {ways}", series=rest), most)


def published(figure: Figure, series: Series) -> Iterator[tuple[Span, float, float]]:
    """Stretches of the series with one published range: where, its low and its high end."""
    stretch: list[Measurement] = []
    for m in (*series.points, None):
        if stretch and (m is None or m.reference != stretch[0].reference):
            if reference := stretch[0].reference:
                span = Span(figure.x(stretch[0]), figure.x(stretch[-1]), reference.source)
                yield span, reference.low, reference.high
            stretch = []
        if m is not None:
            stretch.append(m)


def _title(suite: str, metric: str) -> str:
    """`cache latency`, `collectives: bus bandwidth`."""
    words, metric = suite.replace("_", " "), METRICS.get(metric, metric.replace("_", " "))
    return words if metric in words else f"{words}: {metric}"


def _series(group: Sequence[Measurement], along: str) -> list[Series]:
    """The series of a group that are long enough; empty where there is none."""
    placed = [m for m in group if _is_number(m.params.get(along))]
    keys = _labels(placed, along)
    found: dict[tuple[object, ...], list[Measurement]] = {}
    for m in placed:
        found.setdefault(tuple(_plain(m.params.get(key)) for key in keys), []).append(m)
    return [
        Series(dict(zip(keys, values, strict=True)), tuple(sorted(points, key=lambda m: float(m.params[along]))))
        for values, points in found.items()
        if len({m.params[along] for m in points}) >= LEAST_POINTS
    ]


def _labels(placed: Sequence[Measurement], along: str) -> list[str]:
    """The fewest parameters that tell measurements of one size apart; what all have first, words before numbers."""
    values = {
        key: {_plain(m.params.get(key)) for m in placed}
        for key in dict.fromkeys(key for m in placed for key in m.params)
        if key not in (*NO_LABEL, along) and not any(isinstance(m.params.get(key), float) for m in placed)
    }

    def rank(key: str) -> tuple[bool, bool, int]:
        return None in values[key], not any(isinstance(v, str) for v in values[key]), len(values[key])

    order = sorted(values, key=rank)
    keys: list[str] = []
    for key in order:
        if _repeats(placed, [*keys, along]) > _repeats(placed, [*keys, key, along]):
            keys.append(key)
    for key in list(keys):  # one that another implies: what a kernel stores
        others = [other for other in keys if other != key]
        if _repeats(placed, [*others, along]) == _repeats(placed, [*keys, along]):
            keys = others
    return [key for key in values if key in keys]


def _repeats(placed: Iterable[Measurement], keys: Sequence[str]) -> int:
    """How many measurements share their values of `keys` with another one before them."""
    counts = Counter(tuple(_plain(m.params.get(key)) for key in keys) for m in placed)
    return sum(count - 1 for count in counts.values())


def _plain(value: object) -> object:
    """`value`, as text where it cannot be a key."""
    return str(value) if isinstance(value, (list, tuple, dict)) else value


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0
