"""Writes docs/verdicts.md from what benchmarks/verdicts.py measured; a test compares the two.

python docs/verdicts.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
PAGE = Path(__file__).with_suffix(".md")
INTRODUCTION = """# Verdicts: predicted beside measured

Written by `docs/verdicts.py` from what `benchmarks/verdicts.py` recorded, analysed and verified on one machine; another
one gives other figures. A step of each program is one place of one rule and nothing else. *Predicted* is what the
finding's saving makes of the step, for the advice as such and as an upper bound; *measured* is the speed-up of each
replacement with its 95 % interval. *Memory* is the peak after by the peak before. How it is judged is in
[verify](verify.md).
"""
HEAD = "| program | rule | replacement | verdict | predicted | measured | memory |\n|---|---|---|---|---|---|---|"


def page() -> str:
    """All devices' tables."""
    parts = [INTRODUCTION]
    for path in sorted(RESULTS.glob("verdicts.*.json")):
        rows = json.loads(path.read_text())
        versions = ", ".join(sorted({row["torch"] for row in rows}))
        device = path.name.removeprefix("verdicts.").removesuffix(".json")
        parts.append(f"## {device}, torch {versions}\n")
        parts.append("\n".join([HEAD, *lines(rows)]) + "\n")
    return "\n".join(parts)


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A line a replacement; the program is named once."""
    before = None
    for row in rows:
        name = row["program"] if row["program"] != before else ""
        before = row["program"]
        predicted = f"{row['predicted']:.2f}×" if row["predicted"] and name else ""
        cells = [name, row["code"] if name else "", row["replacement"], row["verdict"], predicted, measured(row)]
        memory = f"{row['memory']:.2f}" if row["memory"] is not None else ""
        yield f"| {' | '.join([*cells, memory])} |"


def measured(row: dict[str, Any]) -> str:
    """The speed-up with its interval."""
    if row["measured"] is None or row["interval"] is None:
        return "not timed"
    low, high = row["interval"]
    return f"{row['measured']:.2f}× [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    PAGE.write_text(page())
