"""Conditions of --fail-on: `saving>10%`, `step>200ms`, `peak_memory>20GiB`, `code=F06`, separated by commas."""

from __future__ import annotations

import re
from dataclasses import dataclass

from probe.cli.options import code_of, size_of
from probe.errors import GateFailed, InputError, UsageError
from probe.results.analysis import Analysis
from probe.units import format_bytes, format_fraction, format_time

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_FORM = "write it like saving>10%, step>200ms, peak_memory>20GiB or code=F06"


@dataclass(frozen=True)
class Condition:
    """One condition; for a code `limit` is not used."""

    what: str
    limit: float
    text: str

    def check(self, analysis: Analysis) -> None:
        """Raise GateFailed where the condition holds."""
        found = self._found(analysis)
        if found is not None:
            raise GateFailed(f"--fail-on {self.text}: {found}")

    def _found(self, analysis: Analysis) -> str | None:
        """What was found where the condition holds."""
        if self.what == "code":
            hits = [f for f in analysis.findings if f.code == self.text.split("=")[1].strip()]
            return hits[0].summary if hits else None
        value, shown = self._value(analysis)
        return f"{self.what} is {shown}" if value is not None and value > self.limit else None

    def _value(self, analysis: Analysis) -> tuple[float | None, str]:
        if self.what == "step":
            step_s = analysis.time_s["step"]
            return step_s, format_time(step_s)
        if self.what == "saving":
            fraction = min(sum(f.saving_fraction or 0.0 for f in analysis.findings), 1.0)
            return fraction, format_fraction(fraction)
        if analysis.memory is None or analysis.memory.peak_bytes is None:
            raise InputError(
                f"--fail-on {self.text}: peak memory is not known of {analysis.source.path}; record it with memory=True"
            )
        return float(analysis.memory.peak_bytes), format_bytes(analysis.memory.peak_bytes)


def parse(text: str) -> tuple[Condition, ...]:
    """The conditions in `text`; UsageError for what is none."""
    return tuple(_parse_one(part.strip()) for part in text.split(","))


def _parse_one(text: str) -> Condition:
    match = re.fullmatch(r"(saving|step|peak_memory)\s*>\s*(.+)|code\s*=\s*([A-Za-z]\d{2})", text)
    if match is None:
        raise UsageError(f"--fail-on {text!r} is no condition; {_FORM}")
    if match[3]:
        return Condition("code", 0.0, f"code={code_of('--fail-on ' + text, match[3])}")
    return Condition(match[1], _limit(match[1], match[2], text), text)


def _limit(what: str, amount: str, text: str) -> float:
    """The limit in SI units, or as a fraction."""
    if what == "peak_memory":
        return float(size_of(f"--fail-on {text}", amount) or 0)
    units = {"%": 0.01} if what == "saving" else _SECONDS
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([%a-zµ]+)", amount)
    if match is None or match[2] not in units:
        raise UsageError(f"--fail-on {text!r}: {amount!r} is no number with a unit; {_FORM}")
    return float(match[1]) * units[match[2]]
