"""Is the page whole without network or scripts, does it show everything, and can no name in it become markup?"""

import dataclasses
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from measured_machine import DEVICE, timed, whole_result

from probe import store
from probe.cli import main
from probe.machine.device import Ceilings
from probe.microbench import run
from probe.report import microbench_html, microbench_svg
from probe.report.curves import arrange
from probe.results.measurement import Measurement, MicrobenchResult, Reference

KIB = 1 << 10
VOID = ("meta", "br", "hr", "path", "rect", "circle")


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects them and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:])
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


def _sweep(suite: str, unit: str, values: list[float], **params: object) -> list[Measurement]:
    return [timed(suite, unit, value, size_bytes=KIB << i, **params) for i, value in enumerate(values)]


def test_the_page_is_whole_and_asks_for_nothing() -> None:
    page = Page(microbench_html.render(whole_result()))

    assert page.open == []
    assert "script" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)


def test_the_page_shows_every_measurement_warning_and_missing_suite() -> None:
    result = whole_result()
    text = microbench_html.render(result)
    page = Page(text)
    raw = text[text.index("All measurements") :]

    assert f"{len(result.measurements)} rows" in raw
    assert raw.count("<tr>") == len(result.measurements) + 1
    assert "not measured (not implemented yet): tlb, copies" in page.text
    assert "the system reports 32 MiB" in page.text
    assert "Some CPU" in page.text


def test_curves_of_a_suite_nobody_has_heard_of() -> None:
    rows = _sweep("warp_speed", "B/s", [1e9, 2e9, 3e9, 9e9], engine="left")
    text = microbench_html.render(MicrobenchResult(DEVICE, {}, tuple(rows), Ceilings("measured", "x")))

    assert "<figcaption>warp speed" in text
    assert text.count('<circle class="dot') == 4
    assert "warp speed" in Page(text).text


def test_names_cannot_become_markup() -> None:
    evil = '<script>alert("1")</script>'
    device = dataclasses.replace(DEVICE, name=evil)
    row = dataclasses.replace(
        timed("s", "B/s", 1.0, note=evil), name=evil, suite="s", flags=(evil,), because=evil, verdict="worse",
        reference=Reference(1.0, 2.0, evil),
    )  # fmt: skip
    rows = (row, *(dataclasses.replace(m, name=evil) for m in _sweep(f"suite{evil}", "s", [1.0, 2.0, 3.0], kind=evil)))
    result = MicrobenchResult(device, {"os": evil}, rows, Ceilings("measured", evil), warnings=(evil,))
    text = microbench_html.render(result)

    assert "<script" not in text
    assert Page(text).open == []


def test_a_verdict_and_its_reason() -> None:
    reference = Reference(1e-9, 2e-9, "somebody")
    rows = tuple(
        dataclasses.replace(timed("s", "s", 1e-9), reference=reference, verdict=verdict, because=because)
        for verdict, because in (("as published", None), ("worse", "contended"), (None, "80 % of a theoretical peak"))
    )
    page = Page(microbench_html.render(MicrobenchResult(DEVICE, {}, rows, Ceilings("measured", "x"))))

    assert "1 as published · 1 worse: contended" in page.text
    assert "80 % of a theoretical peak" in page.text
    assert page.ids == ["source1"]


def test_nothing_measured() -> None:
    page = Page(microbench_html.render(MicrobenchResult(DEVICE, {}, (), Ceilings("measured", "x"))))

    assert "No ceiling was measured." in page.text
    assert page.open == []


def _svg(rows: list[Measurement]) -> str:
    [figure], _ = arrange(rows)
    return microbench_svg.figure(figure)


def _heights(svg: str) -> list[float]:
    return [float(y) for y in re.findall(r'<circle class="dot[^"]*" cx="[\d.]+" cy="([\d.]+)"', svg)]


def test_higher_values_stand_higher_and_everything_within_the_picture() -> None:
    heights = _heights(_svg(_sweep("s", "B/s", [1e9, 1e10, 1e11, 1e12])))

    assert heights == sorted(heights, reverse=True)
    assert all(microbench_svg.TOP <= y <= microbench_svg.HEIGHT - microbench_svg.BOTTOM for y in heights)
    steps = [a - b for a, b in itertools.pairwise(heights)]
    assert max(steps) - min(steps) < 0.3  # a decade is a decade


def test_close_values_stand_on_a_linear_axis_from_zero() -> None:
    svg = _svg(_sweep("s", "B/s", [8e9, 9e9, 10e9]))
    heights = _heights(svg)
    bottom = microbench_svg.HEIGHT - microbench_svg.BOTTOM

    assert (bottom - heights[0]) / (bottom - heights[2]) == pytest.approx(0.8, abs=0.01)
    assert ">0</text>" in svg


def test_a_dot_says_where_it_is() -> None:
    svg = _svg(_sweep("s", "B/s", [1e9, 1e10, 1e11]))

    assert "<title>s x, 4 KiB\nbest 100 GB/s" in svg


def test_flags_show_in_the_dots() -> None:
    rows = _sweep("s", "B/s", [1e9, 1e10, 1e11])
    rows[0] = dataclasses.replace(rows[0], flags=("contended",))
    rows[1] = dataclasses.replace(rows[1], flags=("implausible",))
    svg = _svg(rows)

    assert svg.count('class="dot hollow"') == 1
    assert svg.count('class="false"') == 1
    [line] = re.findall(r'<path class="line" d="([^"]*)"', svg)
    assert line.count("L") == 1  # from the first to the last: what cannot be true is no part of the curve


def test_the_published_range_is_a_band_at_its_height() -> None:
    reference = Reference(1e10, 1e10, "somebody")
    rows = [dataclasses.replace(m, reference=reference) for m in _sweep("s", "B/s", [1e9, 1e10, 1e11])]
    svg = _svg(rows)
    [(top, height)] = re.findall(
        r'<rect class="published" x="[\d.]+" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', svg
    )

    assert float(top) + float(height) / 2 == pytest.approx(_heights(svg)[1], abs=0.2)
    assert "somebody" in svg


def test_levels_are_fields_with_names() -> None:
    rows = [
        timed("cache_latency", "s", value, size_bytes=KIB << i, level=level)
        for i, (value, level) in enumerate([(1e-9, "L1"), (1.1e-9, "L1"), (4e-9, "L2"), (9e-8, "DRAM")])
    ]
    svg = _svg(rows)

    assert all(f">{level}</text>" in svg for level in ("L1", "L2", "DRAM"))
    assert svg.count('<rect class="level"') == 2  # every other one


def test_bars_are_as_long_as_their_values() -> None:
    rows = [timed("matmul", "FLOP/s", rate, dtype=dtype) for dtype, rate in (("float32", 2e11), ("float64", 1e11))]
    _, [group] = arrange(rows)
    widths = [float(w) for w in re.findall(r'<rect class="length"[^>]* width="([\d.]+)"', microbench_svg.bars(group))]

    assert widths[0] / widths[1] == pytest.approx(2.0, rel=0.01)


def test_the_command_writes_the_page_over_an_older_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "measure", lambda options, progress: whole_result())
    monkeypatch.setattr(store, "keep", lambda ceilings, device: None)
    page = tmp_path / "page.html"
    page.write_text("an older page")

    assert main(["run", "microbench", "--html", str(page)]) == 0
    assert Page(page.read_text()).open == []
    assert "Some CPU" in page.read_text()


def test_page_and_object_need_two_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["run", "microbench", "-o", "x", "--html", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err == "probe: x: the same file is named twice; give each report a name of its own\n"
    assert not (tmp_path / "x").exists()
