"""One screen: the verdict, what to change first, where the time goes, the roofline, and the operators."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from probe.machine.device import Ceilings
from probe.report import memory, parts, ranks_terminal, verdict
from probe.report.conditions import serving_lines, spending, telemetry_words
from probe.report.ranks import clocks
from probe.report.roofline.plane import placed, roofs_met
from probe.report.roofline.terminal import Point, draw
from probe.report.telemetry_phases import phase_words
from probe.report.text import kernel_name, printable, shorten
from probe.report.verification import MARKS, STYLES
from probe.results.analysis import Analysis, Operator, PrecisionGain
from probe.results.findings import Finding
from probe.units import UNKNOWN, format_fraction, format_si, format_time

WIDTH = 80
BAR = 8
KERNELS_SHOWN = 4
POINTS = 8


def render(analysis: Analysis, top: int = 10) -> RenderableType:
    """The report as rich text, 80 columns wide; `top` operators are listed."""
    blocks: list[RenderableType] = [
        _headline(analysis),
        Text(verdict.sentence(analysis), style="bold"),
        *_ranks_verdict(analysis),
        *_fixes(analysis),
        Text(),
        parts.bar(analysis.time_s, WIDTH),
        Columns(parts.legend(analysis.time_s), padding=(0, 2)),
        Text(),
        *ranks_terminal.blocks(analysis),
        *memory.blocks(analysis.memory, WIDTH),
        *_roofline(analysis),
        _operators(analysis, top),
    ]
    if _has_kernels(analysis):
        blocks += [Text(), _kernels(analysis)]
    return Group(*blocks, Text(), _facts(analysis), *_notes(analysis))


def as_text(analysis: Analysis, top: int = 10) -> str:
    """The report as plain text."""
    console = Console(width=WIDTH, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(render(analysis, top))
    return capture.get()


def _ranks_verdict(analysis: Analysis) -> Iterator[Text]:
    """What several ranks or jobs say, where there are any."""
    said = verdict.of_ranks(analysis)
    if said:
        yield Text(said, style="bold")


def _fixes(analysis: Analysis) -> Iterator[RenderableType]:
    """Up to three suggestions: what, how much, and the line to paste."""
    for number, finding in enumerate(verdict.first(analysis.findings), start=1):
        yield Text()
        yield _fix(number, finding)


def _fix(number: int, finding: Finding) -> RenderableType:
    margin = verdict.saving(finding)
    title = Text.assemble((f"{number} ", "bold green"), (finding.title, "bold"), (f"  {finding.code}", "dim"))
    title.append(" " * max(2, WIDTH - len(title) - len(margin)))
    title.append(margin, "green")
    lines: list[RenderableType] = [Padding(Text(printable(finding.summary)), (0, 0, 0, 2))]
    if finding.how:
        lines.append(Padding(Text.assemble(("→ ", "green"), (printable(finding.how), "cyan")), (0, 0, 0, 2)))
    proved = verdict.proof(finding)
    if proved and finding.verified is not None:
        mark = (f"{MARKS[finding.verified.verdict]} ", STYLES[finding.verified.verdict])
        lines.append(Padding(Text.assemble(mark, proved), (0, 0, 0, 2)))
    return Group(title, *lines)


def _roofline(analysis: Analysis) -> Iterator[RenderableType]:
    """The listed operators under the roofs, where there are roofs."""
    ceilings = analysis.ceilings
    if ceilings is None or not ceilings.dram_bytes_per_s or not ceilings.flops_per_s:
        return
    yield draw(roofs_met(analysis, ceilings), points(analysis.ops), width=WIDTH)
    yield Text()


def points(ops: Sequence[Operator]) -> tuple[Point, ...]:
    """The operators that have a place under the roofs, most time to recover first, labelled by their index."""
    shown = [op for op in placed(ops) if op.bound != "overhead"][:POINTS]
    return tuple(Point(str(op.index), op.intensity or 0.0, op.achieved_flops_per_s or 0.0) for op in shown)


def _headline(analysis: Analysis) -> Text:
    source = analysis.source
    told = (
        f"{source.ranks} ranks" if source.ranks > 1 else None,
        source.device,
        f"torch {source.torch}" if source.torch else None,
    )
    where = " · ".join(printable(x) for x in told if x)
    path = shorten(printable(source.path), max(20, WIDTH - len(where) - 2))
    return Text.assemble((path, "bold"), " " * max(2, WIDTH - len(path) - len(where)), (where, "dim"))


def _facts(analysis: Analysis) -> Table:
    """Labelled lines under the headline."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(max_width=WIDTH - 12)
    for label, text in fact_lines(analysis):
        grid.add_row(label, Text(text))
    return grid


