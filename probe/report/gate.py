"""What a gate found, on one screen: the verdict, the step and the counts, the operators that make the difference."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from probe.report.text import printable, shorten
from probe.results.gate_result import Cause, GateResult, Metric
from probe.units import format_bytes, format_time, format_value

WIDTH = 80
STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow"}
MARKS = {"pass": "✓", "fail": "✗", "inconclusive": "?"}
TOP = 10


def render(result: GateResult) -> RenderableType:
    """The report as rich text, 80 columns wide."""
    blocks: list[RenderableType] = [
        Text.assemble((result.verdict.upper(), STYLES[result.verdict]), "  ", printable(result.summary)),
        Text(_where(result), style="dim"),
        Text(),
        _metrics([m for m in result.metrics if not is_operator(m) and not is_nothing(m)]),
    ]
    if failed := [m for m in result.metrics if is_operator(m) and m.verdict == "fail"]:
        blocks += [Text(), Text("Operators that fail", style="bold"), _metrics(failed)]
    if result.causes:
        blocks += [Text(), Text("What the difference is made of", style="bold"), _causes(result)]
    blocks += [Text(f"! {printable(warning)}", style="yellow") for warning in result.warnings]
    return Group(*blocks)


def as_text(result: GateResult) -> str:
    """The report as plain text."""
    console = Console(width=WIDTH, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(render(result))
    return capture.get()


def is_operator(metric: Metric) -> bool:
    """Whether it is an operator's time: neither the step's nor a count."""
    return metric.unit == "s" and not metric.name.startswith("step ")


def is_nothing(metric: Metric) -> bool:
    """Whether it counts what neither version has."""
    return metric.verdict == "pass" and metric.base == metric.new == 0


def _where(result: GateResult) -> str:
    sessions = f"{result.sessions} session{'s' if result.sessions != 1 else ''}"
    return f"{result.base.name} → {result.new.name} · {sessions} on {result.new.device or 'this machine'}"


def _metrics(metrics: list[Metric]) -> Table:
    table = Table(box=None, width=WIDTH, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("", width=1)
    table.add_column("per step", no_wrap=True, overflow="ellipsis", ratio=1)
    for name in ("base", "new", "change", "95 %", "limit"):
        table.add_column(name, justify="right", no_wrap=True)
    for metric in metrics:
        mark = Text(MARKS[metric.verdict], STYLES[metric.verdict]) if metric.gates else Text("·", "dim")
        table.add_row(mark, words(metric), *numbers(metric), style=None if metric.gates else "dim")
    return table


def words(metric: Metric) -> str:
    """A metric's name as it is printed."""
    return printable(
        metric.name.replace("_bytes", "").replace("_", " ") if not is_operator(metric) else shorten(metric.name, 60)
    )


def numbers(metric: Metric) -> tuple[str, str, str, str, str]:
    """Base, new, change, its interval and the limit."""
    low_high = metric.interval
    return (
        amount(metric.base, metric.unit),
        amount(metric.new, metric.unit),
        change(metric.ratio),
        f"{change(low_high[0])} … {change(low_high[1])}" if low_high else "",
        limit(metric),
    )


def limit(metric: Metric) -> str:
    """By how much the metric may rise."""
    return "" if metric.threshold_fraction is None or not metric.gates else f"{metric.threshold_fraction:+.0%}"


def amount(value: float | None, unit: str) -> str:
    """A value with its unit."""
    if value is None:
        return "–"
    if unit == "s":
        return format_time(value)
    if unit == "byte":
        return format_bytes(value)
    return f"{value:g}" if unit == "1" else format_value(value, unit)


def change(ratio: float | None) -> str:
    """A ratio as the change in percent."""
    return "–" if ratio is None else f"{(ratio - 1) * 100:+.1f} %"


def _causes(result: GateResult) -> Table:
    table = Table(box=None, width=WIDTH, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("operator", no_wrap=True, overflow="ellipsis", ratio=3)
    table.add_column("adds", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("", ratio=4)
    for cause in result.causes[:TOP]:
        table.add_row(*_cause(cause))
    if result.unexplained_s is not None and result.delta_s:
        share = f"{result.unexplained_s / result.delta_s:.0%}"
        table.add_row(Text("not explained", "dim"), signed(result.unexplained_s), share, "")
        table.add_row(Text("the step", "bold"), signed(result.delta_s), "100%", "")
    return table


def _cause(cause: Cause) -> Iterator[RenderableType]:
    yield printable(f"{cause.op} {cause.shapes or ''}".strip())
    yield signed(cause.delta_s)
    yield "–" if cause.share_fraction is None else f"{cause.share_fraction:.0%}"
    yield printable(cause.reason)


def signed(seconds: float) -> str:
    """Seconds more (+) or less."""
    return f"{'+' if seconds >= 0 else '−'}{format_time(abs(seconds))}"
