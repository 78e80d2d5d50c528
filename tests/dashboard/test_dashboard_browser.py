"""The dashboard in a browser: every page in both themes, one selection everywhere, links that show the same picture.

Skipped where there is no playwright or no Chromium of the system's. Nothing asserts on time.
"""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import MARKS, opened
from dashboard_runs import HOSTILE_FILE, MARKUP, SAMPLES, hostile_trace, id_of, library
from waitress import create_server

from probe.dashboard.app import PAGES, create_app
from probe.dashboard.loaded import Library
from probe.dashboard.security import access
from probe.dashboard.server import bound
from probe.dashboard.shell import title

pytestmark = MARKS
ALL_NAMED = """words => { const names = [...document.querySelectorAll(".ag-center-cols-container [col-id=name]")];
    return names.length > 0 && names.every(name => name.textContent.toLowerCase().includes(words)); }"""
PATIENCE_MS = 60_000


class Site:
    """A dashboard that is being served, and the runs in it."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._socket = bound("127.0.0.1", 0)
        self.root = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        app = create_app(self.library, access("127.0.0.1"))
        self._server = create_server(app.server, sockets=[self._socket], threads=4)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        self.run, self.base = (id_of(self.library, name) for name in ("transformer_step", "resnet_step"))
        self.hostile = id_of(self.library, HOSTILE_FILE)
        for identity in (self.run, self.base, self.hostile):
            self.library.timeline(identity).done.wait(60)

    def close(self) -> None:
        self._server.task_dispatcher.shutdown()
        self._server.asyncore.close_all(self._server._map)
        self._thread.join(5)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("browser")
    hostile_trace(folder)
    with library(SAMPLES, folder, cache=folder / "cache") as held:
        found = Site(held)
        yield found
        found.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened() as found:
        yield found


class Tab:
    """The page that all tests use, what went wrong on it and whom it asked.

    The process behind it keeps the scripts of Dash and plotly compiled, which takes longer than anything else here; a
    page of its own for each test would have a new process. What a test leaves in the browser is taken away instead.
    """

    def __init__(self, browser: Any, root: str) -> None:
        self.root, self.faults, self.strangers = root, [], []
        self._browser = browser
        self._begin()

    def _begin(self) -> None:
        self.crashed = False
        self.context = self._browser.new_context()
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", lambda m: self.faults.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._asked)
        self.page.on("crash", self._crash)
        self._devtools = self.context.new_cdp_session(self.page)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.root, "data:", "blob:", "about:")):
            self.strangers.append(request.url)

    def _crash(self, _: Any) -> None:
        self.crashed = True

    def fresh(self, theme: str = "dark") -> None:
        """As for someone who was never here and whose system has that theme; what went wrong before is forgotten."""
        if self.crashed or self.page.is_closed():
            self.context.close()
            self._begin()
        self.page.goto("about:blank")
        self._devtools.send("Storage.clearDataForOrigin", {"origin": self.root, "storageTypes": "all"})
        self.page.keyboard.up("Shift")  # a test that failed may have left it down
        self.page.set_viewport_size({"width": 1440, "height": 900})
        self.page.emulate_media(color_scheme=theme)
        self.faults.clear()
        self.strangers.clear()

    def open(self, address: str) -> Any:
        self.page.goto(self.root + address)
        self.settled()
        return self.page

    def follow(self, name: str) -> None:
        """Another page by its link, without reading the scripts again."""
        self.page.locator(f"nav a.page-link[href^='/{name}?']").click()
        self.page.wait_for_function("title => document.querySelector('#title').textContent === title", arg=title(name))
        self.settled()

    def settled(self) -> None:
        self.page.wait_for_function(
            "() => document.querySelector('#page > *') && !document.querySelector('#progress')"
            " && !document.querySelector('[data-dash-is-loading]')"
        )

    def drawn(self, marks: str = ".js-plotly-plot .points path") -> None:
        """A figure stands as it will stay: Dash gives it its size a moment after it was first drawn."""
        self.page.wait_for_selector(marks)
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('.js-plotly-plot')].every(plot =>"
            " plot._fullLayout && !plot._resolveResize && !plot.classList.contains('dash-graph--pending'))"
        )


@pytest.fixture(scope="module")
def _tab(browser: Any, site: Site) -> Iterator[Tab]:
    found = Tab(browser, site.root)
    yield found
    found.context.close()


@pytest.fixture
def tab(_tab: Tab) -> Iterator[Tab]:
    _tab.fresh()
    yield _tab
    assert _tab.faults == [] and _tab.strangers == []


def test_every_page_stands_in_both_themes_and_widths(tab: Tab, site: Site) -> None:
    """No error, no request elsewhere, nothing wider than the window from 1024 pixels on; begun in either theme."""
    themes = ("dark", "light")
    for place, name in enumerate(PAGES):
        tab.fresh(themes[place % 2])
        page = tab.open(f"/{name}?run={site.run}&base={site.base}" if name == "compare" else f"/{name}?run={site.run}")
        assert page.locator("#title").inner_text()
        assert page.locator("[role=alert]").count() == 0, name
        for theme in (themes[place % 2], themes[1 - place % 2]):
            assert page.evaluate("document.documentElement.dataset.mantineColorScheme") == theme
            for width in (1440, 1024, 2560):
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, (name, theme, width)
            page.set_viewport_size({"width": 1440, "height": 900})
            page.wait_for_function("() => document.documentElement.scrollWidth <= innerWidth")  # figures follow later
            page.locator("#theme").click()
        assert tab.faults == [] and tab.strangers == [], name


def _shown(page: Any) -> str:
    page.wait_for_selector("#op-card h3")
    return str(page.locator("#op-card h3").inner_text())


def test_an_operator_chosen_in_one_view_is_marked_in_all(tab: Tab, site: Site) -> None:
    page = tab.open(f"/roofline?run={site.run}")
    page.wait_for_selector(".js-plotly-plot .points path")
    page.locator("tr[data-op]").nth(3).click()
    page.wait_for_function("() => location.search.includes('op=')")
    op = re.search(r"op=(\d+)", page.url)[1]  # type: ignore[index]
    page.wait_for_function("op => document.querySelector('#op-card').dataset.key?.endsWith('/' + op)", arg=op)
    name = _shown(page)
    assert page.locator(".ring").count() == 1
    assert page.locator("tr[aria-selected=true]").get_attribute("data-op") == op
    page.locator("nav >> text=Operators").click()
    page.wait_for_selector(".ag-row-selected")
    assert page.locator(".ag-row-selected").first.get_attribute("row-id") == op
    assert _shown(page) == name and f"op={op}" in page.url
    page.locator("nav >> text=Timeline").click()
    page.wait_for_function("() => probe.timeline && probe.timeline.alive && probe.timeline.tile")
    assert page.evaluate("probe.selected") == int(op) and _shown(page) == name


def test_a_card_is_asked_once(tab: Tab, site: Site) -> None:
    asked: list[str] = []
    tab.page.on("request", hears := lambda request: asked.append(request.url))
    page = tab.open(f"/roofline?run={site.run}")
    tab.drawn()
    assert _shown(page)
    page.remove_listener("request", hears)
    assert len([url for url in asked if "/op/" in url]) == 1


def test_a_mark_of_the_roofline_can_be_clicked(tab: Tab, site: Site) -> None:
    page = tab.open(f"/roofline?run={site.run}")
    tab.drawn(".traceclasscompute .points path")
    box = page.locator(".traceclasscompute .points path").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function("() => location.search.includes('op=')")
    assert _shown(page).startswith("aten::")
    page.locator("button[data-class=memory]").click()
    assert not page.locator(".traceclassmemory").first.is_visible()


def test_a_link_shows_the_same_picture(tab: Tab, site: Site) -> None:
    page = tab.open(f"/operators?run={site.run}&op=2&by=name&q=mm")
    page.wait_for_selector(".ag-center-cols-container .ag-row")
    assert page.locator("#grid-search").input_value() == "mm"
    assert page.locator("#group-by input[value=name]").is_checked()
    page.wait_for_function(ALL_NAMED, arg="mm")
    begin = site.library.timeline(site.run).result().begin_ns + 100_000_000
    page = tab.open(f"/timeline?run={site.run}&from={begin}&to={begin + 50_000_000}&q=addmm")
    page.wait_for_function("() => probe.timeline && probe.timeline.tile")
    assert page.evaluate("[probe.timeline.a, probe.timeline.b]") == [begin, begin + 50_000_000]
    assert page.locator(".timeline-search").input_value() == "addmm"


def test_the_address_holds_the_zoom_of_the_roofline_and_the_classes_shown(tab: Tab, site: Site) -> None:
    page = tab.open(f"/roofline?run={site.run}")
    tab.drawn(".traceclassmemory .points path")
    box = page.locator(".js-plotly-plot .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -400)
    page.wait_for_function("() => location.search.includes('zoom=')")
    page.locator("button[data-class=memory]").click()
    page.wait_for_function("() => location.search.includes('hide=memory')")
    seen = "document.querySelector('.js-plotly-plot')._fullLayout.xaxis.range.map(end => end.toFixed(2)).join()"
    before = page.evaluate(seen)
    address = page.url.removeprefix(tab.root)
    page = tab.open(address)
    page.wait_for_selector(".traceclasscompute .points path")
    assert page.evaluate(seen) == before and not page.locator(".traceclassmemory").first.is_visible()
    page.evaluate("history.pushState({}, '', '/operators')")
    page.evaluate("document.querySelector('.js-plotly-plot').emit('plotly_relayout', {})")
    assert "zoom=" not in page.url
    page = tab.open(address)
    page.wait_for_selector(".traceclasscompute .points path")
    page.locator("nav >> text=Operators").click()
    page.wait_for_selector(".ag-center-cols-container .ag-row")
    assert "zoom=" not in page.url and "hide=" not in page.url


def test_the_address_holds_how_the_grid_is_sorted(tab: Tab, site: Site) -> None:
    page = tab.open(f"/operators?run={site.run}")
    page.wait_for_selector(".ag-center-cols-container .ag-row")
    page.locator(".ag-header-cell[col-id=calls]").click()
    page.wait_for_function("() => location.search.includes('sort=calls%3A')")
    first = page.locator(".ag-center-cols-container .ag-row[row-index='0']").get_attribute("row-id")
    page = tab.open(page.url.removeprefix(tab.root))
    page.wait_for_selector(".ag-center-cols-container .ag-row")
    assert page.locator(".ag-header-cell[col-id=calls]").get_attribute("aria-sort") in ("ascending", "descending")
    assert page.locator(".ag-center-cols-container .ag-row[row-index='0']").get_attribute("row-id") == first


PERFETTO = """<!doctype html><title>stand-in</title><script>
  window.heard = [];
  addEventListener("message", (event) => {
    window.heard.push(event.data === "PING" ? "PING" : event.data.perfetto.buffer.byteLength);
    if (event.data === "PING" && window.heard.length > 2) event.source.postMessage("PONG", event.origin);
  });
