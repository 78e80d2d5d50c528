"""What does reading a trace cost? CPU seconds and peak memory of probe, of bare decoders and of rivals.

    python -m benchmarks.traces.cost rivals [--tracelens FOLDER]       install the rivals under build/rivals/
    python -m benchmarks.traces.cost compare [--size 100MB] [--rivals] all candidates on the same files
    python -m benchmarks.traces.cost sweep [--upto 4GB]                probe and the floor over sizes, with a picture
    python -m benchmarks.traces.cost ranks [--ranks 64] [--size 20MB]  a directory of ranks against one rank

Each candidate runs in a fresh process; CPU time is user and system time of its whole process tree, start of the
interpreter included, because it holds still where wall time does not. Ratios are to `probe analyze` of the same run.
The traces are made by `generate.py` and kept under build/traces/. Results go to benchmarks/results/traces_*.json.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path
from typing import Any

from benchmarks.traces import generate, picture, rivals
from benchmarks.traces.measure import Cost, machine, run

ROOT = Path(__file__).resolve().parents[2]
TRACES = ROOT / "build" / "traces"
CACHE = TRACES / "cache"
RESULTS = ROOT / "benchmarks" / "results"
SIZES = (10 * 10**6, 30 * 10**6, 100 * 10**6, 300 * 10**6, 10**9, 4 * 10**9)
NO_CACHE = {"PROBE_TRACE_CACHE": "off", "PROBE_CACHE_DIR": str(CACHE)}
WITH_CACHE = {"PROBE_TRACE_CACHE": "on", "PROBE_CACHE_DIR": str(CACHE)}
REFERENCE = "probe analyze"
SETTLED_S = 2.5  # probe remembers only files that were left alone for two seconds


@dataclass(frozen=True)
class Row:
    """One candidate on one file."""

    candidate: str
    trace: str
    bytes: int
    cost: Cost


def made(kind: str, size: int) -> Path:
    """A generated trace of about `size` bytes, made if it is not there."""
    path = TRACES / f"{kind}_{size // 10**6}mb.json"
    if not path.exists():
        print(f"making {path.relative_to(ROOT)} …", file=sys.stderr)
        part = path.with_suffix(".part")  # a name of its own, so that a trace cut short is not taken for a whole one
        generate.write(generate.chunks(generate.model(generate.find(kind)), size), part)
        part.rename(path)
    return path


def candidate(name: str, path: Path, *more: str, env: dict[str, str] = NO_CACHE) -> Cost:
    """One way to read `path`, from `candidates.py`."""
    return run(
        [sys.executable, "-m", "benchmarks.traces.candidates", name, path, *more], {**env, "PYTHONPATH": str(ROOT)}
    )


def command(path: Path, *options: str, env: dict[str, str] = NO_CACHE) -> Cost:
    """`probe analyze PATH --json`."""
    return run([sys.executable, "-m", "probe", "analyze", path, "--json", *options], env)


def middle_step(path: Path) -> str:
    """The number of a step in the middle of the trace, as `--steps` takes it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        mark = b'"ProfilerStep#'
        places = (text.find(mark) + len(mark), text.rfind(mark) + len(mark))
        first, last = (int(text[at : text.find(b'"', at)]) for at in places)
    step = (first + last) // 2
    return f"{step}:{step}"


def compared(path: Path) -> Iterator[tuple[str, Cost]]:
    """Everything that reads one trace, the floors first."""
    for name, title in FLOORS.items():
        yield title, candidate(name, path)
    yield "probe.load", candidate("load", path)
    yield "probe.analyze in Python", candidate("analyze", path)
    yield REFERENCE, command(path)
    step = middle_step(path)
    yield f"{REFERENCE}, one step", command(path, "--steps", step)
    yield "probe.load, one step", candidate("load_one_step", path, step)
    yield from cached(path)
    zipped = generate.compress(path)
    yield "gunzip by zlib (.gz)", candidate("zlib", zipped)
    yield "gunzip by isal (.gz)", candidate("isal", zipped)
    yield f"{REFERENCE} (.gz)", command(zipped)


