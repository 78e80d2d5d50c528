"""Which benchmarks of two result files got faster or slower?

Rows are matched by suite, name, metric and the parameters that say what was asked (IDENTIFYING); what a suite found out
(clock, best shape of a product) identifies nothing. Threads are matched by what they are to the machine, one of them
or all of them, so that two machines compare.

The best windows are compared (`value`): they are what the hardware can do, and what neighbours move least. The range of
each side reaches from there to the far end of its median's 95 % interval. A contended row has a long range, and is
faster or slower only where even that does not reach the other side. The change must also exceed what nine in ten rows
of its suite stay within: a neighbour that was there for a whole row leaves it a short range in the wrong place, and its
fellows show how far neighbours move things. The same holds for the geometric mean of a suite, and for that of all
suites, which count alike.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from probe.analyzers.compare.changes import both_said, differences, other_device
from probe.analyzers.compare.ratios import FLOOR_FRACTION, Cost, geometric_mean, judge, mean_noise
from probe.results.comparison import Comparison, Judged, Row, Side, Sides, Suite
from probe.results.measurement import Measurement, MicrobenchResult

IDENTIFYING = (
    "size_bytes", "dtype", "operator", "implementation", "kernel", "elements", "pattern", "stride_bytes", "direction",
    "operation", "ranks", "world_size", "pinned", "width_bytes", "page_bytes", "block_bytes", "mode", "causal", "pass",
)  # fmt: skip
BEST_OF_SHAPES = ("matmul",)  # suites whose shape is an answer; elsewhere it is part of the question
LESS_IS_BETTER = ("s", "cycles", "J", "W")
NOISE_PERCENTILE = 90  # of the ranges of a suite's rows
_THREADS = re.compile(r"\b(\d+) threads?\b")

Key = tuple[Any, ...]


def compare_microbench(base: MicrobenchResult, new: MicrobenchResult, paths: tuple[str, str]) -> Comparison:
    """The rows of both in the order of BASE's file, those only NEW has behind their suite's."""
    matched = _match(base.measurements, new.measurements)
    rows = tuple(row for row, _ in matched)
    judged: dict[str, list[Judged]] = defaultdict(list)
    for row, one in matched:
        judged[row.suite or ""] += [one] if one is not None else []
    noise = {
        suite: _noise([m for m in (*base.measurements, *new.measurements) if m.suite == suite]) for suite in judged
    }
    means = {suite: geometric_mean(found, noise[suite]) for suite, found in judged.items()}
    both = {suite: mean for suite, mean in means.items() if mean.ratio is not None}
    floor = mean_noise([noise[suite] for suite in both])
    whole = geometric_mean(list(both.values()), floor)
    return Comparison(
        kind="microbench",
        base=paths[0],
        new=paths[1],
        verdict=whole.verdict,
        ratio=whole.ratio,
        interval=whole.interval,
        reason=whole.reason if any(judged.values()) else "no benchmark is on both sides",
        rows=rows,
        parts={
            suite: _suite(mean, noise[suite], [r for r in rows if r.suite == suite]) for suite, mean in means.items()
        },
        warnings=tuple(_warnings(base, new)),
        changes=differences(base.device, new.device, base.environment, new.environment),
        sides=Sides(_side(base, paths[0]), _side(new, paths[1])),
        noise_fraction=floor,
    )


def _side(result: MicrobenchResult, path: str) -> Side:
    return Side(path, "microbench", result.device.name, result.device.kind, result.environment.get("torch"))


def _suite(mean: Judged, noise: float, rows: Sequence[Row]) -> Suite:
    count = Counter(row.verdict for row in rows)
    return Suite(
        ratio=mean.ratio,
        interval=mean.interval,
        verdict=mean.verdict,
        faster=count["faster"],
        slower=count["slower"],
        noise=count["~"],
        new=count["new"],
        gone=count["gone"],
        noise_fraction=noise,
    )


def _match(base: Sequence[Measurement], new: Sequence[Measurement]) -> list[tuple[Row, Judged | None]]:
    """A row for each benchmark of either side, with its ratio where both have it, suite by suite."""
    left, right = _by_key(base), _by_key(new)
    suites = list(dict.fromkeys(m.suite for m in (*base, *new)))
    found: list[tuple[Row, Judged | None]] = []
    for suite in suites:
        keys = dict.fromkeys(key for key in (*left, *right) if key[0] == suite)
        floor = _noise([m for m in (*base, *new) if m.suite == suite])
        found += [_row(left.get(key), right.get(key), floor) for key in keys]
    return found


def _noise(measurements: Sequence[Measurement]) -> float:
    """How far neighbours move most rows of a suite, as a fraction; never below the floor."""
    ranges = [c.interval[1] / c.interval[0] - 1 for m in measurements if (c := _cost(m)).interval is not None]
    return max(FLOOR_FRACTION, float(np.percentile(ranges, NOISE_PERCENTILE)) if ranges else 0.0)


def _by_key(measurements: Iterable[Measurement]) -> dict[Key, Measurement]:
    """Each by what identifies it; of several alike the second is matched with the other side's second."""
    most = _most_threads(measurements := list(measurements))
    seen: Counter[Key] = Counter()
    found = {}
    for m in measurements:
        key = _key(m, most.get(m.suite))
        seen[key] += 1
        found[(*key, seen[key])] = m
    return found


