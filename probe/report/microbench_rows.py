"""Which rows does the table of a microbenchmark show? One a level, dtype, implementation; never one for each size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from probe.microbench.ceilings import roof_streams
from probe.report.curves import arrange, is_better
from probe.report.text import printable
from probe.results.measurement import Measurement, MicrobenchResult
from probe.units import format_bytes, format_value

LEAST_FOR_INTERVAL = 6  # fewer samples give no 95 % interval
MOST_ROWS = 8  # of a suite that has no rows of its own here
BESIDE = ("shared", "L2 far")  # levels of a GPU that are no ceiling
LEVELS = {"L1": 0, "shared": 1, "L2": 2, "L2 far": 3, "L3": 4, "DRAM": 5}


@dataclass(frozen=True)
class Section:
    """A heading, the rows below it by name, and how many measurements are not among them because they are too many."""

    title: str
    rows: tuple[tuple[str, Measurement], ...]
    more: int = 0


def sections(result: MicrobenchResult) -> Iterator[Section]:
    """A section for each suite that was measured, those without rows of their own last."""
    by_suite: dict[str, list[Measurement]] = {}
    for m in result.measurements:
        by_suite.setdefault(m.suite, []).append(m)
    if latencies := by_suite.pop("cache_latency", None):
        levels = tuple((_latency_name(m), m) for m in _by_level(result, latencies))
        yield Section("latency", levels) if levels else _general("cache_latency", latencies)
    if streams := by_suite.pop("memory_bandwidth", None):
        yield Section("bandwidth", tuple((_stream_name(m), m) for m in _best_streams(streams)))
    if products := by_suite.pop("matmul", None):
        yield Section("matmul", tuple((f"{m.params['dtype']} {_shape(m)}", m) for m in products))
    if saxpy := by_suite.pop("saxpy", None):
        largest = max(m.params["size_bytes"] for m in saxpy)
        rows = tuple((_implementation(m), m) for m in saxpy if m.params["size_bytes"] == largest)
        yield Section(f"saxpy, {format_bytes(largest)}", rows)
    if launches := by_suite.pop("launch", None):
        yield Section("launch", tuple((str(m.params.get("operator") or m.name), m) for m in launches))
    if pages := by_suite.pop("tlb", None):
        steps = tuple((m.name, m) for m in pages if "layout" not in m.params)  # of the curve
        yield Section("tlb", steps) if steps else _general("tlb", pages)
    for suite, chosen in CHOSEN.items():
        if found := by_suite.pop(suite, None):
            rows = tuple((_without_words(m), in_cycles(m)) for m in found if chosen(m))
            yield Section(suite.replace("_", " "), rows, len(found) - len(rows))
    if reads := by_suite.pop("storage", None):
        yield Section("storage", tuple((m.name, m) for m in reads if _tells_most(m)))
    for suite, rest in by_suite.items():
        yield _general(suite, rest)


def _banks_row(m: Measurement) -> bool:
    """Of the register banks the gains, and with a warp a scheduler the number of banks, operands and datapaths."""
    told = m.metric in ("speedup", "banks") or m.params.get("operands") or m.params.get("datapath")
    return bool(told) and m.params.get("warps", 4) == 4 and "stall" not in m.name


def _shared_row(m: Measurement) -> bool:
    """Of shared memory the loads, without conflicts and with the most."""
    return m.metric == "time" and m.params.get("access") == "load" and m.params.get("stride") in (1, 32, 33)


CHOSEN: dict[str, Callable[[Measurement], bool]] = {
    "instructions": lambda m: m.metric == "latency",
    "register_banks": _banks_row,
    "shared_banks": _shared_row,
}


def in_cycles(m: Measurement) -> Measurement:
    """A time that the kernel counted itself, in cycles of the SM: what such times are compared in."""
    cycles = m.params.get("cycles")
    if cycles is None or m.unit != "s" or m.value <= 0:
        return m
    scale = cycles / m.value
    low, high = (end * scale for end in m.interval)
    return replace(m, unit="cycles", value=cycles, median=m.median * scale, interval=(low, high), reference=None)


def _without_words(m: Measurement) -> str:
    """The name without what the section says already."""
    words = _short_name(m).replace("mma.sync ", "mma ").replace(", 4 warps", "").replace(" latency", "")
    return words.replace("indices: none", "no indices").replace("indices: ", "indices ")


def _tells_most(read: Measurement) -> bool:
    """Whether a storage row is among the few for the terminal: what a loader meets first."""
    params = read.params
    return (
        params.get("cache") != "direct"
        and params.get("block_bytes") != 128 << 10
        and (params.get("cache") != "warm" or params.get("pattern") == "sequential")
    )


def spread(measurement: Measurement) -> str:
    """Half the width of the median's 95 % interval, relative to the median; the count where samples are too few."""
    if measurement.n < LEAST_FOR_INTERVAL or not measurement.median:
        return f"n={measurement.n}"
    low, high = measurement.interval
    half = max(high - measurement.median, measurement.median - low) / measurement.median
    if half >= 0.995:
        return ">99 %"
    return f"{half * 100:.1f} %" if half < 0.0995 else f"{half * 100:.0f} %"