</script>"""


def test_a_trace_is_handed_to_perfetto_on_a_click_only(tab: Tab, site: Site) -> None:
    """A page of our own stands where ui.perfetto.dev is; it gets the file's bytes once it has said that it is ready."""
    perfetto = "https://ui.perfetto.dev/**"
    tab.context.route(perfetto, lambda route: route.fulfill(body=PERFETTO, content_type="text/html"))
    page = tab.open(f"/timeline?run={site.run}")
    page.wait_for_function("() => probe.timeline && probe.timeline.tile")
    assert tab.strangers == []
    with page.expect_popup() as opening:
        page.locator("#perfetto").click()
    other = opening.value
    assert other.url == "https://ui.perfetto.dev/"
    other.wait_for_function("() => typeof window.heard[window.heard.length - 1] === 'number'")
    heard = other.evaluate("window.heard")
    size = page.evaluate(
        "run => fetch('/api/trace/' + run).then(a => a.arrayBuffer()).then(b => b.byteLength)", site.run
    )
    assert heard[0] == "PING" and heard[-1] == size > 1000 and sum(one == size for one in heard) == 1
    other.close()
    tab.context.unroute(perfetto)


def test_the_grid_is_searched_grouped_and_chosen_from(tab: Tab, site: Site) -> None:
    page = tab.open(f"/operators?run={site.run}")
    page.wait_for_selector(".ag-center-cols-container .ag-row")
    page.locator(".ag-center-cols-container .ag-row[row-index='1']").click()
    page.wait_for_function("() => location.search.includes('op=')")
    chosen = page.locator(".ag-center-cols-container .ag-row[row-index='1'] [col-id=name]").inner_text()
    page.wait_for_function("name => document.querySelector('#op-card h3')?.textContent === name", arg=chosen)
    page.fill("#grid-search", "softmax")
    page.wait_for_function(ALL_NAMED, arg="softmax")


