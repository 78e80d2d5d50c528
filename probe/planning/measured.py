"""What did the microbenchmarks measure of links and storage? From the JSON of `probe run microbench`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from probe.errors import InputError, UsageError
from probe.measurement import SCHEMA


def measured(file: str, ranks: int) -> tuple[float | None, float | None]:
    """Best busbw of an all-reduce, among as many ranks where that was measured, and best rate of storage, bytes/s."""
    rows = list(_rows(Path(file)))
    links = [r for r in rows if r.get("suite") == "collectives" and r.get("metric") == "busbw"
             and r.get("name") == "all_reduce"]  # fmt: skip
    same = [r for r in links if r.get("params", {}).get("ranks") == ranks]
    storage = [r for r in rows if r.get("suite") == "storage" and r.get("unit") == "B/s"]
    return _best(same or links), _best(storage)


def _best(rows: list[dict[str, Any]]) -> float | None:
    return max((float(r["value"]) for r in rows if r.get("value")), default=None)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"--microbench {path}: {error.strerror or error}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise InputError(f"{path}: not a result of `probe run microbench -o FILE`")
    yield from found.get("measurements", [])
