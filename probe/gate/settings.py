"""What does the user's [tool.probe.gate] say: floors, tolerances, operators with limits of their own, acknowledgements?

[tool.probe.gate]
floor = 0.01            # the step fails above it
tolerance = 0.03        # and passes surely below it
budget = 180            # seconds
strict = false
[tool.probe.gate.counts]
operators = 0.1
[tool.probe.gate.operators]
"aten::index*" = 0.15
[[tool.probe.gate.acknowledge]]
op = "aten::topk"
until = 2027-03-01
reason = "issue 123: needed for the new sampler"
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

from probe.analyzers.gates.limits import EXACT_LIMITS, Limits
from probe.errors import InputError
from probe.settings import nearest

FRACTIONS = ("floor", "tolerance", "op_floor", "op_share")
KNOWN = (*FRACTIONS, "budget", "strict", "counts", "operators", "acknowledge")


@dataclass(frozen=True)
class Settings:
    """The limits, and what the options of the command line fall back on."""

    limits: Limits = field(default_factory=Limits)
    budget_s: float | None = None
    strict: bool = False
    warnings: tuple[str, ...] = ()


def settings(start: Path, today: date | None = None) -> Settings:
    """Of the nearest probe.toml or pyproject.toml at or above `start`. Raises InputError for what makes no sense."""
    found = nearest(start, "gate")
    return Settings() if found is None else _read(found[1], found[0], today or date.today())


def _read(table: dict[str, Any], path: Path, today: date) -> Settings:
    for name in table:
        if name not in KNOWN:
            raise InputError(f"{path}: [tool.probe.gate] has no {name!r}; it knows {', '.join(KNOWN)}")
    given = {name: _fraction(table[name], name, path) for name in FRACTIONS if name in table}
    counts = _fractions(table.get("counts", {}), "counts", path)
    for name in counts:
        if name not in EXACT_LIMITS:
            raise InputError(f"{path}: gate.counts has no {name!r}; it knows {', '.join(EXACT_LIMITS)}")
    excused, warnings = _acknowledged(table.get("acknowledge", []), path, today)
    operators = _fractions(table.get("operators", {}), "operators", path) | excused
    limits = replace(Limits(), **given, counts={**EXACT_LIMITS, **counts}, operators=operators)
    if limits.tolerance <= limits.floor:
        raise InputError(f"{path}: gate.tolerance ({limits.tolerance:g}) must be above gate.floor ({limits.floor:g})")
    budget = table.get("budget")
    if budget is not None and not (_is_number(budget) and budget > 0):
        raise InputError(f"{path}: gate.budget = {budget!r}: give seconds above 0")
    return Settings(limits, budget, bool(table.get("strict", False)), warnings)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _fraction(value: Any, name: str, path: Path) -> float:
    if not _is_number(value) or not 0 <= value < 10:
        raise InputError(f"{path}: gate.{name} = {value!r}: give a fraction, 0.05 for 5 %")
    return float(value)


def _fractions(table: Any, name: str, path: Path) -> dict[str, float]:
    if not isinstance(table, dict):
        raise InputError(f"{path}: gate.{name} must be a table of fractions")
    return {key: _fraction(value, f"{name}.{key}", path) for key, value in table.items()}


def _acknowledged(entries: Any, path: Path, today: date) -> tuple[dict[str, float], tuple[str, ...]]:
    """Operators that may be slower until a day; past it they are told and count again."""
    excused, warnings = {}, []
    for entry in entries if isinstance(entries, list) else [None]:
        op, until, reason = ((entry or {}).get(key) for key in ("op", "until", "reason"))
        day = until.date() if isinstance(until, datetime) else until
        if not isinstance(op, str) or not isinstance(day, date) or not isinstance(reason, str):
            raise InputError(f"{path}: each gate.acknowledge needs op, until (a date such as 2027-03-01) and reason")
        if day < today:
            warnings.append(f"the acknowledgement of {op} ended on {day} ({reason}); it counts again")
        else:
            excused[op] = math.inf
    return excused, tuple(warnings)
