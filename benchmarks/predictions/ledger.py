"""Where are predictions and measurements kept? One JSON file a device; a program's row replaces its older one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from probe.machine.environment import cpu_device

RESULTS = Path(__file__).parents[1] / "results"
SCHEMA = "probe.predictions/1"


@dataclass(frozen=True)
class Row:
    """One program. Ratios are of step times, original / replaced."""

    code: str
    program: str
    step_s: float  # of the recorded original, unrecorded steps
    found: int  # recordings in which the rule spoke
    promised: int  # recordings in which it said how many seconds are saved; without, nothing can be right or wrong
    replacement: str | None  # what the finding names
    others: tuple[str, ...]  # what other rules said, with their shares of the step
    predicted: float
    predictions: tuple[float, ...]  # of each recording
    measured: float
    interval: tuple[float, float]
    pairs: int
    noise: float  # of consecutive windows of one side, median |ln ratio|
    value_error: float | None
    equal: bool | None  # whether both compute the same, within tolerance; None: not compared

    @property
    def error(self) -> float:
        """How far the predicted ratio is from the measured one, as a part of it; + promises too much."""
        return self.predicted / self.measured - 1


def save(row: Row, threads: int) -> None:
    """Put a row into the ledger of this machine's processor; the rows of other programs stay."""
    path = RESULTS / f"predictions.{cpu_device().key}.json"
    kept = {(r["code"], r["program"]): r for r in _rows(path)}
    about = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "torch": str(torch.__version__), "threads": threads}
    kept[row.code, row.program] = _rounded(asdict(row) | {"error": row.error}) | about
    content = {"schema": SCHEMA, "device": cpu_device().name, "rows": [kept[key] for key in sorted(kept)]}
    path.write_text(json.dumps(content, indent=1) + "\n")


def _rows(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text())["rows"]) if path.exists() else []


def _rounded(value: Any) -> Any:
    """Numbers with four digits: more is noise."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, tuple | list) else value
