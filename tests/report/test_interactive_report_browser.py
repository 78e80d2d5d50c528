"""The page of `probe analyze --html` in a browser, from disk and without a network: one selection in all its views."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import MARKS, opened
from dashboard_runs import MARKUP, SAMPLES, hostile_trace

import probe
from probe.examine import timelines
from probe.report.analysis import by_possible_gain, calls_text
from probe.units import format_fraction, format_time

pytestmark = MARKS
PATIENCE_MS = 60_000
PIXEL = """([x, y]) => { const c = document.querySelector('.strip canvas');
    return [...c.getContext('2d').getImageData(x * devicePixelRatio, y * devicePixelRatio, 1, 1).data]; }"""

TWO_FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


class Sheet:
    """A page that was written to disk, and what went wrong on it; one after the other in the same browser's page."""

    def __init__(self, browser: Any, **more: Any) -> None:
        self.faults: list[str] = []
        self._browser = browser
        self._begin(**more)

    def _begin(self, **more: Any) -> None:
        self.crashed = False
        more = {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light", **more}
        self.context = self._browser.new_context(offline=True, **more)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", lambda m: self.faults.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._asked)
        self.page.on("crash", self._crash)

    def open(self, file: Path) -> Any:
        """Read anew, with nothing of what was shown before: the pages store nothing."""
        if self.crashed or self.page.is_closed():
            self.context.close()
            self._begin()
        self.page.goto("about:blank")  # an address that differs only behind its # would not be read again
        self.page.set_viewport_size({"width": 1440, "height": 900})
        self.faults.clear()
        self.address = file.as_uri()
        self.page.goto(self.address)
        return self.page

    def _crash(self, _: Any) -> None:
        self.crashed = True

    def _asked(self, request: Any) -> None:
        if request.url.split("#")[0] != self.address and not request.url.startswith(("data:", "blob:")):
            self.faults.append(request.url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened() as found:
        yield found


@pytest.fixture(scope="module")
def analysis() -> probe.Analysis:
    return probe.analyze(SAMPLES / "transformer_step", ceilings=SAMPLES / "ceilings.json")


@pytest.fixture(scope="module")
def file(analysis: probe.Analysis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(timelines.page(analysis, 10, SAMPLES / "transformer_step"))
    return path


@pytest.fixture(scope="module")
def _sheet(browser: Any) -> Iterator[Sheet]:
    found = Sheet(browser)
    yield found
    found.context.close()


@pytest.fixture
def sheet(_sheet: Sheet, file: Path) -> Iterator[Sheet]:
    _sheet.open(file)
    yield _sheet
    assert _sheet.faults == []


ROWS = ".operators tbody tr"
CHOSEN = ".operators tr[aria-selected=true]"


def test_the_table_writes_numbers_as_the_rest_of_probe_does(sheet: Sheet, analysis: probe.Analysis) -> None:
    page = sheet.page
    while page.locator(".operators .note button").count():
        page.locator(".operators .note button").click()
    shown = page.eval_on_selector_all(ROWS, "rows => rows.map(row => [...row.children].map(cell => cell.textContent))")
    for op, cells in zip(by_possible_gain(analysis.ops), shown, strict=True):
        assert cells[0] == str(op.index) and cells[3] == calls_text(op.calls)
        assert cells[5] == format_fraction(float(f"{op.share_fraction:.5g}"))
        for cell, seconds in ((cells[4], op.self_s), (cells[8], op.recoverable_s)):
            sent = 0.0 if seconds is None else float(f"{seconds:.5g}")
            assert cell in (["–"] if seconds is None else [format_time(sent), format_time(sent * (1 + 1e-9))])  # ties


def test_an_operator_chosen_in_one_view_is_marked_in_all(sheet: Sheet) -> None:
    page = sheet.page
    page.locator(ROWS).nth(3).click()
    op = page.locator(CHOSEN).get_attribute("data-op")
    assert page.locator(".ring").count() == 1
    ring = page.locator(".ring").evaluate("ring => [+ring.getAttribute('cx'), +ring.getAttribute('cy')]")
    place = page.locator(f".canvas path[data-op='{op}']").get_attribute("transform")
    assert [round(x, 1) for x in ring] == [float(x) for x in re.findall(r"translate\(([\d.]+) ([\d.]+)\)", place)[0]]
    assert f"#{op}" in page.locator(".opcard").inner_text() and page.url.endswith(f"#op={op}")
    other = page.locator(".canvas path.mark").last
    other.scroll_into_view_if_needed()
    box = other.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    chosen = page.locator(CHOSEN).get_attribute("data-op")
    assert chosen != op and f"#{chosen}" in page.locator(".opcard").inner_text()
    page.locator("summary", has_text="Evidence").first.click()
    page.locator(".chips button").first.click()
    assert page.locator(CHOSEN).get_attribute("data-op") == page.locator(".chips button").first.get_attribute("data-op")
    assert page.locator(".chips button").first.get_attribute("aria-pressed") == "true"


def test_an_address_names_the_operator(sheet: Sheet) -> None:
    sheet.page.goto(sheet.address + "#op=40")
    sheet.page.reload()
    assert "#40" in sheet.page.locator(".opcard").inner_text()


def test_the_table_is_sorted_and_filtered(sheet: Sheet) -> None:
    page = sheet.page
    page.locator(".operators th button", has_text="calls").click()
    counts = [float(x) for x in page.eval_on_selector_all(ROWS, "rows => rows.map(row => row.children[3].textContent)")]
    assert counts == sorted(counts, reverse=True) and len(set(counts)) > 1
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("calls")
    page.fill(".operators input", "softmax")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.operators tbody tr')]"
        ".every(row => row.textContent.toLowerCase().includes('softmax'))"
    )
    assert "fit the filter" in page.locator(".operators .note").inner_text()
    page.fill(".operators input", "")
    marks = page.locator(".canvas path.in-memory").count()
    page.locator(".operators .tools button", has_text="memory").click()
    assert marks > 0 and page.locator(".canvas path.in-memory").count() == 0
    assert page.locator(".operators td .ink-memory").count() == 0


def test_roofline_and_timeline_are_zoomed_and_shown_whole_again(sheet: Sheet) -> None:
    page = sheet.page
    ticks = "[...document.querySelectorAll('.canvas text.soft')].map(one => one.textContent)"
    whole = page.evaluate(ticks)
    page.locator(".roofline .moves button").first.click()
    assert page.evaluate(ticks) != whole
    page.locator(".roofline .moves button", has_text="all").click()
    assert page.evaluate(ticks) == whole
    strip = page.locator(".strip")
    strip.scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelector('.strip canvas').height > 40")
    picture = "document.querySelector('.strip canvas').toDataURL()"
    page.evaluate(TWO_FRAMES)
    before = page.evaluate(picture)
    strip.focus()
    for key in ("w", "w", "d"):
        page.keyboard.press(key)
    page.wait_for_function(f"before => {picture} !== before", arg=before)
    page.keyboard.press("f")
    page.wait_for_function(f"before => {picture} === before", arg=before)


def test_an_event_of_the_timeline_chooses_its_operator(sheet: Sheet) -> None:
    page = sheet.page
    strip = page.locator(".strip")
    strip.scroll_into_view_if_needed()
    strip.focus()
    for _ in range(4):
        page.keyboard.press("w")
    box = strip.bounding_box()
    before = page.locator(".opcard").inner_text()
    for y in range(60, int(box["height"]), 15):
        page.mouse.click(box["x"] + 500, box["y"] + y)
        if "#op=" in page.url:
            break
    assert "#op=" in page.url
    assert page.locator(CHOSEN).count() == 1 and page.locator(".opcard").inner_text() != before


def test_the_wheel_scrolls_the_page_until_a_picture_is_clicked(sheet: Sheet) -> None:
    page = sheet.page
    ticks = "[...document.querySelectorAll('.canvas text.soft')].map(one => one.textContent)"
    whole = page.evaluate(ticks)
    page.locator(".canvas").scroll_into_view_if_needed()
    page.locator(".canvas").hover()
    scrolled = page.evaluate("scrollY")
    page.mouse.wheel(0, -120)
    page.wait_for_function("before => scrollY < before", arg=scrolled)
    page.evaluate(TWO_FRAMES)
    assert page.evaluate(ticks) == whole
    page.locator(".canvas").focus()
    page.locator(".canvas").hover()
    page.mouse.wheel(0, -300)
    page.wait_for_function(f"whole => JSON.stringify({ticks}) !== JSON.stringify(whole)", arg=whole)


def test_the_roofline_is_saved_as_a_picture_of_its_own(sheet: Sheet) -> None:
    page = sheet.page
    saved = {}
    for kind in ("SVG", "PNG"):
        with page.expect_download() as download:
            page.locator(".roofline .moves button", has_text=kind).click()
        saved[kind] = Path(download.value.path()).read_bytes()
    text = saved["SVG"].decode()
    assert text.startswith("<svg") and "var(" not in text and "<script" not in text
    assert "rgb(31, 96, 156)" in text and "DRAM" in text  # the colour of arithmetic, the name of a roof
    assert saved["PNG"].startswith(b"\x89PNG") and len(saved["PNG"]) > 5000


def test_both_themes(sheet: Sheet) -> None:
    page = sheet.page
    ground = "getComputedStyle(document.querySelector('.probe')).backgroundColor"
    light = page.evaluate(ground)
    page.locator(".theme").click()
    dark = page.evaluate(ground)
    assert light == "rgb(255, 255, 255)" and dark == "rgb(20, 23, 27)"
    page.locator(".theme").click()
    assert page.evaluate(ground) == light


@pytest.mark.parametrize("width", [1024, 2560])
def test_nothing_is_wider_than_the_window(sheet: Sheet, width: int) -> None:
    sheet.page.set_viewport_size({"width": width, "height": 900})
    sheet.page.reload()
    assert sheet.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_it_is_whole_without_scripts(browser: Any, file: Path) -> None:
    sheet = Sheet(browser, java_script_enabled=False)
    sheet.open(file)
    assert (
        sheet.page.locator(".roofline svg path").count() > 10 and sheet.page.locator(".timeline svg path").count() > 2
    )
    assert sheet.page.locator(".operators tbody tr").count() == 11  # ten, and how many more there are
    assert not sheet.page.locator(".opcard").is_visible() and not sheet.page.locator(".theme").is_visible()
    sheet.context.close()
    assert sheet.faults == []


def test_hostile_names_are_shown_as_text(sheet: Sheet, tmp_path: Path) -> None:
    trace = hostile_trace(tmp_path)
    found = tmp_path / "page.html"
    found.write_text(timelines.page(probe.analyze(trace), 20, trace))
    page = sheet.open(found)
    page.locator(ROWS, has_text="<img src=x").first.click()
    assert page.locator(".opcard h3").inner_text() == MARKUP
    for mark in page.locator(".canvas path.mark").all():
        mark.hover(force=True)
    strip = page.locator(".strip").bounding_box()
    page.locator(".strip").scroll_into_view_if_needed()
    for x in range(140, 900, 25):
        page.mouse.move(strip["x"] + x, strip["y"] + 50)
    assert page.locator("img").count() == 0 and page.evaluate("window.hacked") is None


def test_two_reports_in_one_notebook_are_both_alive(sheet: Sheet, analysis: probe.Analysis, tmp_path: Path) -> None:
    """As a notebook does it: the cells are put in one after the other, and the scripts of each are run."""
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{analysis._repr_html_()}{analysis._repr_html_()}")
    page = sheet.open(path)
    assert page.locator("[data-live]").count() == 2
    page.locator(".probe").nth(1).locator(ROWS).nth(2).click()
    assert page.locator(".probe").nth(1).locator(CHOSEN).get_attribute("data-op") == "2"
    assert page.locator(".probe").nth(0).locator(CHOSEN).get_attribute("data-op") == "0"
    assert "#op" not in page.url