def fact_lines(analysis: Analysis) -> Iterator[tuple[str, str]]:
    """The facts above the tables, each a label and a sentence."""
    yield "step", _step(analysis)
    rates = analysis.steps.throughput
    if rates.samples_per_s is not None or rates.tokens_per_s is not None:
        told = ((rates.samples_per_s, "samples/s"), (rates.tokens_per_s, "tokens/s"))
        yield "throughput", " · ".join(format_si(rate, unit) for rate, unit in told if rate is not None)
    busy = analysis.utilisation.device_busy_fraction
    if busy is not None:
        doing = "an operator runs" if analysis.source.device_kind == "cpu" else "the device is busy"
        yield "busy", f"{doing} during {format_fraction(busy)} of the recorded steps"
    known = analysis.quality.known_cost_fraction
    if known is not None:
        what = "device" if uses_device(analysis) else "operator"
        yield "costs", f"known for {format_fraction(known)} of the {what} time"
    if analysis.serving is not None:
        yield from serving_lines(analysis.serving)
    spent = spending(analysis.cost)
    if spent:
        yield "cost", spent
    seen = telemetry_words(analysis.telemetry)
    if seen:
        yield "telemetry", seen
    phases = phase_words(analysis.telemetry)
    if phases:
        yield "phases", phases
    if analysis.ceilings is not None:
        yield "ceilings", _ceilings(analysis.ceilings)
    narrower = precision(analysis)
    if narrower:
        yield "precision", narrower
    offsets = clocks(analysis.clocks)
    if offsets:
        yield "clocks", offsets
    yield "recorded", " · ".join(analysis.recorded) or "nothing"
    if analysis.not_recorded:
        yield "not there", " · ".join(analysis.not_recorded)


WORTH_A_LINE = 0.05  # of the step


def precision(analysis: Analysis) -> str:
    """What narrower element types would save by the roofs; "" where that is not worth a line."""
    step_s = analysis.time_s["step"] or 0.0
    told: dict[tuple[str, str], PrecisionGain] = {}
    for gain in analysis.precision:  # most first; the two half-precision types mostly save the same
        if gain.saving_s >= WORTH_A_LINE * step_s > 0:
            told.setdefault((gain.before, gain.after.replace("bfloat16", "float16")), gain)
    saved = " · ".join(
        f"{one.before} → {one.after} at most {format_time(one.saving_s)} ({format_fraction(one.saving_s / step_s)})"
        for one in told.values()
    )
    return f"less time by the roofs: {saved}" if saved else ""


def _ceilings(ceilings: Ceilings) -> str:
    """Which roofs the operators stand under."""
    when = f" on {ceilings.measured_at[:10]}" if ceilings.measured_at else ""
    return f"{ceilings.origin}{when}, {printable(ceilings.device)}"


def _step(analysis: Analysis) -> str:
    """Bare and profiled time of a step, and its distribution."""
    steps = analysis.steps
    if steps.n == 0 or steps.mean_s is None:
        return "no step was timed"
    distribution = (
        f"{steps.n} step{'s' * (steps.n > 1)}: p50 {format_time(steps.p50_s)}, p95 {format_time(steps.p95_s)}"
    )
    if steps.bare_mean_s is None:
        return f"{format_time(steps.mean_s)} under the profiler · {distribution}"
    profiled = f", {format_time(steps.profiled_mean_s)} profiled" if steps.profiled_mean_s else ""
    return f"{format_time(steps.bare_mean_s)} bare{profiled} · {distribution}"


