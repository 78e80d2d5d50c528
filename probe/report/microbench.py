"""What did the microbenchmarks find? The curves, a table by level, dtype and implementation, the roofline, the gaps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from probe.microbench.suite import Suite
from probe.report import microbench_plots
from probe.report.microbench_rows import published, sections, spread, summary
from probe.report.roofline.terminal import draw
from probe.report.text import printable, shorten
from probe.results.measurement import Measurement, MicrobenchResult
from probe.units import format_si, format_value

WIDTH = 80
NAME_COLUMNS = 23
ASCII = str.maketrans(
    {"·": ",", "×": "x", "±": "", "³": "^3", "–": "-", "µ": "u", "…": "..", "█": "#", "✓": "ok", "“": '"', "”": '"'}
)
MUTED, HEADING = "dim", "bold cyan"
FLAG_STYLES = {"contended": "yellow", "throttled": "red", "emulated": "magenta", "implausible": "bold red"}
VERDICTS = {"as published": ("✓", "green"), "better": ("better", "green"), "worse": ("worse", "red")}


def render(result: MicrobenchResult, console: Console) -> None:
    """Print the result on `console`, at most 80 columns wide, in ASCII where its encoding has nothing else."""
    ascii_only = console.options.ascii_only
    console.print(_plain(_headline(result), ascii_only))
    for line in microbench_plots.draw(result.measurements, ascii_only):
        console.print(line)
    console.print()
    console.print(_table(result, ascii_only))
    console.print()
    console.print(draw(result.ceilings))
    notes = [*_verdicts(result), *_unsupported(result), *_warnings(result)]
    if notes:
        console.print()
    for note in notes:
        console.print(_plain(note, ascii_only), width=WIDTH)


def render_suites(suites: Mapping[str, Suite], console: Console) -> None:
    """Print which suites there are, the question each answers, and whether it can be asked yet."""
    for suite in suites.values():
        console.print(Text.assemble((f"{suite.name:18}", "cyan"), suite.question))
        if "cpu" not in suite.answers:
            console.print(Text(f"{'':18}on a GPU", MUTED))


def facts(result: MicrobenchResult) -> list[str]:
    """What the device is, in a few words each."""
    device = result.device
    found = [
        f"{device.physical_cores or device.cores} cores" if device.kind == "cpu" else None,
        f"{device.sm_count} SMs" if device.sm_count else None,
        format_si(device.clock_hz, "Hz") if device.clock_hz else None,
        f"torch {torch}" if (torch := result.environment.get("torch")) else None,
        "quick run" if result.ceilings.quick else None,
    ]
    return [fact for fact in found if fact]


def _plain(text: Text, ascii_only: bool) -> Text:
    """`text` in ASCII if it must be."""
    if not ascii_only:
        return text
    return Text(text.plain.translate(ASCII).encode("ascii", "replace").decode(), text.style)


def _headline(result: MicrobenchResult) -> Text:
    return Text.assemble((printable(result.device.name), "bold"), ("  " + " · ".join(facts(result)), MUTED))


def _table(result: MicrobenchResult, ascii_only: bool) -> Table:
    """A row for each level, dtype, implementation and operator; never one for each size."""
    table = Table.grid(padding=(0, 1))
    table.add_column(width=NAME_COLUMNS, no_wrap=True)
    for width in (12, 12, 5, 12):
        table.add_column(width=width, no_wrap=True, justify="right")
    table.add_column(width=11)
    for section in sections(result):
        titles = (section.title, "best", "median", "±95 %", "published", "")
        cells = [Text(t, HEADING if t == section.title else MUTED) for t in titles]
        for row in (cells, *(_row(name, m) for name, m in section.rows)):
            table.add_row(*(_plain(cell, ascii_only) for cell in row))
        if section.more:
            table.add_row(Text(f"  {section.more} more", MUTED))
    return table


def _row(name: str, measurement: Measurement) -> tuple[Text, ...]:
    best = Text(format_value(measurement.value, measurement.unit), "bold")
    median = Text(format_value(measurement.median, measurement.unit))
    label = Text(f"  {shorten(name, NAME_COLUMNS - 2)}")
    others = (Text(text, MUTED) for text in (spread(measurement), published(measurement)))
    return label, best, median, *others, _words(measurement)


def _words(measurement: Measurement) -> Text:
    """The verdict and the flags."""
    words = [Text(*VERDICTS[measurement.verdict])] if measurement.verdict in VERDICTS else []
    return Text(" ").join([*words, *(Text(flag, FLAG_STYLES.get(flag, "yellow")) for flag in measurement.flags)])


def _verdicts(result: MicrobenchResult) -> Iterator[Text]:
    """One line: how the table's results compare with published ones."""
    if compared := summary(result):
        yield Text.assemble(("compared with published values: ", MUTED), compared)


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
