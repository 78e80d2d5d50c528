"""What did the microbenchmarks measure of links and storage? From the JSON of `probe run microbench`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.analyzers.projection.links import Times, volume_bytes
from probe.errors import InputError, UsageError
from probe.results.measurement import SCHEMA


def measured(file: str, ranks: int) -> tuple[float | None, float | None]:
    """Best busbw of an all-reduce, among as many ranks where that was measured, and best rate of storage, bytes/s."""
    rows = list(_rows(Path(file)))
    links = [r for r in rows if r.get("suite") == "collectives" and r.get("metric") == "busbw"
             and r.get("name") == "all_reduce"]  # fmt: skip
    same = [r for r in links if r.get("params", {}).get("ranks") == ranks]
    storage = [r for r in rows if r.get("suite") == "storage" and r.get("unit") == "B/s"]
    return _best(same or links), _best(storage)


@dataclass(frozen=True)
class MeasuredLink:
    """busbw in bytes/s and latency of a hop in s of all-reduces, among so many ranks; cores: of a CPU's host.

    times: of each size measured, the bytes that a rank sends, and seconds.
    """

    busbw: float
    hop_s: float
    ranks: int
    cores: int | None
    times: Times = ()


def measured_link(file: str, ranks: int) -> MeasuredLink:
    """The link that the collectives suite measured, among as many ranks or as near to it. InputError for none."""
    content = _content(Path(file))
    rows = [r for r in content.get("measurements", []) if r.get("suite") == "collectives"]
    rows = [r for r in rows if r.get("name") == "all_reduce" and _ranks(r)]
    rates = [r for r in rows if r.get("metric") == "busbw"]
    if not rates:
        raise InputError(f"{file}: holds no all-reduce; measure it with `probe run microbench collectives -o FILE`")
    among = nearest((_ranks(r) for r in rates), ranks)
    same = [r for r in rows if _ranks(r) == among]
    alphas = [float(r["value"]) for r in same if r.get("metric") == "latency"]
    device = content.get("device") or {}
    return MeasuredLink(
        max(float(r["value"]) for r in same if r.get("metric") == "busbw"),
        min(alphas, default=0.0) / (2 * (among - 1)),
        among,
        device.get("cores") if device.get("kind") == "cpu" else None,
        tuple(sorted(_times(same, among))),
    )


def _times(rows: list[dict[str, Any]], ranks: int) -> Iterator[tuple[float, float]]:
    """The fastest all-reduce of each size, where a row tells both."""
    for row in rows:
        size, told = row["params"].get("size_bytes"), row["params"].get("time_s")
        took_s = told.get("min") if isinstance(told, dict) else None
        if row.get("metric") == "busbw" and isinstance(size, int) and isinstance(took_s, float) and took_s > 0:
            yield volume_bytes("all_reduce", size, ranks), took_s


def nearest(measured: Iterable[int], ranks: int) -> int:
    """Of the numbers of ranks that were measured the largest up to `ranks`, else the smallest."""
    counts = sorted(measured)
    return max((n for n in counts if n <= ranks), default=counts[0])


def _ranks(row: dict[str, Any]) -> int:
    count = row.get("params", {}).get("ranks")
    return count if isinstance(count, int) and count > 1 and row.get("value") else 0


def _best(rows: list[dict[str, Any]]) -> float | None:
    return max((float(r["value"]) for r in rows if r.get("value")), default=None)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    yield from _content(path).get("measurements", [])


def _content(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise InputError(f"{path}: not a result of `probe run microbench -o FILE`")
    return found
