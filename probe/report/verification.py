"""What running the replacements showed, one paragraph a suggestion."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from probe.analysis import Analysis
from probe.findings import Finding, Verified
from probe.report.text import printable
from probe.units import UNKNOWN, format_bytes, significant

STYLES = {"accept": "bold green", "reject": "bold red", "inconclusive": "yellow", "trade": "cyan"}


def render(analysis: Analysis) -> RenderableType:
    """The suggestions that were run, then those that cannot be run yet."""
    ran = [f for f in analysis.findings if f.verified is not None]
    rest = [f for f in analysis.findings if f.verified is None]
    blocks: list[RenderableType] = [_paragraph(f, f.verified) for f in ran if f.verified is not None]
    if not ran:
        blocks.append(Text("No suggestion of this analysis can be run on its recorded shapes."))
    if rest:
        names = ", ".join(f"{f.code} {f.title}" for f in rest)
        blocks.append(
            Text(f"Not run, because no replacement for them can be built from a record: {names}", style="dim")
        )
    return Group(*blocks)


def _paragraph(finding: Finding, best: Verified) -> RenderableType:
    title = Text.assemble((finding.title, "bold"), (f"  {finding.code}", "dim"))
    blocks: list[RenderableType] = [title]
    for result in (best, *finding.alternatives):
        blocks += _candidate(result)
    if finding.how and best.verdict in ("accept", "trade"):
        blocks.append(Padding(Text.assemble(("→ ", "green"), (printable(finding.how), "cyan")), (0, 0, 0, 2)))
    return Group(*blocks, Text())


def _candidate(result: Verified) -> list[RenderableType]:
    """One replacement: the verdict with its speed, then why, errors and memory."""
    why = printable(result.reason or speed(result))
    verdict = Text.assemble((f"{result.verdict:12}", STYLES[result.verdict]), f" {result.candidate}: {why}")
    details = [errors(result), memory(result), f"on {printable(result.device)}"]
    body = " · ".join(detail for detail in details if detail)
    return [Padding(verdict, (0, 0, 0, 2)), Padding(Text(body, style="dim"), (0, 0, 0, 15))]


def speed(result: Verified) -> str:
    """The speed-up with its interval: 3.65× [3.10, 4.50] in 40 pairs."""
    if result.speedup is None or result.interval is None:
        return "not timed"
    low, high = result.interval
    return f"{result.speedup:.2f}× [{low:.2f}, {high:.2f}] in {result.n} pairs"


def errors(result: Verified) -> str:
    """The errors against float64, before and after."""
    text = f"error {_error(result.error_before)} → {_error(result.error_after)}"
    if result.gradient_error_after is not None:
        text += f", gradients {_error(result.gradient_error_before)} → {_error(result.gradient_error_after)}"
    return text if result.error_after is not None else ""


def _error(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1e}" if value else significant(0.0)


def memory(result: Verified) -> str:
    """Peak memory before and after, where it was measured."""
    if result.peak_bytes_before is None or result.peak_bytes_after is None:
        return ""
    return f"peak memory {format_bytes(result.peak_bytes_before)} → {format_bytes(result.peak_bytes_after)}"
