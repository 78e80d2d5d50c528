"""What may the address of a page ask for? Checked once, here: what does not fit is refused, never guessed at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from probe.dashboard.catalogue import ID
from probe.report.palette import BOUNDS

LONGEST_TEXT = 200
MOST_OPERATORS = 10_000_000
FARTHEST = 40.0  # powers of ten from 1, on either axis
MOST_ZOOM_CHARACTERS = 120
COLUMNS = (
    "name", "shapes", "bound", "time", "roof", "gain", "share", "calls", "limiter", "rate", "moved", "dtypes", "module"
)  # fmt: skip
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
    sort: tuple[str, str] | None = None  # column of the grid, "asc" or "desc"
    zoom: tuple[float, float, float, float] | None = None  # powers of ten: ends of the roofline's axes, x then y
    hide: frozenset[str] = frozenset()  # classes whose marks are not shown

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
        sort=_sort(given.get("sort")),
        zoom=_zoom(given.get("zoom")),
        hide=_classes(given.get("hide")),
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


def _sort(value: str | None) -> tuple[str, str] | None:
    """A column of the grid and a direction, as in `time:desc`."""
    if not value:
        return None
    column, _, direction = value.partition(":")
    if column not in COLUMNS or direction not in ("asc", "desc"):
        raise QueryError(f"sort is one of {', '.join(COLUMNS)} with :asc or :desc")
    return column, direction


def _zoom(value: str | None) -> tuple[float, float, float, float] | None:
    """Two rising pairs of powers of ten, as in `-1,3,9,14`."""
    if not value:
        return None
    try:
        ends = [float(part) for part in value[:MOST_ZOOM_CHARACTERS].split(",")]
    except ValueError:
        ends = []
    if len(ends) != 4:
        raise QueryError("zoom is four powers of ten with commas between: ends of x, then of y")
    x0, x1, y0, y1 = ends
    if not (-FARTHEST <= x0 < x1 <= FARTHEST and -FARTHEST <= y0 < y1 <= FARTHEST):
        raise QueryError(f"zoom lies within {FARTHEST:g} powers of ten, each axis from less to more")
    return x0, x1, y0, y1


def _classes(value: str | None) -> frozenset[str]:
    """Names of classes with commas between."""
    found = frozenset(value.split(",") if value else ())
    if not found <= set(BOUNDS):
        raise QueryError(f"hide names some of {', '.join(BOUNDS)}")
    return found
