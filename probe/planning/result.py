"""The object of `probe plan`: types only (schema probe.plan/1). A field's name is its JSON key."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from probe.errors import UsageError
from probe.schema import to_jsonable

SCHEMA = "probe.plan/1"


@dataclass(frozen=True)
class Part:
    """One part of the result; `bytes` or `seconds`, the other is None."""

    name: str
    bytes: float | None = None
    seconds: float | None = None
    how: str = ""


@dataclass(frozen=True)
class Plan:
    """What was asked, the result with its units in the keys, its parts, and what was assumed."""

    what: str
    inputs: dict[str, Any]
    result: dict[str, Any]
    parts: tuple[Part, ...] = ()
    assumptions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    schema: str = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """The JSON object of the contract, as plain dicts, lists and numbers."""
        content: dict[str, Any] = to_jsonable(self)
        return {"schema": content.pop("schema"), **content}


MOST = 1e30


def positive(**given: float | None) -> None:
    """UsageError, in one line, for what is no number above 0; None is left out."""
    for name, value in given.items():
        if value is not None and not (math.isfinite(value) and 0 < value < MOST):
            raise UsageError(f"--{name.replace('_', '-')} {value:g}: give a number above 0")


def fraction(**given: float | None) -> None:
    """UsageError for what is no share above 0 and up to 1."""
    for name, value in given.items():
        if value is not None and not 0 < value <= 1:
            raise UsageError(f"--{name.replace('_', '-')} {value:g}: give a share above 0 and up to 1, such as 0.4")