def test_the_timeline_moves_searches_and_measures(tab: Tab, site: Site) -> None:
    page = tab.open(f"/timeline?run={site.run}")
    page.wait_for_function("() => probe.timeline && probe.timeline.tile")
    whole = page.evaluate("probe.timeline.b - probe.timeline.a")
    for key in ("w", "w", "d"):
        page.keyboard.press(key)
    assert page.evaluate("probe.timeline.b - probe.timeline.a") < whole / 2
    page.wait_for_function("() => location.search.includes('from=')")
    page.keyboard.press("f")
    assert page.evaluate("probe.timeline.b - probe.timeline.a") == whole
    box = page.locator("#timeline canvas").bounding_box()
    page.keyboard.down("Shift")
    page.mouse.move(box["x"] + 300, box["y"] + 120)
    page.mouse.down()
    page.mouse.move(box["x"] + 600, box["y"] + 120, steps=4)
    page.mouse.up()
    page.keyboard.up("Shift")
    page.wait_for_selector("#timeline-stretch [data-op]")
    page.fill(".timeline-search", "addmm")
    page.wait_for_function("() => document.querySelector('#timeline-tools').textContent.includes('found')")
    page.keyboard.press("Enter")
    page.wait_for_function("() => probe.timeline.found")
    assert "addmm" in _shown(page)


