"""How are the rows shown? One line a program, then the median error of each rule and of all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from ledger import Row

from probe.units import format_time

GOAL = 0.25


def line(row: Row) -> str:
    """The row in words."""
    low, high = row.interval
    marks = [
        "not found" if not row.found else f"found in {row.found}" if row.found < len(row.predictions) else "",
        "no seconds promised" if row.found and not row.promised else "" if abs(row.error) <= GOAL else "OFF",
        "" if row.equal is not False else f"VALUES DIFFER by {row.value_error:.1e}",
        "" if row.equal is not None else "values not compared",
    ]
    return (
        f"{row.code:4} {row.program:38} {format_time(row.step_s):>8} {row.predicted:6.2f}×"
        f" [{row.predictions[0]:.2f}, {row.predictions[-1]:.2f}] {row.measured:6.2f}× [{low:.2f}, {high:.2f}]"
        f" {row.error:+6.0%}  noise {row.noise:.0%}  {', '.join(filter(None, marks))}"
    )


def say_all(rows: Sequence[Row]) -> None:
    """The median errors, and how many rules and programs are within the goal."""
    by_code: dict[str, list[float]] = defaultdict(list)
    told = [row for row in rows if row.promised or not row.found]
    for row in told:
        by_code[row.code].append(abs(row.error))
    print("\nmedian |predicted / measured - 1|")
    for code, errors in sorted(by_code.items()):
        print(f"  {code:4} {median(errors):5.0%}  of {len(errors)}")
    if told:
        errors = [abs(row.error) for row in told]
        within = sum(error <= GOAL for error in errors)
        print(f"  all  {median(errors):5.0%}  of {len(told)}; {within} within {GOAL:.0%}")
        print(f"  not found: {', '.join(f'{r.code} {r.program}' for r in rows if not r.found) or 'none'}")
        silent = [f"{r.code} {r.program}" for r in rows if r.found and not r.promised]
        print(f"  no seconds promised, not counted: {', '.join(silent) or 'none'}")
