"""What a gate found, in the forms that CI systems read: JUnit XML, GitHub's annotations, GitLab's code quality."""

import hashlib
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from probe.report.gate import change, words
from probe.report.text import printable
from probe.results.gate_result import GateResult, Metric

MOST_ANNOTATIONS = 9  # of a kind and step GitHub shows ten; the last is the summary


def as_junit(result: GateResult) -> str:
    """One case for the step and one for each operator and count; inconclusive ones are skipped."""
    gated = [m for m in result.metrics if m.gates]
    suite = ElementTree.Element(
        "testsuite",
        name="probe gate",
        tests=str(len(gated)),
        failures=str(sum(m.verdict == "fail" for m in gated)),
        skipped=str(sum(m.verdict == "inconclusive" for m in gated)),
        errors="0",
    )
    for metric in gated:
        _case(suite, metric, result)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, metric: Metric, result: GateResult) -> None:
    seconds = metric.new if metric.unit == "s" and metric.new is not None else 0.0
    case = ElementTree.SubElement(
        suite, "testcase", classname="probe.gate", name=printable(metric.name), time=f"{seconds:.9f}"
    )
    properties = ElementTree.SubElement(case, "properties")
    for name in ("base", "new", "ratio", "threshold_fraction"):
        value = getattr(metric, name)
        if value is not None:
            ElementTree.SubElement(properties, "property", name=name, value=f"{value:.9g}")
    if metric.verdict == "fail":
        ElementTree.SubElement(case, "failure", message=_message(metric)).text = printable(result.summary)
    elif metric.verdict == "inconclusive":
        ElementTree.SubElement(case, "skipped", message=_message(metric))


def _message(metric: Metric) -> str:
    return printable(metric.reason or f"{words(metric)} {change(metric.ratio)}")


def github_lines(result: GateResult) -> Iterator[str]:
    """GitHub workflow commands: what fails, at most nine, and the summary."""
    failed = [m for m in result.metrics if m.verdict == "fail" and m.gates]
    for metric in failed[:MOST_ANNOTATIONS]:
        yield f"::error title={_property(f'probe gate: {words(metric)}')}::{_data(_message(metric))}"
    kind = {"fail": "error", "inconclusive": "warning", "pass": "notice"}[result.verdict]
    yield f"::{kind} title=probe gate::{_data(result.summary)}"


def outputs(result: GateResult) -> Iterator[str]:
    """Lines for $GITHUB_OUTPUT."""
    step = next((m for m in result.metrics if m.name.startswith("step ")), None)
    yield f"verdict={result.verdict}"
    yield f"step_ratio={step.ratio if step and step.ratio is not None else ''}"
    yield f"worst_op={printable(result.causes[0].op) if result.causes else ''}"
    yield f"minimum_detectable_fraction={result.minimum_detectable_fraction or ''}"


def _data(text: str) -> str:
    """Escaped as the text of a workflow command."""
    return printable(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def code_quality(result: GateResult, path: str) -> list[dict[str, Any]]:
    """GitLab's code quality report: one entry for each thing that fails."""
    return [
        {
            "description": f"probe gate: {_message(metric)}",
            "check_name": "probe-gate",
            "fingerprint": hashlib.sha256(f"{path} {metric.name}".encode()).hexdigest(),
            "severity": "major",
            "location": {"path": path, "lines": {"begin": 1}},
        }
        for metric in result.metrics
        if metric.verdict == "fail" and metric.gates
    ]