def _most_threads(measurements: Iterable[Measurement]) -> dict[str, int]:
    """Per suite the most threads any of its benchmarks ran on."""
    most: dict[str, int] = {}
    for m in measurements:
        threads = m.params.get("threads")
        if isinstance(threads, int):
            most[m.suite] = max(most.get(m.suite, 1), threads)
    return most


def _key(m: Measurement, most_threads: int | None) -> Key:
    names = IDENTIFYING if m.suite in BEST_OF_SHAPES else (*IDENTIFYING, "shape", "shapes")
    asked = tuple((name, str(m.params[name])) for name in names if name in m.params)
    threads = m.params.get("threads")
    team = "all" if threads == most_threads and threads != 1 else str(threads)
    name = m.name
    if threads is not None and m.suite not in BEST_OF_SHAPES:
        name = _THREADS.sub(lambda found: f"{team} threads" if found[1] == str(threads) else found[0], m.name)
    return (m.suite, name, m.metric, m.unit, asked)


def _row(base: Measurement | None, new: Measurement | None, floor: float) -> tuple[Row, Judged | None]:
    one = base or new
    assert one is not None
    judged = _judge(base, new, floor) if base is not None and new is not None else None
    shape = (new or one).params.get("shape")
    row = Row(
        name=one.name if base is None or new is None or base.name == new.name else f"{base.name} → {new.name}",
        shapes=str(shape) if shape is not None else None,
        base=base.value if base else None,
        new=new.value if new else None,
        unit=one.unit,
        ratio=judged.ratio if judged else None,
        interval=judged.interval if judged else None,
        verdict=judged.verdict if judged else "gone" if base else "new",
        reason=judged.reason if judged else None,
        delta=new.value - base.value if base and new else None,
        suite=one.suite,
        dtypes=one.params.get("dtype"),
        params=(new or one).params,
        base_n=base.n if base else None,
        new_n=new.n if new else None,
        flags=tuple(dict.fromkeys((*(base.flags if base else ()), *(new.flags if new else ())))),
    )
    return row, judged


def _judge(base: Measurement, new: Measurement, floor: float) -> Judged:
    """The speed-up, where the unit has a better and a worse."""
    if base.unit not in LESS_IS_BETTER and not base.unit.endswith("/s"):
        return Judged(None, None, "~", f"more {base.unit or 'of it'} is neither faster nor slower")
    found = judge(_cost(base), _cost(new), floor)
    few = [side for side, m in (("BASE", base), ("NEW", new)) if "few-windows" in m.flags]
    if few:
        return Judged(found.ratio, found.interval, "~", f"too few windows in {' and '.join(few)}")
    busy = [side for side, m in (("BASE", base), ("NEW", new)) if "contended" in m.flags]
    if found.verdict == "~" and found.interval is not None and busy:
        return Judged(found.ratio, found.interval, "~", f"{' and '.join(busy)} contended")
    return found


def _cost(m: Measurement) -> Cost:
    """Seconds, or seconds per unit: the best, and the range from there to the far end of the median's interval."""
    less = m.unit in LESS_IS_BETTER
    best, far = m.value, m.interval[1] if less else m.interval[0]
    if best <= 0 or far <= 0:
        return Cost(0.0, None, m.n)
    best, far = (best, far) if less else (1 / best, 1 / far)
    return Cost(best, (best, max(best, far)) if m.n > 1 else None, m.n)


def _warnings(base: MicrobenchResult, new: MicrobenchResult) -> Iterable[str]:
    yield from other_device(base.device.name, new.device.name)
    for side, result in (("BASE", base), ("NEW", new)):
        if result.ceilings.quick:
            yield f"{side} is a quick run: fewer sizes, shorter windows"
        if result.interrupted:
            yield f"{side} was interrupted: what it lacks shows as new or gone"
    yield from both_said(base.warnings, new.warnings)
