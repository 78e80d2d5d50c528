"""What to change, on a page: the first suggestions, the others behind a fold, each with evidence and code to copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from probe.report import verdict
from probe.report.analysis import operator_name
from probe.report.text import printable, shorten
from probe.report.verification import MARKS
from probe.results.analysis import Analysis, Operator
from probe.results.findings import Finding, Verified
from probe.units import format_bytes, format_fraction

LONGEST, LONGEST_CODE = 600, 4000  # characters of a sentence, of code
OPERATORS_SHOWN = 8


def draw(analysis: Analysis) -> str:
    """The suggestions, the first ones open; nothing where there are none."""
    if not analysis.findings:
        return ""
    first = verdict.first(analysis.findings)
    rest = analysis.findings[len(first) :]
    shown = "".join(_finding(finding, analysis) for finding in first)
    if rest:
        folded = "".join(_finding(finding, analysis) for finding in rest)
        shown += f"<details><summary>{len(rest)} more suggestions</summary>{folded}</details>"
    return f"<h2>What to change first</h2>{shown}"


def _finding(finding: Finding, analysis: Analysis) -> str:
    how = f'<pre class="how">{_text(finding.how, LONGEST_CODE)}</pre>' if finding.how else ""
    return (
        f'<section class="fix"><header><span>{_text(finding.title)} · {_text(finding.code)}</span>'
        f"<span>{_text(_saving(finding))}</span></header><p>{_text(finding.summary)}</p>{how}"
        f"{''.join(_proofs(finding))}{_evidence(finding, analysis)}</section>"
    )


def _text(text: str, most: int = LONGEST) -> str:
    """Text of a trace, fit for a page; lines of code stay lines."""
    return "\n".join(escape(printable(line)) for line in shorten(text, most).split("\n"))


def _saving(finding: Finding) -> str:
    """Time and share of the step, else memory; nothing where neither is known to be saved."""
    if finding.saving_s is not None:
        return verdict.saving(finding)
    return f"{format_bytes(finding.saving_bytes)} of memory" if finding.saving_bytes else ""


def _proofs(finding: Finding) -> Iterator[str]:
    """What running replacements showed, each with the mark of its verdict."""
    proved = verdict.proof(finding)
    if proved and finding.verified is not None:
        candidate = f", {finding.verified.candidate}" if finding.verified.candidate else ""
        yield f"<p>{MARKS[finding.verified.verdict]} {_text(proved + candidate)}</p>"
    yield from (f"<p>{MARKS[other.verdict]} {_text(_other(other))}</p>" for other in finding.alternatives)


def _other(result: Verified) -> str:
    speed = f"{result.speedup:.2f}×" if result.speedup is not None else ""
    return " · ".join(part for part in (result.verdict, result.candidate, speed, result.reason) if part)


def _evidence(finding: Finding, analysis: Analysis) -> str:
    """Why it is suggested, where, for which operators, and the command that verifies it."""
    where = " · ".join(part for part in (finding.where, finding.module) if part)
    parts = [
        "<ul>" + "".join(f"<li>{_text(said)}</li>" for said in finding.evidence) + "</ul>" if finding.evidence else "",
        f"<p>Where: <code>{_text(where)}</code></p>" if where else "",
        _operators(finding.ops, analysis.ops),
        _verify(finding, analysis.source.path),
    ]
    inside = "".join(parts)
    return f"<details><summary>Evidence</summary>{inside}</details>" if inside else ""


def _operators(numbers: Sequence[int], ops: Sequence[Operator]) -> str:
    """The operators that a finding concerns, to choose; those the page does not know stay text."""
    known = [ops[i] for i in numbers if i < len(ops)]
    chips = [
        f'<button type="button" data-op="{op.index}" title="{_text(op.name)}">{_text(operator_name(op.name), 60)}'
        f" {format_fraction(op.share_fraction)}</button>"
        for op in known[:OPERATORS_SHOWN]
    ]
    more = f"<span>{len(known) - OPERATORS_SHOWN} more</span>" if len(known) > OPERATORS_SHOWN else ""
    return f'<div class="chips">{"".join(chips)}{more}</div>' if chips else ""


def _verify(finding: Finding, path: str) -> str:
    if finding.verified is not None or not finding.replacement:
        return ""
    command = f"probe verify {path} --code {finding.code}"
    return f"<p>Not verified yet. To run it on the recorded shapes: <code>{_text(command)}</code></p>"
