"""The sample traces still say what is written beside them, and their reports still look as they did."""

import json
import math
from typing import Any

import pytest
from golden import assert_golden
from places import SAMPLES

import probe
from probe.report import html, markdown
from probe.report.analysis import as_text

NAMES = sorted(p.parent.name for p in SAMPLES.glob("*/expected.json"))


def analysed(name: str) -> probe.Analysis:
    return probe.analyze(SAMPLES / name, ceilings=SAMPLES / "ceilings.json")


def assert_close(got: Any, expected: Any, where: str = "") -> None:
    """Equal, but for the last digits of sums."""
    if isinstance(expected, dict):
        assert got.keys() == expected.keys(), where
        for key in expected:
            assert_close(got[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(got) == len(expected), where
        for index, (g, e) in enumerate(zip(got, expected, strict=True)):
            assert_close(g, e, f"{where}[{index}]")
    elif isinstance(expected, float):
        assert math.isclose(got, expected, rel_tol=1e-9, abs_tol=1e-12), where
    else:
        assert got == expected, where


def test_there_are_samples() -> None:
    assert NAMES == ["resnet_step", "starved_loader", "transformer_step"]


@pytest.mark.parametrize("name", NAMES)
def test_the_analysis_is_the_expected_one(name: str) -> None:
    expected = json.loads((SAMPLES / name / "expected.json").read_text())
    got = analysed(name).to_json()
    got["source"]["path"] = name
    assert_close(json.loads(json.dumps(got, allow_nan=False)), expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_cost_of_95_percent_is_known_and_parts_add_up(name: str) -> None:
    analysis = analysed(name)
    assert not any("is not known" in w for w in analysis.warnings)
    parts = sum(v or 0.0 for k, v in analysis.time_s.items() if k != "step")
    assert math.isclose(parts, analysis.time_s["step"] or 0.0, rel_tol=0.01)


def test_what_each_sample_was_made_to_show() -> None:
    assert {f.code for f in analysed("transformer_step").findings} == {"F24", "F06"}
    assert analysed("resnet_step").bound == "compute"
    assert analysed("starved_loader").bound == "host"
    assert [f.code for f in analysed("starved_loader").findings] == ["H07", "H08"]


def test_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SAMPLES)
    analysis = probe.analyze("transformer_step", ceilings="ceilings.json")
    assert_golden("transformer_step.txt", as_text(analysis))
    assert_golden("transformer_step.md", markdown.render(analysis))
    assert_golden("transformer_step.html", html.body(analysis))