def _operators(analysis: Analysis, top: int) -> Table:
    """The operators with most time to recover, one row each."""
    on_device = uses_device(analysis)
    table = _table("operator", "shapes", "calls", numbered=True)
    table.add_column("device" if on_device else "time", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("bound", no_wrap=True)
    table.add_column("roof", justify="right", no_wrap=True)
    table.add_column("to gain", justify="right", no_wrap=True)
    ranked = by_possible_gain(analysis.ops)
    for op in ranked[:top]:
        table.add_row(*_cells(op, on_device))
    rest = ranked[top:]
    if rest:
        table.add_row(*_rest(rest, on_device), style="dim")
    return table


def by_possible_gain(ops: Sequence[Operator]) -> list[Operator]:
    """Most time to gain first; an operator without a model may gain all its time, for all that is known."""
    on_device = any(op.device_s > 0 for op in ops)

    def gain_s(op: Operator) -> float:
        spent_s = op.device_s if on_device else op.self_s
        return op.recoverable_s if op.recoverable_s is not None else spent_s

    return sorted(ops, key=gain_s, reverse=True)


def uses_device(analysis: Analysis) -> bool:
    """Whether time on a device, and not on the host, is what counts."""
    return any(op.device_s > 0 for op in analysis.ops)


def _table(first: str, second: str, third: str, *, numbered: bool = False) -> Table:
    table = Table(box=None, width=WIDTH, padding=(0, 1), pad_edge=False, header_style="dim")
    if numbered:
        table.add_column("#", justify="right", no_wrap=True, style="dim")
    table.add_column(first, no_wrap=True, overflow="ellipsis", ratio=5)
    table.add_column(second, no_wrap=True, overflow="ellipsis", ratio=4, style="dim")
    table.add_column(third, justify="right", no_wrap=True)
    return table


def _cells(op: Operator, on_device: bool) -> list[RenderableType]:
    shapes = printable(op.shapes).replace(", ", ",").replace(" × ", "×") if op.shapes else UNKNOWN
    _, style = parts.STYLES[op.bound]
    return [
        str(op.index),
        Text(operator_name(op.name)),
        Text(shapes),
        calls_text(op.calls),
        format_time(op.device_s if on_device else op.self_s),
        format_fraction(op.share_fraction),
        Text(SHORT.get(op.limiter or "", SHORT.get(op.bound, op.bound)), style=style),
        format_fraction(op.roof_fraction, 0),
        format_time(op.recoverable_s),
    ]


SHORT = {"communication": "comm.", "single-thread": "1 thread", "strided-access": "strided"}


def operator_name(name: str) -> str:
    """The operator without torch's own namespace; others keep theirs."""
    return printable(name).removeprefix("aten::")


def calls_text(calls: float) -> str:
    """Calls per step; a fraction where steps differ."""
    return f"{calls:.0f}" if abs(calls - round(calls)) < 0.05 else f"{calls:.1f}"


def _rest(rest: Sequence[Operator], on_device: bool) -> list[RenderableType]:
    return [
        "",
        f"{len(rest)} more",
        "",
        calls_text(sum(op.calls for op in rest)),
        format_time(sum(op.device_s if on_device else op.self_s for op in rest)),
        format_fraction(sum(op.share_fraction for op in rest)),
        "",
        "",
        format_time(sum(op.recoverable_s or 0.0 for op in rest)),
    ]


def bar(fraction: float, largest: float, width: int = BAR) -> Text:
    """A bar whose full width is the largest fraction of the table, in eighths of a character."""
    eighths = round(fraction / largest * width * 8) if largest > 0 else 0
    full, part = divmod(eighths, 8)
    return Text("█" * full + ("▏▎▍▌▋▊▉"[part - 1] if part else ""), style="green")


def _has_kernels(analysis: Analysis) -> bool:
    return analysis.source.device_kind != "cpu" and any(op.kernels for op in analysis.ops)


def kernel_totals(ops: Iterable[Operator]) -> list[tuple[str, float, float, str]]:
    """(kernel, calls, seconds, the operator that launches most of it) per step, the longest first."""
    totals: dict[str, tuple[float, float, float, str]] = {}
    for op in ops:
        for use in op.kernels:
            calls, seconds, most, owner = totals.get(use.name, (0.0, 0.0, 0.0, ""))
            if use.device_s >= most:
                most, owner = use.device_s, op.name
            totals[use.name] = (calls + use.calls, seconds + use.device_s, most, owner)
    rows = [(name, calls, seconds, owner) for name, (calls, seconds, _, owner) in totals.items()]
    return sorted(rows, key=lambda row: -row[2])


def _kernels(analysis: Analysis) -> Table:
    """The kernels that take most of the device's time."""
    table = _table("kernel", "launched by", "calls")
    table.add_column("device", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, width=BAR)
    rows = kernel_totals(analysis.ops)
    step_s = analysis.time_s["step"] or 0.0
    largest = rows[0][2]
    for name, calls, seconds, owner in rows[:KERNELS_SHOWN]:
        share = format_fraction(seconds / step_s if step_s else None)
        table.add_row(
            Text(kernel_name(name)), Text(operator_name(owner)), calls_text(calls), format_time(seconds), share,
            bar(seconds, largest),
        )  # fmt: skip
    return table


def _notes(analysis: Analysis) -> Iterator[Text]:
    """What limits the figures."""
    yield Text()
    for reason in analysis.quality.reasons:
        yield Text(f"quality: {reason}", style="dim")
    for warning in analysis.warnings:
        yield Text.assemble(("! ", "yellow"), printable(warning))
