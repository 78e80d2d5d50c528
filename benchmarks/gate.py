"""Does the gate cry wolf, and find what is slower? Real sessions on this machine, resampled; beside other rules.

    python benchmarks/gate.py --sessions 20            # of each workload with itself; half as many of each slow-down
    python benchmarks/gate.py --from benchmarks/results/gate.json   # judge stored sessions again

Every session is a pair of fresh processes in turn, as `probe gate check` runs them. From sessions of equals, gates are
drawn: up to twelve in random order, either side as the base. Slower code is judged in the same way from sessions that
call one operator more often. Other tools' rules see the same steps as those tools would: base and head from different
processes, one after the other, as many processes as the gate used.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.analyzers.gates.evidence import Blocks, OperatorTimes, Session
from probe.analyzers.gates.limits import Limits
from probe.analyzers.gates.paired import judge
from probe.analyzers.gates.sequential import LOOKS
from probe.gate.protocol import Task
from probe.gate.session import Plan, take
from probe.gate.workers import workers
from probe.results.gate_result import Side

sys.path.insert(0, str(Path(__file__).parent))
import gate_workloads as workloads

HERE = Path(__file__).parent
WORKLOADS = ("mlp", "transformer", "convolutions")
FRACTIONS = (0.03, 0.05)
OPERATOR = "aten::erfinv"
SESSION_S = 5.0
DRAWS = 400  # gates of each cell
Times = npt.NDArray[np.float64]
Rule = Callable[[Times, Times], bool]


def main() -> None:
    """Collect or read, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=20, help="of equals, for each workload")
    parser.add_argument("--from", dest="stored", type=Path, help="sessions that were collected before")
    parser.add_argument("-o", dest="output", type=Path, default=HERE / "results" / "gate.json")
    options = parser.parse_args()
    rows = (
        json.loads(options.stored.read_text())["rows"] if options.stored else collect(options.sessions, options.output)
    )
    for line in report(rows):
        print(line)


def collect(count: int, output: Path) -> list[dict[str, Any]]:
    """Sessions in turn over workloads and fractions, so that what happens meets them all; kept as they come."""
    calls = {(name, f): workloads.calls_for(name, f) for name in WORKLOADS for f in FRACTIONS}
    rows: list[dict[str, Any]] = []
    for number in range(count):
        for name in WORKLOADS:
            for fraction in (0.0, *(FRACTIONS if number % 2 else ())):
                begin = time.monotonic()
                content = as_json(one(name, calls.get((name, fraction), 0), number))
                head = {"workload": name, "fraction": fraction, "seconds": time.monotonic() - begin}
                rows.append(head | content)
        kept = {"load_average": os.getloadavg(), "calls": {f"{n} {f}": c for (n, f), c in calls.items()}, "rows": rows}
        output.write_text(json.dumps(kept))
        print(f"{number + 1} of {count}", file=sys.stderr)
    return rows


def one(name: str, calls: int, seed: int) -> Session:
    """One session: the workload as it is, and with so many calls more."""
    tasks = []
    for side, extra in (("base", 0), ("new", calls)):
        task = Task(str(HERE), function=f"{HERE / 'gate_workloads.py'}:{name}")
        tasks.append((side, task, HERE, sys.executable, {workloads.CALLS: str(extra)}))
    with workers(*tasks) as (base, new):
        return take(base, new, Plan(SESSION_S, costs=False, seed=seed)).session


def as_json(session: Session) -> dict[str, Any]:
    """What judging needs."""
    sides = {"base": session.base_operators, "new": session.new_operators}
    return {
        "base_s": session.blocks.base.tolist(), "new_s": session.blocks.new.tolist(),
        "base_wall_s": session.wall.base.tolist(), "new_wall_s": session.wall.new.tolist(),
        **{f"{side}_operators": [[*key, s] for key, s in times.seconds.items()] for side, times in sides.items()},
    }  # fmt: skip


def session_of(row: dict[str, Any], *, swapped: bool = False) -> Session:
    """As it was taken, or with the sides exchanged."""
    base, new = ("new", "base") if swapped else ("base", "new")
    operators = {side: OperatorTimes({(n, s): t for n, s, t in row[f"{side}_operators"]}) for side in ("base", "new")}
    return Session(
        Blocks(np.array(row[f"{base}_s"]), np.array(row[f"{new}_s"])),
        Blocks(np.array(row[f"{base}_wall_s"]), np.array(row[f"{new}_wall_s"])),
        operators[base], operators[new],
    )  # fmt: skip


