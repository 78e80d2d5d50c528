"""The documentation as a site: it builds without a warning and asks nobody for anything; what is drawn is current."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from documented import DOCS, ROOT

BUILT = ("concepts/roofline.html", "concepts/bounds.html", "concepts/methods.html", "extending/rule.html", "rules.html",
         "index.html", "changelog.html", "api.html", "comparison.html", "reading_cost.html")  # fmt: skip
# What a browser would fetch by itself; links that a reader may follow are none of it.
FETCHED = re.compile(
    r"""<(?:script|img|iframe)[^>]+src="?(https?:|//)|<link[^>]+href="?(https?:|//)|url\(["']?(https?:|//)"""
)


def module(name: str) -> Any:
    """A script of docs/, as a module."""
    found = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert found and found.loader
    loaded = importlib.util.module_from_spec(found)
    found.loader.exec_module(loaded)
    return loaded


def build(folder: Path, config: str = "mkdocs.yml") -> subprocess.CompletedProcess[str]:
    """mkdocs, strictly, into `folder`."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="pip install 'torch-probe[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


def test_every_page_is_built(site: Path) -> None:
    assert all((site / page).is_file() for page in BUILT)
    assert len(list(site.rglob("*.html"))) > 30
    assert not list(site.rglob("*.py"))


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    wrong = [
        f"{path.relative_to(site)}: {found[0]}"
        for path in site.rglob("*")
        if path.suffix in (".html", ".css", ".svg")
        for found in FETCHED.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not wrong
    assert FETCHED.search('<link rel="stylesheet" href="https://fonts.example/css">')


def test_links_of_the_readme_lead_to_pages(site: Path) -> None:
    """Pages of the site and pictures stay links; what the site does not carry is text."""
    index = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="gate.html"' in index and 'src="images/report.svg"' in index
    assert "docs/" not in "".join(re.findall(r'(?:href|src)="([^"]*)"', index))
    assert 'href="reading_cost.html#what-came-out"' in (site / "comparison.html").read_text(encoding="utf-8")


def test_the_search_knows_the_pages(site: Path) -> None:
    found = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    places = {entry["location"].partition("#")[0] for entry in found["docs"]}
    assert {*BUILT} - {"index.html"} <= places


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="pip install 'torch-probe[docs]'")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[nowhere](nowhere.md)")
    (tmp_path / "mkdocs.yml").write_text("site_name: x\nvalidation: {links: {not_found: warn}}\n")
    done = build(tmp_path / "site", str(tmp_path / "mkdocs.yml"))
    assert done.returncode == 1 and "nowhere.md" in done.stderr


def test_where_links_lead() -> None:
    rewritten = module("site_pages").rewritten
    there = {"gate.md", "index.md", "images/a.png", "tutorials/x.md", "benchmarks.md"}
    assert rewritten("[g](docs/gate.md#why)", "README.md", there) == "[g](gate.md#why)"
    assert rewritten("![a](../images/a.png)", "docs/tutorials/x.md", there) == "![a](../images/a.png)"
    assert rewritten("[top](../README.md)", "docs/gate.md", there) == "[top](index.md)"
    assert rewritten("[b](../benchmarks)", "docs/gate.md", there) == "[b](benchmarks.md)"
    assert rewritten("[e](../examples/a.py) [t](tests/)", "docs/gate.md", there) == "e t"
    assert (
        rewritten("`[g](docs/gate.md)` [h](https://x.y/)", "README.md", there)
        == "`[g](docs/gate.md)` [h](https://x.y/)"
    )
    assert rewritten("```\n[e](no.md)\n```\n[e](no.md)", "README.md", there) == "```\n[e](no.md)\n```\ne"


def test_tutorials_stand_in_the_order_of_their_readme(tmp_path: Path) -> None:
    """A page that it does not name comes last; without one all come by name."""
    for name in ("a.md", "b.md", "c.md", "b.py"):
        (tmp_path / name).touch()
    tutorials = module("site_pages").tutorials
    assert tutorials(tmp_path) == ["a.md", "b.md", "c.md"]
    (tmp_path / "README.md").write_text("[1](c.md) [2](b.md) [gone](d.md)")
    assert tutorials(tmp_path) == ["README.md", "c.md", "b.md", "a.md"]


def test_the_page_of_python_is_current() -> None:
    """After a change of a signature or docstring: python docs/api.py."""
    assert (DOCS / "api.md").read_text(encoding="utf-8") == module("api").render()


@pytest.mark.parametrize("name", sorted(module("concept_pictures").own()))
def test_a_picture_is_current(name: str) -> None:
    """After a change of the analysis that is meant: python docs/concept_pictures.py."""
    drawn = module("concept_pictures").own()[name]()
    assert (DOCS / "images" / f"concept_{name}.svg").read_text(encoding="utf-8") == drawn


@pytest.mark.parametrize("name", ["communication", "latency", "unknown"])
def test_a_picture_of_a_foreign_trace_is_current(foreign_traces: Path, name: str) -> None:
    drawn = module("concept_pictures").foreign()[name]()
    assert (DOCS / "images" / f"concept_{name}.svg").read_text(encoding="utf-8") == drawn


def test_figures_that_the_pages_quote_stand_in_the_pictures() -> None:
    """A page says in words what its picture shows; after drawing again, read the page again."""
    quoted = {
        "roofline": ("at 6.1 % of its roof", "at 5.2 % of its roof", "191 GFLOP/s", "37.5 GB/s"),
        "compute": ("20.1 ms", "6.32 ms", "449 µs"), "memory": ("738 µs", "336 µs", "45% of DRAM"),
        "latency": ("113 µs", "9% of the bfloat16", "19% of DRAM", "12% of the warps"),
        "communication": ("8.81 ms", "12.3 ms"), "host": ("33.6 ms", "35.4 ms"), "unknown": ("21.9 µs", "2.71 µs"),
    }  # fmt: skip
    for name, figures in quoted.items():
        text = (DOCS / "images" / f"concept_{name}.svg").read_text(encoding="utf-8").replace("&#x27;", "'")
        assert all(figure in text for figure in figures), name


def test_what_the_site_needs_is_pinned() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pinned = {
        line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    }
    wanted = settings["project"]["optional-dependencies"]["docs"]
    assert {re.split(r"[<>=]", requirement)[0].lower() for requirement in wanted} <= pinned
