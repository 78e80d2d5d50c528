"""What running the replacements showed: a line a replacement, the best of each suggestion first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from probe.report.text import markdown_cell, printable, shorten
from probe.results.analysis import Analysis
from probe.results.findings import Finding, Verified
from probe.units import UNKNOWN, format_bytes, format_fraction, format_time, significant

STYLES = {"accept": "bold green", "reject": "bold red", "inconclusive": "yellow", "trade": "cyan"}
MARKS = {"accept": "✓", "reject": "✗", "inconclusive": "~", "trade": "±"}
ROW = ("verdict", "replacement", "speed-up", "peak memory")  # what stands in the first line
LONGEST = 34  # characters of a cell of it
COLUMNS = ("verdict", "replacement", "speed-up", "pairs", "peak memory", "error", "of gradients")
WIDTH = 100
RATIO = re.compile(r"\S+× \[\S+, \S+\] over \d+ pairs")


def render(analysis: Analysis, candidates: Sequence[Verified] = ()) -> RenderableType:
    """The suggestions that were run, the user's own kernel, then what cannot be run."""
    ran = [f for f in analysis.findings if f.verified is not None]
    blocks: list[RenderableType] = [_block(f, f.verified) for f in ran if f.verified is not None]
    if candidates:
        blocks.append(Group(Text("Your own kernel", style="bold"), *_rows(candidates), Text()))
    if not blocks:
        blocks.append(Text("No suggestion of this analysis can be run on its recorded shapes."))
    blocks += [Text(line, style="dim") for line in _foot(analysis, ran, own=bool(candidates))]
    return Group(*blocks)


def as_text(analysis: Analysis, candidates: Sequence[Verified] = ()) -> str:
    """The same as plain text."""
    console = Console(width=WIDTH, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(render(analysis, candidates))
    return capture.get()


def _block(finding: Finding, best: Verified) -> RenderableType:
    """One suggestion: what it is about, a row a replacement, and the line to paste if one of them helps."""
    title = Text.assemble((finding.code, "bold"), "  ", (printable(finding.title), "bold"), (_saving(finding), "dim"))
    blocks: list[RenderableType] = [title, *_rows((best, *finding.alternatives))]
    if finding.how and best.verdict in ("accept", "trade"):
        blocks.append(Padding(Text.assemble(("→ ", "green"), (printable(finding.how), "cyan")), (0, 0, 0, 2)))
    return Group(*blocks, Text())


def _saving(finding: Finding) -> str:
    if finding.saving_s is None:
        return ""
    return f"  up to {format_time(finding.saving_s)} of a step, {format_fraction(finding.saving_fraction, 0)}"


def _rows(results: Sequence[Verified]) -> Iterator[RenderableType]:
    """A line a replacement, and under it its errors and why it was judged as it was."""
    widths = [max(len(cells[i]) for cells in map(_row, results)) for i in range(len(ROW))]
    for result in results:
        line = Text()
        for column, cell, width in zip(ROW, _row(result), widths, strict=True):
            style = STYLES[result.verdict] if column in ("verdict", "speed-up") else ""
            line.append(cell.ljust(width) + "   " if width else "", style)
        line.rstrip()
        yield Padding(line, (0, 0, 0, 2))
        details = " · ".join(filter(None, (_errors(result), _count(result), _why(result))))
        if details:
            yield Padding(Text(details, style="dim"), (0, 0, 0, 4))


def _row(result: Verified) -> list[str]:
    cells = _cells(result)
    return [shorten(cells[column], LONGEST) for column in ROW]


def _errors(result: Verified) -> str:
    """error 5.8e-08 → 6.3e-08, of gradients 1.5e-07 → 1.2e-06."""
    cells = _cells(result)
    gradients = f", of gradients {cells['of gradients']}" if cells["of gradients"] else ""
    return f"error {cells['error']}{gradients}" if cells["error"] else ""


def _count(result: Verified) -> str:
    return f"{result.n} pairs" if result.n else ""


def _cells(result: Verified) -> dict[str, str]:
    """One row by column; "" for what is not known."""
    return {
        "verdict": f"{MARKS[result.verdict]} {result.verdict}",
        "replacement": _name(result),
        "speed-up": "" if result.speedup is None else speed(result),
        "pairs": str(result.n) if result.n else "",
        "peak memory": memory(result),
        "error": _pair(result.error_before, result.error_after),
        "of gradients": _pair(result.gradient_error_before, result.gradient_error_after),
    }


def _name(result: Verified) -> str:
    return printable(result.candidate or "replacement")


def _why(result: Verified) -> str:
    """The reason without the ratio that stands in the row."""
    reason = printable(result.reason or "")
    return "; ".join(part for part in reason.split("; ") if not RATIO.fullmatch(part))


def speed(result: Verified) -> str:
    """The speed-up with its interval: 3.65× [3.10, 4.50]."""
    if result.speedup is None or result.interval is None:
        return "not timed"
    low, high = result.interval
    return f"{result.speedup:.2f}× [{low:.2f}, {high:.2f}]"


def _pair(before: float | None, after: float | None) -> str:
    return "" if after is None else f"{_error(before)} → {_error(after)}"


def _error(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1e}" if value else significant(0.0)


def memory(result: Verified) -> str:
    """Peak memory before and after, where it was measured."""
    if result.peak_bytes_before is None or result.peak_bytes_after is None:
        return ""
    return f"{format_bytes(result.peak_bytes_before)} → {format_bytes(result.peak_bytes_after)}"


def _foot(analysis: Analysis, ran: Sequence[Finding], *, own: bool) -> Iterator[str]:
    """On what it ran, what that means, and what could not be run."""
    device = next((f.verified.device for f in ran if f.verified is not None), None)
    if device:
        yield f"Measured on {printable(device)}; errors are relative to the same in float64."
    yield from (printable(w) for w in analysis.warnings if w.startswith(("verified on", "the verdicts could not")))
    rest = [] if own else [f for f in analysis.findings if f.verified is None]
    if rest:
        names = ", ".join(f"{f.code} {f.title}" for f in rest)
        yield f"Not run, because no replacement for them can be built from a record: {names}"


def as_markdown(analysis: Analysis, candidates: Sequence[Verified] = ()) -> str:
    """The same for a pull request."""
    ran = [f for f in analysis.findings if f.verified is not None]
    parts = ["# Verified suggestions\n"]
    for finding in ran:
        results = (finding.verified, *finding.alternatives)
        parts.append(f"## {finding.code} {markdown_cell(finding.title)}\n")
        parts += _markdown_table([result for result in results if result is not None])
    if candidates:
        parts += ["## Your own kernel\n", *_markdown_table(candidates)]
    parts += [f"{markdown_cell(line)}\n" for line in _foot(analysis, ran, own=bool(candidates))]
    return "\n".join(parts)


def _markdown_table(results: Sequence[Verified]) -> list[str]:
    lines = [f"| {' | '.join((*COLUMNS, 'why'))} |", f"|{'---|' * (len(COLUMNS) + 1)}"]
    for result in results:
        cells = [*_cells(result).values(), _why(result)]
        lines.append(f"| {' | '.join(map(markdown_cell, cells))} |")
    return ["\n".join(lines) + "\n"]