def published(measurement: Measurement) -> str:
    """The published value or range; empty where there is none."""
    reference = measurement.reference
    return span(reference.low, reference.high, measurement.unit) if reference else ""


def span(low: float, high: float, unit: str) -> str:
    """A range in words, the unit once if both ends have the same: 1.23–1.54 ns."""
    first, last = format_value(low, unit), format_value(high, unit)
    number, _, prefixed = first.partition(" ")
    if first == last:
        return last
    return f"{number}–{last}" if last.endswith(f" {prefixed}") else f"{first}–{last}"


def summary(result: MicrobenchResult) -> str:
    """How the table's results compare with published ones: `9 as published · 2 worse: contended`; empty without."""
    rows = [m for section in sections(result) for _, m in section.rows]
    parts = []
    for verdict in ("as published", "better", "worse"):
        of_it = [m for m in rows if m.verdict == verdict]
        causes = ", ".join(dict.fromkeys(printable(m.because) for m in of_it if m.because))
        if of_it:
            parts.append(f"{len(of_it)} {verdict}" + (f": {causes}" if causes else ""))
    return " · ".join(parts)


def _general(suite: str, measurements: Sequence[Measurement]) -> Section:
    """The best of each curve and all that is on none, for any suite."""
    figures, alone = arrange(measurements)
    best = [_best(series.points) for figure in figures for series in figure.series]
    rows = [*best, *(m for group in alone for m in group.measurements)]
    names = tuple((_short_name(m), m) for m in rows[:MOST_ROWS])
    return Section(suite.replace("_", " "), names, len(rows) - len(names))


def _best(points: Sequence[Measurement]) -> Measurement:
    """The best that can be true; where nothing can, the best all the same."""
    believed = _believed(points)
    best = believed[0]
    for m in believed[1:]:
        best = m if is_better(m, best) else best
    return best


def _believed(measurements: Sequence[Measurement]) -> Sequence[Measurement]:
    return [m for m in measurements if "implausible" not in m.flags] or measurements


def _short_name(measurement: Measurement) -> str:
    """The name without the suite's, which stands above it."""
    return printable(measurement.name).removeprefix(measurement.suite).strip() or measurement.suite


def _by_level(result: MicrobenchResult, latencies: Sequence[Measurement]) -> Iterator[Measurement]:
    """For each level the size whose least latency is nearest to the level's."""
    for name, level in result.ceilings.levels.items():
        inside = [m for m in latencies if m.params.get("level") == name]
        wanted = level.latency_s
        if inside and wanted is not None:
            yield min(inside, key=lambda m, wanted=wanted: abs(m.min - wanted))  # type: ignore[misc]
    yield from (m for m in latencies if m.params.get("level") in BESIDE)


def _latency_name(measurement: Measurement) -> str:
    params = measurement.params
    cycles = f" · {params['cycles']:.0f} cy" if "cycles" in params else ""
    return f"{params['level']} {format_bytes(params['size_bytes'])}{cycles}"


def _best_streams(streams: Sequence[Measurement]) -> list[Measurement]:
    """The best kernel of each level and number of threads, by level and then threads; without levels by size."""
    best: dict[tuple[object, ...], Measurement] = {}
    for m in _believed(_of_the_whole_device(streams)):
        level = m.params.get("level")
        if level is None and any(other.params.get("level") for other in streams):
            continue  # between two levels
        key = (level or m.params["size_bytes"], _team(m))
        larger = level == "DRAM" and key in best and m.params["size_bytes"] > best[key].params["size_bytes"]
        if key not in best or larger or (not _smaller(m, best[key]) and m.value > best[key].value):
            best[key] = m
    return sorted(best.values(), key=lambda m: (LEVELS.get(m.params.get("level") or "", len(LEVELS)), _team(m)))


def _of_the_whole_device(streams: Sequence[Measurement]) -> Sequence[Measurement]:
    """What may set a roof; on a GPU, whose threads are many, every kernel that filled it."""
    filled = [m for m in streams if "blocks" in m.params and m.params.get("occupancy") in (None, "most")]
    return filled or roof_streams(streams)


def _team(measurement: Measurement) -> int:
    """How many threads of a CPU worked together; 0 for those of a GPU, which are no choice of anybody's."""
    return 0 if "blocks" in measurement.params else measurement.params.get("threads") or 0


def _smaller(m: Measurement, other: Measurement) -> bool:
    """Whether m is of DRAM at a smaller footprint: there the largest counts, it has the least of the caches in it."""
    return m.params.get("level") == "DRAM" and bool(m.params["size_bytes"] < other.params["size_bytes"])


def _stream_name(measurement: Measurement) -> str:
    where = measurement.params.get("level") or format_bytes(measurement.params["size_bytes"])
    return f"{where} {measurement.params['kernel']}{_threads(measurement)}"


def _implementation(measurement: Measurement) -> str:
    return f"{measurement.params['implementation']}{_threads(measurement)}"


def _threads(measurement: Measurement) -> str:
    threads = _team(measurement)
    return f" ×{threads}" if threads else ""


def _shape(measurement: Measurement) -> str:
    shape = measurement.params["shape"]
    return f"{shape[0]}³" if len(set(shape)) == 1 else "×".join(str(n) for n in shape)
