"""What did the microbenchmarks find? A table by level, dtype and implementation, the roofline, and what is missing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from probe.measurement import Measurement, MicrobenchResult
from probe.microbench.suite import Suite
from probe.report.roofline import draw
from probe.report.text import printable
from probe.units import format_bytes, format_si, format_value

WIDTH = 80
LEAST_FOR_INTERVAL = 6  # fewer samples give no 95 % interval
BARS, ASCII_BARS = "▁▂▃▄▅▆▇█", "._-=+*%#"
ASCII = str.maketrans({"·": ",", "×": "x", "±": "+-", "³": "^3", "–": "-", "µ": "u", "…": "..", "█": "#"})
MUTED, HEADING = "dim", "bold cyan"
FLAG_STYLES = {"contended": "yellow", "throttled": "red", "emulated": "magenta"}


def render(result: MicrobenchResult, console: Console) -> None:
    """Print the result on `console`, at most 80 columns wide, in ASCII where its encoding has nothing else."""
    ascii_only = console.options.ascii_only
    console.print(_plain(_headline(result), ascii_only))
    if curve := _curve(result.measurements, ascii_only):
        console.print(curve)
    console.print()
    console.print(_table(result, ascii_only))
    console.print()
    console.print(draw(result.ceilings))
    notes = [*_unsupported(result), *_warnings(result)]
    if notes:
        console.print()
    for note in notes:
        console.print(_plain(note, ascii_only), width=WIDTH)


def render_suites(suites: Mapping[str, Suite], console: Console) -> None:
    """Print which suites there are, the question each answers, and whether it can be asked yet."""
    for suite in suites.values():
        state = "" if suite.run is not None else "  (not implemented yet)"
        console.print(Text.assemble((f"{suite.name:18}", "cyan"), suite.question, (state, MUTED)))


def _plain(text: Text, ascii_only: bool) -> Text:
    """`text` in ASCII if it must be."""
    if not ascii_only:
        return text
    return Text(text.plain.translate(ASCII).encode("ascii", "replace").decode(), text.style)


def _headline(result: MicrobenchResult) -> Text:
    device = result.device
    facts = [
        f"{device.physical_cores or device.cores} cores" if device.kind == "cpu" else None,
        f"{device.sm_count} SMs" if device.sm_count else None,
        format_si(device.clock_hz, "Hz") if device.clock_hz else None,
        f"torch {torch}" if (torch := result.environment.get("torch")) else None,
        "quick run" if result.ceilings.quick else None,
    ]
    name = printable(device.name)
    return Text.assemble((name, "bold"), ("  " + " · ".join(fact for fact in facts if fact), MUTED))


def _table(result: MicrobenchResult, ascii_only: bool) -> Table:
    """A row for each level, dtype, implementation and operator; never one for each size."""
    table = Table.grid(padding=(0, 1))
    table.add_column(width=23, no_wrap=True)
    for width in (12, 12, 6, 12):
        table.add_column(width=width, no_wrap=True, justify="right")
    table.add_column(width=10)
    for heading, cells in _sections(result, ascii_only):
        titles = (heading, "best", "median", "±95 %", "published", "")
        table.add_row(*(_plain(Text(t, HEADING if t == heading else MUTED), ascii_only) for t in titles))
        for row in cells:
            table.add_row(*(_plain(cell, ascii_only) for cell in row))
    return table


Row = tuple[Text, ...]


def _sections(result: MicrobenchResult, ascii_only: bool) -> Iterator[tuple[str, list[Row]]]:
    """Heading and rows of each suite that was measured."""
    by_suite = {name: list(group) for name, group in itertools.groupby(result.measurements, lambda m: m.suite)}
    if latencies := by_suite.get("cache_latency"):
        yield "latency", [_row(_latency_name(m), m) for m in _by_level(result, latencies)]
    if streams := by_suite.get("memory_bandwidth"):
        yield "bandwidth", [_row(_stream_name(m), m) for m in _best_streams(streams)]
    if products := by_suite.get("matmul"):
        yield "matmul", [_row(f"{m.params['dtype']} {_shape(m)}", m) for m in products]
    if saxpy := by_suite.get("saxpy"):
        largest = max(m.params["size_bytes"] for m in saxpy)
        at_largest = [m for m in saxpy if m.params["size_bytes"] == largest]
        rows = [_row(f"{m.params['implementation']}{_threads(m)}", m) for m in at_largest]
        yield f"saxpy, {format_bytes(largest)}", rows
    if launches := by_suite.get("launch"):
        yield "launch", [_row(str(m.params["operator"]), m) for m in launches]


def _row(name: str, measurement: Measurement) -> Row:
    best = Text(format_value(measurement.value, measurement.unit), "bold")
    median = Text(format_value(measurement.median, measurement.unit))
    spread = Text(_spread(measurement), MUTED)
    return Text(f"  {name}"), best, median, spread, _published(measurement), _flags(measurement)


def _spread(measurement: Measurement) -> str:
    """Half the width of the median's 95 % interval, relative to the median; empty with too few samples."""
    if measurement.n < LEAST_FOR_INTERVAL or not measurement.median:
        return f"n={measurement.n}"
    low, high = measurement.interval
    half = max(high - measurement.median, measurement.median - low) / measurement.median
    return f"{half * 100:.1f} %" if half < 0.995 else ">99 %"