def test_the_theme_changes_without_a_request(tab: Tab, site: Site) -> None:
    page = tab.open(f"/roofline?run={site.run}")
    tab.drawn(".traceclasscompute .points path")
    _shown(page)  # the last that the page asks for by itself
    asked: list[str] = []
    page.on("request", hears := lambda request: asked.append(request.url))
    colour = "getComputedStyle(document.querySelector('.traceclasscompute .points path')).fill"
    before = page.evaluate(colour)
    page.locator("#theme").click()
    page.wait_for_function(f"before => {colour} !== before", arg=before)
    assert asked == []
    page.remove_listener("request", hears)
    page.reload()
    tab.settled()
    assert page.evaluate("document.documentElement.dataset.mantineColorScheme") == "light"


def test_another_run_is_chosen_and_the_first_one_exported(tab: Tab, site: Site) -> None:
    page = tab.open(f"/overview?run={site.run}")
    with page.expect_download() as download:
        page.locator("#export").click()
    exported = Path(download.value.path()).read_text()
    assert "transformer_step" in exported and "src=" not in exported and '<div class="timeline">' in exported
    page.locator("#run-picker").click()
    page.locator("[role=option]:has-text('resnet_step')").click()
    page.wait_for_function("run => location.search.includes(run)", arg=site.base)
    page.wait_for_function("() => document.title.includes('resnet_step')")


