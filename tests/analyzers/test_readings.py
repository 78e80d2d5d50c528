"""probe says of real traces what a careful reader of their events says; golden_files/readings has the reasons."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from places import GOLDEN, SAMPLES
from real_traces import analysis_of

import probe
from probe.results.analysis import PARTS, Analysis

READINGS = GOLDEN / "readings"
NAMES = sorted(path.stem for path in READINGS.glob("*.md") if path.stem != "README")
KEYS = {"step_ms", "busy", "bound", "parts", "first", "there", "never", "most_saving", "said", "open"}


def reading(name: str) -> dict[str, Any]:
    """The block of TOML at the end of a page."""
    (block,) = re.findall(r"```toml\n(.*?)```", (READINGS / f"{name}.md").read_text(), re.DOTALL)
    return tomllib.loads(block)


def disagreements(wanted: dict[str, Any], found: Analysis) -> Iterator[str]:
    """Where probe and the reader differ."""
    step_s = found.time_s["step"] or 0.0
    yield from _outside("step_ms", step_s * 1e3, wanted.get("step_ms"))
    yield from _outside("busy", found.utilisation.device_busy_fraction or 0.0, wanted.get("busy"))
    if found.bound not in wanted["bound"]:
        yield f"bound {found.bound}, not {' or '.join(wanted['bound'])}"
    for parts, interval in wanted.get("parts", {}).items():
        share = sum(found.time_s[part] or 0.0 for part in parts.split("+")) / step_s
        yield from _outside(parts, share, interval)
    yield from _about_findings(wanted, found)
    for words in wanted.get("said", ()):
        if not any(words in warning for warning in found.warnings):
            yield f"no warning says {words!r}"


def _outside(what: str, value: float, interval: list[float] | None) -> Iterator[str]:
    if interval is not None and not interval[0] <= value <= interval[1]:
        yield f"{what} {value:.5g}, not {interval[0]} to {interval[1]}"


def _about_findings(wanted: dict[str, Any], found: Analysis) -> Iterator[str]:
    codes = [finding.code for finding in found.findings]
    if wanted.get("first") and codes[:1] and codes[0] not in wanted["first"]:
        yield f"{codes[0]} first, not {' or '.join(wanted['first'])}"
    missing, wrong = set(wanted.get("there", ())) - set(codes), set(wanted.get("never", ())) & set(codes)
    if missing or (wanted.get("first") and not codes):
        yield f"no {sorted(missing) or wanted['first']} among {codes}"
    if wrong:
        yield f"{sorted(wrong)} are wrong"
    loud = [f.id for f in found.findings if (f.saving_fraction or 0.0) > wanted.get("most_saving", 1.0)]
    if loud:
        yield f"{loud} promise more than {wanted['most_saving']:.0%}"


@pytest.mark.parametrize("name", NAMES)
def test_reading(foreign_traces: Path, name: str) -> None:
    source = foreign_traces / name
    found = analysis_of(source if source.is_dir() else foreign_traces / f"{name}.json.gz")
    assert not list(disagreements(reading(name), found))


@pytest.mark.parametrize("name", NAMES)
def test_a_reading_is_well_formed(name: str) -> None:
    wanted = reading(name)
    assert set(wanted) <= KEYS and wanted["bound"]
    assert all(part in PARTS for parts in wanted.get("parts", {}) for part in parts.split("+"))
    assert not set(wanted.get("there", ())) & set(wanted.get("never", ()))
    assert not set(wanted.get("first", ())) & set(wanted.get("never", ()))


def test_every_trace_is_read(foreign_traces: Path) -> None:
    there = {p.name.removesuffix(".json.gz") for p in foreign_traces.iterdir() if p.suffix == ".gz" or p.is_dir()}
    assert there == set(NAMES)


def test_a_wrong_verdict_is_seen() -> None:
    """The comparison itself can fail."""
    found = probe.analyze(SAMPLES / "starved_loader")
    wanted = {"bound": ["compute"], "step_ms": [0.0, 0.001], "parts": {"host": [0.0, 0.1]}, "first": ["F06"],
              "there": ["D01"], "never": ["H07"], "most_saving": 0.0, "said": ["is start-up"]}  # fmt: skip
    assert len(list(disagreements(wanted, found))) == 8
