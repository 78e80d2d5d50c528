"""What may the address of a page ask for? Checked once, here: what does not fit is refused, never guessed at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from probe.dashboard.catalogue import ID

LONGEST_TEXT = 200
MOST_OPERATORS = 10_000_000
GROUPINGS = ("none", "name", "module", "dtypes", "bound")


class QueryError(ValueError):
    """A query that no page has; the message says which part."""


@dataclass(frozen=True)
class Query:
    """The parts of an address behind the question mark."""

    run: str | None = None  # id of the entry that is shown
    base: str | None = None  # id of the one it is compared with
    op: int | None = None  # Operator.index that is selected
    begin: float | None = None  # of the timeline's window, nanoseconds
    end: float | None = None
    text: str = ""  # that a search or filter holds
    by: str = "none"  # how operators are grouped

    def address(self, page: str, **changed: str) -> str:
        """The address of another page that shows the same run, compared with the same base."""
        kept = {name: value for name, value in (("run", self.run), ("base", self.base)) if value}
        return f"/{page}?{urlencode({**kept, **changed})}" if kept or changed else f"/{page}"


def parse(search: str) -> Query:
    """The query in `?run=…&op=…`; QueryError for what cannot be. Unknown names are left aside."""
    return of(dict(parse_qsl(search.removeprefix("?"), keep_blank_values=True)))


def of(given: Mapping[str, str]) -> Query:
    """The same from a mapping."""
    return Query(
        run=_id(given.get("run")),
        base=_id(given.get("base")),
        op=_index(given.get("op")),
        begin=number(given, "from"),
        end=number(given, "to"),
        text=text(given, "q"),
        by=_one_of(given.get("by", "none")),
    )


def _id(value: str | None) -> str | None:
    if value is None or value == "":
        return None
    if not ID.fullmatch(value):
        raise QueryError("run and base are ids of twelve hexadecimal digits")
    return value


def _index(value: str | None) -> int | None:
    if value is None or value == "":
        return None
    if not (value.isascii() and value.isdigit()) or int(value[:9]) >= MOST_OPERATORS or len(value) > 8:
        raise QueryError("op is the number of an operator")
    return int(value)


def number(given: Mapping[str, str], name: str) -> float | None:
    """A finite number; None where it is not given."""
    value = given.get(name)
    if value is None or value == "":
        return None
    try:
        found = float(value) if len(value) < 40 else math.nan
    except ValueError:
        found = math.nan
    if not math.isfinite(found) or abs(found) > 1e19:
        raise QueryError(f"{name} is not a number of nanoseconds")
    return found


def text(given: Mapping[str, str], name: str) -> str:
    """Words to look for."""
    value = given.get(name, "")
    if len(value) > LONGEST_TEXT:
        raise QueryError(f"{name} is longer than {LONGEST_TEXT} characters")
    return value


def _one_of(value: str) -> str:
    if value not in GROUPINGS:
        raise QueryError(f"by is one of {', '.join(GROUPINGS)}")
    return value
