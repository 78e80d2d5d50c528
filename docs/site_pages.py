"""Hooks of the site: which files beside docs/ are pages of it, and where does a link lead there?

In the checkout every link is a path from the file that holds it. On the site a link to a page stays one; a link to
anything else (an example, a result) becomes the name of that file, because the site does not carry it.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
BESIDE = {  # file of the checkout → page of the site
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/traces/README.md": "reading_cost.md",
    "sample_traces/README.md": "sample_traces.md",
}
TUTORIALS = "tutorials/"
CODE = r"^ *```.*?^ *```|`[^`\n]+`"  # comes first, so that what looks like a link in it is left alone
LINK = re.compile(CODE + r"|(?P<bang>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)", re.DOTALL | re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The tutorials of the navigation are those that lie in docs/tutorials."""
    pages = [f"{TUTORIALS}{name}" for name in tutorials(ROOT / "docs" / TUTORIALS)]
    for group in config.nav or []:
        for title, entries in group.items():
            group[title] = [_with_tutorials(entry, pages) for entry in entries if pages or not _is_tutorials(entry)]
    return config


def tutorials(folder: Path) -> list[str]:
    """The pages of a folder: its README, then in the order in which that names them, then the rest."""
    index = folder / "README.md"
    named = re.findall(r"\((\w+\.md)\)", index.read_text(encoding="utf-8")) if index.exists() else []
    there = {path.name for path in folder.glob("*.md")}
    return [name for name in dict.fromkeys(["README.md", *named, *sorted(there)]) if name in there]


def _is_tutorials(entry: Any) -> bool:
    return isinstance(entry, dict) and TUTORIALS in entry.values()


def _with_tutorials(entry: Any, pages: list[str]) -> Any:
    return {"Tutorials": pages} if _is_tutorials(entry) else entry


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie beside docs/."""
    for path, page in BESIDE.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links as the site has them."""
    path = next((beside for beside, name in BESIDE.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}")
    return rewritten(markdown, path, {file.src_uri for file in files})


def rewritten(markdown: str, path: str, there: set[str]) -> str:
    """The text of file `path` of the checkout with links between the pages `there`; code is left alone."""

    def link(found: re.Match[str]) -> str:
        if found["target"] is None or re.match(r"[a-z]+:|#", found["target"]):
            return found[0]
        target, hash_mark, anchor = found["target"].partition("#")
        led_to = page_of(normpath(join(dirname(path), target)), there)
        if led_to is None:
            return found["text"]
        here = BESIDE.get(path, path.removeprefix("docs/"))
        return f"{found['bang']}[{found['text']}]({relpath(led_to, dirname(here) or '.')}{hash_mark}{anchor})"

    return LINK.sub(link, markdown)


def page_of(path: str, there: set[str]) -> str | None:
    """The site's page or picture for a file of the checkout; None where the site does not carry it."""
    for name in (path, f"{path}/README.md", f"{path}/index.md"):
        page = BESIDE.get(name, name.removeprefix("docs/") if name.startswith("docs/") else "")
        if page in there:
            return page
    return None
