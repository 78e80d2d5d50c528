"""Do an idle and a loaded machine disagree only where `contended` is flagged? Quick runs beside competing processes.

Runs `probe run microbench --quick --device cpu` alone, then again alone (what the machine does by itself), then beside
one rival that streams through memory and beside a rival of each kind for every CPU; each with a cache directory of its
own. Rows of the first and of another run are the same within 5 %, or differ and one side says so, or differ unsaid.
Prints counts, and the ratio of the best windows of what differs unsaid. Goal: beside rivals there is none.

Run on a machine that is otherwise idle: python benchmarks/contended_agreement.py [--rivals N] [SUITE …]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

WITHIN = 1.05
SETTLE_S = 2.0  # before each run: rivals are up, or what they did is over
SAYING = ("contended", "few-windows", "implausible")  # flags that tell a reader not to compare
RIVALS = {
    "compute": "while True: pass",
    "stream": "import numpy as np; a, b = np.ones((2, 1 << 24))\nwhile True: np.copyto(a, b)",
}
Row = Mapping[str, Any]
Rows = dict[tuple[str, str], Row]


@dataclass(frozen=True)
class Agreement:
    """How many rows of two runs are the same, differ and say so, differ unsaid (with the ratio of the best windows)."""

    within: int
    said: int
    unsaid: dict[tuple[str, str], float]

    def __str__(self) -> str:
        return f"within 5 % {self.within:4}   differ, flagged {self.said:4}   differ, unflagged {len(self.unsaid):4}"


def main() -> None:
    """Print one line a run, compared with the first, and what differs unsaid below it."""
    parser = argparse.ArgumentParser(description="Agreement of quick runs on an idle and on a loaded machine.")
    parser.add_argument("--rivals", type=int, default=os.cpu_count() or 1, help="processes of each kind; the CPUs")
    parser.add_argument("suites", nargs="*", help="all if none are named")
    options = parser.parse_args()
    loads = {
        "alone again": [],
        "1 × stream": ["stream"],
        f"{options.rivals} × stream": ["stream"] * options.rivals,
        f"{options.rivals} × compute": ["compute"] * options.rivals,
    }
    first = rows_of(options.suites)
    print(f"alone: {len(first)} rows, {flagged(first)} flagged")
    for name, kinds in loads.items():
        with beside(kinds):
            rows = rows_of(options.suites)
        found = compare(first, rows)
        print(f"{name:12} {found}   ({flagged(rows)} of {len(rows)} flagged)", flush=True)
        for (suite, row), ratio in sorted(found.unsaid.items()):
            print(f"    {suite}: {row}   ratio {ratio:.2f}")


@contextlib.contextmanager
def beside(kinds: list[str]) -> Iterator[None]:
    """Rivals of these kinds compute while the block runs."""
    rivals = [subprocess.Popen([sys.executable, "-c", RIVALS[kind]]) for kind in kinds]
    try:
        time.sleep(SETTLE_S)
        yield
    finally:
        for rival in rivals:
            rival.kill()
            rival.wait()


def rows_of(suites: list[str]) -> Rows:
    """The measurements of a quick run, by suite and name."""
    command = [sys.executable, "-m", "probe", "run", "microbench", *suites, "--quick", "--device", "cpu", "--json"]
    with tempfile.TemporaryDirectory() as cache:
        variables = {**os.environ, "PROBE_CACHE_DIR": cache}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    return {(row["suite"], row["name"]): row for row in json.loads(done.stdout)["measurements"]}


def flagged(rows: Rows) -> int:
    """How many rows say that they were, or may have been, disturbed."""
    return sum(says_so(row) for row in rows.values())


def says_so(row: Row) -> bool:
    """Whether the row carries a flag against comparing it."""
    return any(flag in SAYING for flag in row["flags"])


def compare(base: Rows, new: Rows) -> Agreement:
    """The rows that both runs have."""
    within, said = 0, 0
    unsaid: dict[tuple[str, str], float] = {}
    for name in base.keys() & new.keys():
        one, other = base[name], new[name]
        ratio = other["value"] / one["value"] if one["value"] else 1.0
        if 1 / WITHIN <= ratio <= WITHIN:
            within += 1
        elif says_so(one) or says_so(other):
            said += 1
        else:
            unsaid[name] = ratio
    return Agreement(within, said, unsaid)


if __name__ == "__main__":
    main()
