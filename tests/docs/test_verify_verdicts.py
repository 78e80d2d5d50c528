"""docs/verdicts.md is what docs/verdicts.py makes of the measured verdicts."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from places import ROOT

DOCS = ROOT / "docs"


def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verdicts_page", DOCS / "verdicts.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current() -> None:
    """After a new measurement: python docs/verdicts.py."""
    assert (DOCS / "verdicts.md").read_text() == writer().page()


def test_predicted_stands_beside_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row: dict[str, Any] = {
        "program": "norm", "code": "F04", "replacement": "torch.compile", "verdict": "accept", "predicted": 2.5,
        "measured": 3.0, "interval": [2.0, 4.0], "memory": 0.5, "torch": "2.13", "at": "2026-01-01",
    }  # fmt: skip
    other = row | {"replacement": "F.rms_norm", "verdict": "inconclusive", "measured": None, "interval": None}
    (tmp_path / "verdicts.cpu.json").write_text(json.dumps([row, other | {"memory": None}]))
    module = writer()
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    assert module.page().splitlines()[-2:] == [
        "| norm | F04 | torch.compile | accept | 2.50× | 3.00× [2.00, 4.00] | 0.50 |",
        "|  |  | F.rms_norm | inconclusive |  | not timed |  |",
    ]