FLOORS = {
    "start": "Python starts",
    "imports": "probe is imported",
    "read": "read the bytes",
    "orjson": "orjson.loads, gc off",
    "msgspec": "msgspec, 11 typed fields",
}


def cached(path: Path) -> Iterator[tuple[str, Cost]]:
    """The look that fills the cache, and the next one."""
    shutil.rmtree(CACHE, ignore_errors=True)
    time.sleep(max(0.0, path.stat().st_mtime + SETTLED_S - time.time()))
    yield f"{REFERENCE}, first look", command(path, env=WITH_CACHE)
    yield f"{REFERENCE}, second look", command(path, env=WITH_CACHE)
    shutil.rmtree(CACHE, ignore_errors=True)


def compare(size: int, kinds: list[str], with_rivals: bool, limit_s: float) -> dict[str, Any]:
    """All candidates on a trace of each kind."""
    rows = []
    for kind in kinds:
        path = made(kind, size)
        print(f"\n{path.name}, {path.stat().st_size / 1e6:.0f} MB")
        print(f"{'':34}{'CPU s':>9}{'wall s':>9}{'peak MB':>9}{'CPU /':>8}{'peak /':>8}")
        mine = [Row(title, kind, path.stat().st_size, cost) for title, cost in compared(path)]
        if with_rivals:
            mine += [Row(r.title, kind, path.stat().st_size, rivals.measure(r, path, limit_s)) for r in rivals.RIVALS]
        reference = next(row.cost for row in mine if row.candidate == REFERENCE)
        for row in mine:
            print(line(row, reference))
        rows += mine
    return {"rows": [asdict(row) for row in rows], "rivals": {r.title: rivals.version(r) for r in rivals.RIVALS}}


def line(row: Row, reference: Cost) -> str:
    """A row of the table; what failed says so, with its own words."""
    cost = row.cost
    if cost.error is not None:
        return f"{row.candidate:34}cannot: {cost.error[:100]}"
    figures = f"{cost.cpu_s:9.2f}{cost.wall_s:9.2f}{cost.peak_bytes / 1e6:9.0f}"
    ratios = f"{cost.cpu_s / reference.cpu_s:8.2f}{cost.peak_bytes / reference.peak_bytes:8.2f}"
    failed = "".join(f"\n{'':34}    {part} cannot: {why}" for part, why in cost.failed.items())
    return f"{row.candidate:34}{figures}{ratios}{failed}"


def sweep(upto: int, kind: str) -> dict[str, Any]:
    """probe, the floor and the naive way over sizes."""
    rows: list[Row] = []
    print(f"{'MB':>6}  {'':24}{'CPU s':>9}{'of system':>10}{'peak MB':>9}{'CPU s/GB':>10}")
    for size in (s for s in SIZES if s <= upto):
        path = made(kind, size)
        found = [(REFERENCE, command(path)), (FLOORS["msgspec"], candidate("msgspec", path))]
        if size <= 10**9:  # 4 GB of Python objects do not fit most machines
            found.append((FLOORS["orjson"], candidate("orjson", path)))
        for title, cost in found:
            row = Row(title, kind, path.stat().st_size, cost)
            rows.append(row)
            gigabytes = row.bytes / 1e9
            figures = (
                f"{cost.cpu_s:9.2f}{cost.system_s:10.2f}{cost.peak_bytes / 1e6:9.0f}{cost.cpu_s / gigabytes:10.1f}"
            )
            said = f"cannot: {cost.error}" if cost.error else figures
            print(f"{row.bytes / 1e6:6.0f}  {title:24}{said}")
    exponents = {title: exponent([r for r in rows if r.candidate == title]) for title in {r.candidate for r in rows}}
    print("CPU grows with size to the power of " + ", ".join(f"{e:.2f} ({t})" for t, e in exponents.items() if e))
    save_picture(rows)
    return {"rows": [asdict(row) for row in rows], "exponents": exponents}