def test_hostile_names_are_shown_as_text(tab: Tab, site: Site) -> None:
    """On every page, in the grid, the card, beside marks and on the timeline; nothing of them runs."""
    page = tab.open(f"/runs?run={site.hostile}")
    for name in PAGES:
        tab.follow(name)
        assert page.locator("img[src=x]").count() == 0
        if name == "operators":
            page.wait_for_selector(".ag-center-cols-container .ag-row")
            row = page.locator(".ag-center-cols-container .ag-row", has_text="<img src=x").first
            row.click()
            page.wait_for_function("() => document.querySelector('#op-card h3')?.textContent.includes('<img src=x')")
            assert MARKUP in page.locator("#op-card h3").inner_text()
        if name == "timeline":
            page.wait_for_function("() => probe.timeline && probe.timeline.tile")
            box = page.locator("#timeline canvas").bounding_box()
            for x in range(170, 900, 15):
                page.mouse.move(box["x"] + x, box["y"] + 60)
        assert page.locator("img[src=x]").count() == 0
        assert page.evaluate("window.hacked") is None


def test_the_keyboard_reaches_what_the_mouse_does(tab: Tab, site: Site) -> None:
    page = tab.open(f"/overview?run={site.run}")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator("button.op").nth(2).focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.search.includes('op=')")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"


def test_a_figure_is_saved_as_it_looks(tab: Tab, site: Site, tmp_path: Path) -> None:
    """In the theme of the page, without the classes that are hidden there, as SVG and as PNG of twice the size."""
    page = tab.open(f"/roofline?run={site.run}&hide=overhead")
    tab.drawn(".traceclasscompute .points path")
    saved = {}
    for kind in ("svg", "png"):
        with page.expect_download() as download:
            page.locator(f"[data-save={kind}]").focus()
            page.keyboard.press("Enter")
        assert download.value.suggested_filename.endswith("." + kind)
        saved[kind] = Path(download.value.path()).read_bytes()
    text = saved["svg"].decode()
    colour = page.evaluate("getComputedStyle(document.querySelector('.traceclassmemory .points path')).fill")
    ground = page.evaluate("getComputedStyle(document.querySelector('.card.tall')).backgroundColor")
    assert text.startswith("<svg") and colour in text and ground in text and "Arithmetic intensity" in text
    assert "compute" in text and ">overhead" not in text
    assert saved["png"].startswith(b"\x89PNG")
    across = page.evaluate("document.querySelector('.js-plotly-plot').getBoundingClientRect().width")
    assert int.from_bytes(saved["png"][16:20], "big") == pytest.approx(2 * across, abs=2)
    (tmp_path / "saved.svg").write_text(text)
    shown = tab.context.new_page()
    shown.goto((tmp_path / "saved.svg").as_uri())
    assert shown.locator("path").count() > 50  # it is well-formed: a browser shows it
    shown.close()


def test_the_library_of_figures_is_read_once_and_early(tab: Tab, site: Site) -> None:
    count = (
        """() => performance.getEntriesByType('resource').filter(one => one.name.endsWith('/plotly.min.js')).length"""
    )
    page = tab.open(f"/overview?run={site.run}")
    assert page.evaluate(count) == 0
    page.locator("nav >> text=Roofline").hover()
    page.wait_for_function("() => window.Plotly && window.Plotly.version")
    page.locator("nav >> text=Roofline").click()
    page.wait_for_selector(".js-plotly-plot .points path")
    assert page.evaluate(count) == 1
    page = tab.open(f"/roofline?run={site.run}")
    page.wait_for_selector(".js-plotly-plot .points path")
    assert page.evaluate("document.querySelectorAll('script[src$=\"/plotly.min.js\"]').length") == 1
