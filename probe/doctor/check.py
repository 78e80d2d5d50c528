"""What is one finding of `probe doctor`? Types only (schema probe.doctor/1), and three ways to write one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SCHEMA = "probe.doctor/1"
NOTHING = "nothing needs doing"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `ok` is None where it does not apply or cannot be known.

    Unless `ok` is True, `remedy` is the one step that mends it, or says that nothing needs doing.
    """

    name: str
    ok: bool | None
    found: str
    means: str
    remedy: str | None = None
    group: str = ""


@dataclass(frozen=True)
class Doctor:
    """Everything one `probe doctor` found; `warnings` are what the libraries said meanwhile."""

    checks: tuple[Check, ...]
    environment: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    schema: str = SCHEMA


def works(name: str, found: str, means: str) -> Check:
    """A check that found all well."""
    return Check(name, True, found, means)


def broken(name: str, found: str, means: str, remedy: str) -> Check:
    """A check that found something that does not work, and the step that mends it."""
    return Check(name, False, found, means, remedy)


def unknown(name: str, found: str, means: str, remedy: str = NOTHING) -> Check:
    """A check of something that does not apply here or cannot be known."""
    return Check(name, None, found, means, remedy)