def exponent(rows: list[Row]) -> float | None:
    """Power of the size with which CPU time grows between the largest two sizes; None where there are no two."""
    good = [row for row in rows if row.cost.error is None][-2:]
    if len(good) < 2:
        return None
    small, large = good
    return log(large.cost.cpu_s / small.cost.cpu_s) / log(large.bytes / small.bytes)


def save_picture(rows: list[Row]) -> None:
    """CPU and memory over size, side by side."""
    good = [row for row in rows if row.cost.error is None]
    titles = list(dict.fromkeys(row.candidate for row in good))
    cpu = {t: [(r.bytes / 1e6, r.cost.cpu_s) for r in good if r.candidate == t] for t in titles}
    peak = {t: [(r.bytes / 1e6, r.cost.peak_bytes / 1e6) for r in good if r.candidate == t] for t in titles}
    panels = [picture.Panel("CPU seconds", cpu), picture.Panel("peak memory, MB", peak)]
    (RESULTS / "traces_sweep.svg").write_text(picture.log_log(panels, "size of the trace, MB"))


def ranks(count: int, size: int) -> dict[str, Any]:
    """A directory of ranks: wall time against that of one rank times ranks over workers."""
    folder = TRACES / f"ranks_{count}x{size // 10**6}mb"
    if len(list(folder.glob("*.json"))) < count:
        generate.write_ranks(generate.model(generate.find("training")), count, size, folder)
    workers = len(os.sched_getaffinity(0))
    one, whole = command(folder / "rank0.json"), command(folder)
    rows = {"one rank": one, f"{count} ranks": whole}
    for title, cost in rows.items():
        figures = f"{cost.cpu_s:9.2f} CPU s{cost.wall_s:9.2f} s"
        print(f"{title:12}{figures if cost.error is None else f'cannot: {cost.error}'}")
    result: dict[str, Any] = {"rows": {t: asdict(c) for t, c in rows.items()}, "ranks": count, "workers": workers}
    if one.error is None and whole.error is None:
        result["wall_ratio"] = whole.wall_s / (count * one.wall_s / workers)
        result["cpu_ratio"] = whole.cpu_s / (count * one.cpu_s)
        print(f"wall / (ranks x one rank / {workers} workers): {result['wall_ratio']:.2f}")
        print(f"CPU / (ranks x one rank): {result['cpu_ratio']:.2f}; peak {whole.peak_bytes / 1e6:.0f} MB")
    return result


def save(name: str, result: dict[str, Any]) -> None:
    """Keep a result with what it was measured on."""
    path = RESULTS / f"traces_{name}.json"
    path.write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n")
    print(f"\n{path.relative_to(ROOT)}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = made.add_subparsers(dest="part", required=True)
    parts.add_parser("rivals").add_argument("--tracelens", help="install it from this folder or URL")
    part = parts.add_parser("compare")
    part.add_argument("--size", type=generate.bytes_of, default="100MB")
    part.add_argument("--kind", action="append", choices=list(generate.SOURCES), help="default: both")
    part.add_argument("--rivals", action="store_true")
    part.add_argument("--limit", type=float, default=3600.0, help="seconds of wall time after which a rival is stopped")
    part = parts.add_parser("sweep")
    part.add_argument("--upto", type=generate.bytes_of, default="4GB")
    part.add_argument("--kind", choices=list(generate.SOURCES), default="training")
    part = parts.add_parser("ranks")
    part.add_argument("--ranks", type=int, default=64)
    part.add_argument("--size", type=generate.bytes_of, default="20MB")
    return made


def main() -> None:
    asked = parser().parse_args()
    match asked.part:
        case "rivals":
            rivals.install(asked.tracelens)
        case "compare":
            kinds = asked.kind or list(generate.SOURCES)
            name = f"compare_{asked.size // 10**6}mb"
            save(name, compare(asked.size, kinds, asked.rivals, asked.limit))
        case "sweep":
            save("sweep", sweep(asked.upto, asked.kind))
        case "ranks":
            save("ranks", ranks(asked.ranks, asked.size))


if __name__ == "__main__":
    main()
