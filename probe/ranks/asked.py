"""Which ranks did the user ask for, and are they there?"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from probe.errors import UsageError
from probe.readers.rank_names import numbers


def refuse_missing(where: str, asked: Collection[int] | None, there: Iterable[int], unknown: int = 0) -> None:
    """UsageError where an asked rank is not `there`; `unknown`: files that say no rank, nor do their names."""
    known = set(there)
    missing = set(asked or ()) - known
    if asked is None or (asked and not missing):
        return
    files = f"{unknown} file{'s' if unknown > 1 else ''} of which no rank is known" if unknown else ""
    have = " and ".join(part for part in (numbers(known), files) if part) or "none"
    what = f"no rank {numbers(missing)}" if asked else "no rank asked for"
    remedy = "ask for some of these" if known else "leave the ranks out"
    raise UsageError(f"{where}: {what}: there {'are' if len(known) > 1 else 'is'} {have}; {remedy}")