def report(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Rates by rule and fraction; the gate's are over resampled gates."""
    rng = np.random.default_rng(0)
    lines = [f"{len(rows)} sessions, {statistics.median(r['seconds'] for r in rows):.1f} s each"]
    for fraction in (0.0, *FRACTIONS):
        found = [gate for name in WORKLOADS for gate in gates(rows, name, fraction, rng)]
        if found:
            lines.append(_line(fraction, [session_of(r) for r in rows_of(rows, fraction)], found))
            pairs = unpaired(rows, fraction, rng)
            lines += [f"    {rule:45} fail {share(pairs, function):.1%}" for rule, function in RULES.items() if pairs]
    return lines


def _line(fraction: float, sessions: Sequence[Session], found: Sequence[Any]) -> str:
    """What the gate said, how early, and whether it named the operator."""
    size = math.expm1(statistics.median(s.blocks.log_ratio for s in sessions))
    rates = {v: sum(g.verdict == v for g in found) / len(found) for v in ("fail", "pass", "inconclusive")}
    told = ", ".join(f"{verdict} {rate:.1%}" for verdict, rate in rates.items())
    failed = [g for g in found if g.verdict == "fail"]
    named = sum(bool(g.causes) and g.causes[0].op == OPERATOR for g in failed)
    operator = f"; right operator first {named / len(failed):.1%}" if fraction and failed else ""
    mean = statistics.mean(g.sessions for g in found)
    return f"+{fraction:.0%} (in fact {size:+.1%}), {len(found)} gates: {told}; {mean:.1f} sessions{operator}"


def share(pairs: Sequence[tuple[Times, Times]], rule: Rule) -> float:
    """How often a rule calls the head slower."""
    return statistics.mean(rule(*pair) for pair in pairs)


def rows_of(rows: Sequence[dict[str, Any]], fraction: float, name: str | None = None) -> list[dict[str, Any]]:
    return [r for r in rows if r["fraction"] == fraction and name in (None, r["workload"])]


def gates(rows: Sequence[dict[str, Any]], name: str, fraction: float, rng: np.random.Generator) -> list[Any]:
    """Gates drawn from sessions: without putting back within a gate."""
    pool = rows_of(rows, fraction, name)
    if len(pool) < LOOKS[0]:
        return []
    found = []
    for _ in range(DRAWS):
        drawn = rng.permutation(len(pool))[: LOOKS[-1]]
        sessions = [session_of(pool[i], swapped=not fraction and bool(rng.integers(2))) for i in drawn]
        found.append(until_known(sessions))
    return found


def until_known(sessions: Sequence[Session]) -> Any:
    """As check does: look by look."""
    result = None
    for look in (n for n in LOOKS if n <= len(sessions)):
        result = judge(sessions[:look], Limits(), "cpu_time", Side("base"), Side("new"))
        if result.verdict != "inconclusive":
            break
    return result


def unpaired(
    rows: Sequence[dict[str, Any]], fraction: float, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Wall times of base processes and, later, of head processes: five each, as a job that runs one after the other."""
    found = []
    for name in WORKLOADS:
        equal, slow = rows_of(rows, 0.0, name), rows_of(rows, fraction, name)
        for _ in range(DRAWS // 4):
            if len(equal) < 10 or len(slow) < 5:
                continue
            start = int(rng.integers(len(equal) - 9))
            base = [np.array(r["base_wall_s"]) for r in equal[start : start + 5]]
            later = equal[start + 5 : start + 10] if not fraction else [slow[i] for i in rng.permutation(len(slow))[:5]]
            found.append((np.stack([b[:8] for b in base]), np.stack([np.array(r["new_wall_s"])[:8] for r in later])))
    return found


def mann_whitney(base: Times, new: Times) -> float:
    """Two-sided p of the rank-sum test, normal approximation."""
    x, y = base.ravel(), new.ravel()
    ranks = np.argsort(np.argsort(np.concatenate([x, y]))) + 1.0
    u = ranks[: len(x)].sum() - len(x) * (len(x) + 1) / 2
    mean, sd = len(x) * len(y) / 2, math.sqrt(len(x) * len(y) * (len(x) + len(y) + 1) / 12)
    return math.erfc(abs(u - mean) / sd / math.sqrt(2))


def _differs(base: Times, new: Times, p: float, by: float = 0.0) -> bool:
    return mann_whitney(base, new) < p and _slower(base, new, by)


def _slower(base: Times, new: Times, by: float = 0.0) -> bool:
    return bool(np.median(new) > np.median(base) * (1 + by))


RULES: dict[str, Rule] = {  # as those tools' documentation states them; [processes, blocks]
    "benchstat: p < 0.05 over processes": lambda b, n: _differs(np.median(b, 1), np.median(n, 1), 0.05),
    "google/benchmark compare: p < 0.05 in one": lambda b, n: _differs(b[0], n[0], 0.05),
    "asv continuous: p < 0.002 and factor 1.1": lambda b, n: _differs(b[:2], n[:2], 0.002, 0.1),
    "pytest-benchmark: min 5 %": lambda b, n: bool(n[0].min() > 1.05 * b[0].min()),
    "pytest-benchmark: median 5 %": lambda b, n: _slower(b[0], n[0], 0.05),
}

if __name__ == "__main__":
    main()
