"""What a gate found, as Markdown: for a step summary or a comment. At most 900 KiB: GitHub drops what is longer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from probe.report.gate import is_nothing, is_operator, numbers, signed, words
from probe.results.gate_result import GateResult, Metric

MOST_BYTES = 900 << 10
SIGNS = {"pass": "✅", "fail": "❌", "inconclusive": "❔"}
ROWS = 50


def as_markdown(result: GateResult) -> str:
    """The verdict first, then a table of what was compared and one of causes."""
    text = "\n".join(_lines(result)) + "\n"
    data = text.encode()
    if len(data) <= MOST_BYTES:
        return text
    cut = data[:MOST_BYTES].decode(errors="ignore").rpartition("\n")[0]
    return f"{cut}\n\n… cut\n"


def _lines(result: GateResult) -> Iterator[str]:
    yield f"### {SIGNS[result.verdict]} probe gate: {result.verdict}"
    yield ""
    yield _escaped(result.summary)
    yield ""
    yield f"{_escaped(result.base.name)} → {_escaped(result.new.name)}, {result.sessions} sessions"
    yield ""
    yield from _table([m for m in result.metrics if not is_nothing(m) and (not is_operator(m) or m.verdict == "fail")])
    if result.causes:
        yield ""
        yield from _causes(result)
    operators = [m for m in result.metrics if is_operator(m) and m.verdict != "fail"]
    if operators:
        yield ""
        yield f"<details><summary>{len(operators)} other operators</summary>"
        yield ""
        yield from _table(operators[:ROWS])
        yield ""
        yield "</details>"
    for warning in result.warnings:
        yield ""
        yield f"> {_escaped(warning)}"


def _table(metrics: Sequence[Metric]) -> Iterator[str]:
    yield "| | per step | base | new | change | 95 % | limit |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for metric in metrics:
        cells = [SIGNS[metric.verdict] if metric.gates else "", _escaped(words(metric)), *numbers(metric)]
        yield f"| {' | '.join(cells)} |"


def _causes(result: GateResult) -> Iterator[str]:
    yield "| operator | adds | share | why |"
    yield "|---|---:|---:|---|"
    for cause in result.causes:
        share = "" if cause.share_fraction is None else f"{cause.share_fraction:.0%}"
        name = f"{cause.op} {cause.shapes or ''}".strip()
        yield f"| {_escaped(name)} | {signed(cause.delta_s)} | {share} | {_escaped(cause.reason)} |"
    if result.unexplained_s is not None and result.delta_s:
        yield f"| not explained | {signed(result.unexplained_s)} | {result.unexplained_s / result.delta_s:.0%} | |"


def _escaped(text: str) -> str:
    """Text that Markdown leaves as it is."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