def _published(measurement: Measurement) -> Text:
    """The published value or range, the unit once if both ends have the same."""
    reference = measurement.reference
    if reference is None:
        return Text("")
    low, high = (format_value(value, measurement.unit) for value in (reference.low, reference.high))
    number, _, unit = low.partition(" ")
    if low == high:
        return Text(high, MUTED)
    return Text(f"{number}–{high}" if high.endswith(f" {unit}") else f"{low}–{high}", MUTED)


def _flags(measurement: Measurement) -> Text:
    """The flags as words."""
    return Text(" ").join(Text(flag, FLAG_STYLES.get(flag, "yellow")) for flag in measurement.flags)


def _by_level(result: MicrobenchResult, latencies: Sequence[Measurement]) -> Iterator[Measurement]:
    """For each level the size whose least latency is nearest to the level's."""
    for name, level in result.ceilings.levels.items():
        inside = [m for m in latencies if m.params.get("level") == name]
        wanted = level.latency_s
        if inside and wanted is not None:
            yield min(inside, key=lambda m, wanted=wanted: abs(m.min - wanted))  # type: ignore[misc]


def _latency_name(measurement: Measurement) -> str:
    params = measurement.params
    cycles = f" · {params['cycles']:.0f} cy" if "cycles" in params else ""
    return f"{params['level']} {format_bytes(params['size_bytes'])}{cycles}"


def _curve(measurements: Sequence[Measurement], ascii_only: bool) -> Text | None:
    """Least latency against size, logarithmic, a bar a size; None without latencies."""
    latencies = [m for m in measurements if m.suite == "cache_latency"]
    ordered = sorted(latencies, key=lambda m: int(m.params["size_bytes"]))
    if not ordered:
        return None
    bars = ASCII_BARS if ascii_only else BARS
    low, high = min(m.min for m in ordered), max(m.min for m in ordered)
    line = "".join(bars[_bar(m.min, low, high, len(bars))] for m in ordered)
    first, last = (format_bytes(m.params["size_bytes"]) for m in (ordered[0], ordered[-1]))
    return Text.assemble((f"load latency by size  {first} ", MUTED), (line, "cyan"), (f" {last}", MUTED))


def _bar(value: float, low: float, high: float, steps: int) -> int:
    if high <= low:
        return 0
    return min(steps - 1, int(math.log(value / low) / math.log(high / low) * steps))


def _best_streams(streams: Sequence[Measurement]) -> list[Measurement]:
    """The best kernel of each level and number of threads, by level and then threads; without levels by size."""
    best: dict[tuple[object, ...], Measurement] = {}
    for m in streams:
        level = m.params.get("level")
        if level is None and any(other.params.get("level") for other in streams):
            continue  # between two levels
        key = (level or m.params["size_bytes"], m.params["threads"])
        larger = level == "DRAM" and key in best and m.params["size_bytes"] > best[key].params["size_bytes"]
        if key not in best or larger or (not _smaller(m, best[key]) and m.value > best[key].value):
            best[key] = m
    order = {"L1": 0, "L2": 1, "L3": 2, "DRAM": 3}
    return sorted(best.values(), key=lambda m: (order.get(m.params.get("level") or "", 4), m.params["threads"] or 0))


def _smaller(m: Measurement, other: Measurement) -> bool:
    """Whether m is of DRAM at a smaller footprint: there the largest counts, it has the least of the caches in it."""
    return m.params.get("level") == "DRAM" and bool(m.params["size_bytes"] < other.params["size_bytes"])


def _stream_name(measurement: Measurement) -> str:
    where = measurement.params.get("level") or format_bytes(measurement.params["size_bytes"])
    return f"{where} {measurement.params['kernel']}{_threads(measurement)}"


def _threads(measurement: Measurement) -> str:
    threads = measurement.params.get("threads")
    return f" ×{threads}" if threads else ""


def _shape(measurement: Measurement) -> str:
    shape = measurement.params["shape"]
    return f"{shape[0]}³" if len(set(shape)) == 1 else "×".join(str(n) for n in shape)


def _unsupported(result: MicrobenchResult) -> Iterable[Text]:
    """One muted line: the suites that were not measured, by reason."""
    reasons: dict[str, list[str]] = {}
    for entry in result.unsupported:
        reasons.setdefault(entry.reason, []).append(entry.suite)
    for reason, suites in reasons.items():
        yield Text(f"not measured ({printable(reason)}): {', '.join(suites)}", MUTED)


def _warnings(result: MicrobenchResult) -> Iterable[Text]:
    for warning in result.warnings:
        yield Text.assemble(("! ", "yellow"), printable(warning))
