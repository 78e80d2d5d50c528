"""Take the pictures of the dashboard again: sample runs, in the system's Chromium.

Usage: python docs/screenshots.py [NAME …]     it needs playwright, and Chromium in the PATH
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from probe.dashboard.server import Server

ROOT = Path(__file__).parent.parent
RUN = "transformer_step"
READY = """() => document.querySelector('#page > *') && !document.querySelector('#progress')
  && !document.querySelector('[data-dash-is-loading]')"""
SETTLES_MS = 1500  # after which nothing moves any more, animations included


def first_operator(page: Any) -> None:
    """Choose what has most to gain."""
    page.locator("tr[data-op]").first.click()


def nothing(page: Any) -> None:
    """As it comes."""


# Of a picture: the page, the theme, and what is done there.
PICTURES: dict[str, tuple[str, str, Callable[[Any], None]]] = {
    "dashboard_overview_dark": ("overview", "dark", nothing),
    "dashboard_roofline_dark": ("roofline", "dark", first_operator),
    "dashboard_operators_light": ("operators", "light", nothing),
    "dashboard_timeline_dark": ("timeline", "dark", nothing),
    "dashboard_suggestions_light": ("suggestions", "light", nothing),
}
REPORT = "dashboard_report_light"


@contextmanager
def served() -> Iterator[tuple[str, str]]:
    """The address of a dashboard of the sample runs, and the id of the one that is shown."""
    server = Server([str(ROOT / "sample_traces")], "127.0.0.1", 0)
    threading.Thread(target=server.run, daemon=True).start()
    run = next(entry.id for entry in server.library.catalogue.entries() if entry.name == RUN)
    yield server.address.rstrip("/"), run


@contextmanager
def tab(browser: Any, theme: str, height: int = 900) -> Iterator[Any]:
    """A window 1440 pixels wide, in a theme."""
    context = browser.new_context(viewport={"width": 1440, "height": height}, color_scheme=theme)
    yield context.new_page()
    context.close()


def kept(page: Any, name: str) -> None:
    """Save what is seen of the page, once nothing moves."""
    page.wait_for_timeout(SETTLES_MS)
    page.screenshot(path=str(ROOT / "docs" / "images" / f"{name}.png"))


def pages(browser: Any, names: list[str]) -> None:
    """Pages of the dashboard."""
    with served() as (address, run):
        for name in names:
            where, theme, act = PICTURES[name]
            with tab(browser, theme) as page:
                page.goto(f"{address}/{where}?run={run}")
                page.wait_for_function(READY, timeout=60_000)
                act(page)
                kept(page, name)


def report(browser: Any) -> None:
    """The page that `probe analyze --html` writes."""
    with tempfile.TemporaryDirectory() as folder, tab(browser, "light", 1000) as page:
        file = Path(folder) / "report.html"
        ceilings = ("--ceilings", "sample_traces/ceilings.json")
        command = [sys.executable, "-m", "probe", "analyze", f"sample_traces/{RUN}", *ceilings, "--html", str(file)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        page.goto(file.as_uri())
        kept(page, REPORT)


def main() -> None:
    os.chdir(ROOT)
    names = sys.argv[1:] or [*PICTURES, REPORT]
    if unknown := set(names) - {*PICTURES, REPORT}:
        sys.exit(f"{', '.join(sorted(unknown))}: no such picture; there are {', '.join([*PICTURES, REPORT])}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        pages(browser, [name for name in names if name in PICTURES])
        if REPORT in names:
            report(browser)
        browser.close()


if __name__ == "__main__":
    main()
