"""The roofline as a file: its themes, what is refused and how, and a picture where kaleido and a browser are there."""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chromium import CHROMIUM
from dashboard_runs import SAMPLES
from places import ROOT

from probe import api
from probe.cli import main
from probe.dashboard.figures import saved
from probe.errors import InputError, UnavailableError, UsageError
from probe.report.palette import LOOKS
from probe.results.analysis import Analysis

RUN, CEILINGS = str(SAMPLES / "transformer_step"), str(SAMPLES / "ceilings.json")
CSS = (ROOT / "dashboard" / "assets" / "probe.css").read_text()


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return api.analyze(RUN, ceilings=CEILINGS)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A kaleido that keeps what it is asked to draw."""
    asked: list[Any] = []

    def calc_fig_sync(content: Any, **options: Any) -> bytes:
        asked.append((content, options))
        return b"<svg/>"

    monkeypatch.setitem(sys.modules, "kaleido", SimpleNamespace(calc_fig_sync=calc_fig_sync, __spec__=object()))
    return asked


def test_the_dark_theme_is_that_of_the_style_sheet() -> None:
    dark = CSS.split("[data-mantine-color-scheme=dark] {")[1].split("}")[0]
    for colour in saved.DARK.values():
        assert f": {colour};" in dark


def test_the_figure_has_a_legend_of_its_classes_and_no_colour_of_the_other_theme(analysis: Analysis) -> None:
    light = saved.figure(analysis)
    named = {trace["name"] for trace in light["data"] if trace["showlegend"]}
    assert named == {op.bound for op in analysis.ops if op.intensity and op.achieved_flops_per_s}
    assert saved.themed(light, "light") == light
    text = str(saved.themed(light, "dark"))
    assert LOOKS["memory"].dark in text and not [colour for colour in saved.DARK if colour in text]


def test_the_command_draws_and_asks_for_nothing_from_elsewhere(drawn: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "roof.svg"
    assert main(["analyze", RUN, "--ceilings", CEILINGS, "--json", "--figure", str(path), "--theme", "dark"]) == 0
    assert path.read_bytes() == b"<svg/>"
    (content, options), = drawn  # fmt: skip
    assert content["layout"]["paper_bgcolor"] == saved.DARK["#FFFFFF"]
    assert options["opts"]["format"] == "svg" and options["kopts"] == {"mathjax": False}


def test_without_kaleido_one_line_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(saved, "find_spec", lambda name: None)
    assert main(["analyze", RUN, "--figure", str(tmp_path / "roof.png")]) == 4
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "pip install 'torch-probe[figures]'" in err


def test_without_a_browser_the_remedy_is_said(drawn: list[Any], analysis: Analysis, tmp_path: Path) -> None:
    def fails(*_: Any, **__: Any) -> bytes:
        raise RuntimeError("no browser\nmore of it")

    sys.modules["kaleido"].calc_fig_sync = fails  # type: ignore[attr-defined]
    with pytest.raises(UnavailableError, match=r"no browser.*BROWSER_PATH") as told:
        saved.save(analysis, tmp_path / "roof.png")
    assert "\n" not in str(told.value)
    sys.modules["kaleido"] = SimpleNamespace(__spec__=object())  # type: ignore[assignment]
    with pytest.raises(UnavailableError, match="too old"):
        saved.save(analysis, tmp_path / "roof.png")


@pytest.mark.parametrize(("name", "theme"), [("roof.jpg", "light"), ("roof", "light"), ("roof.svg", "blue")])
def test_other_kinds_and_themes_are_refused(name: str, theme: str, tmp_path: Path, drawn: list[Any]) -> None:
    with pytest.raises(UsageError):
        saved.refuse(tmp_path / name, theme)


def test_a_run_without_roofs_has_no_figure(analysis: Analysis, drawn: list[Any], tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(InputError, match="microbench"):
        saved.save(replace(analysis, ceilings=None), tmp_path / "roof.svg")
    with pytest.raises(InputError, match="record_shapes"):
        saved.save(replace(analysis, ops=()), tmp_path / "roof.svg")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(find_spec("kaleido") is None, reason="kaleido is not installed (pip install kaleido)")
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed (Debian: apt-get install chromium)")
def test_kaleido_draws_it(analysis: Analysis, tmp_path: Path) -> None:
    saved.save(analysis, tmp_path / "roof.svg", "dark")
    text = (tmp_path / "roof.svg").read_text()
    assert text.startswith("<svg") and "Arithmetic intensity" in text and "memory" in text
