"""What a page of the documentation holds: its blocks of code with what stands before them, its links, its headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
_FENCE = re.compile(r"^( *)```(\w*) *\n(.*?)^\1``` *$", re.MULTILINE | re.DOTALL)
_REMARK = re.compile(r"<!-- (not run|stands for|run): (.*?) -->\s*\Z", re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A block of code. `remark` is the comment before it: what kind ("not run", …), and the text."""

    page: Path
    line: int  # of the fence, from 1
    language: str
    text: str
    remark: tuple[str, str] | None = None

    @property
    def title(self) -> str:
        """The page and the line, for the name of a test."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name of the file that the first line says this is."""
        found = re.match(r"# (\w+\.py)$", self.text.partition("\n")[0])
        return found[1] if found else None


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        remark = _REMARK.search(text[: found.start()])
        inner = re.sub(rf"^{found[1]}", "", found[3], flags=re.MULTILINE)
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, found[2], inner, (remark[1], remark[2]) if remark else None)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each line of a shell block, without remarks; a line that ends in a backslash goes on."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words:
            yield words


def without_code(text: str) -> str:
    """A page without blocks and spans of code, in which nothing is a link."""
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text))


def links(page: Path) -> Iterator[str]:
    """Where the links and pictures of a page lead."""
    yield from _LINK.findall(without_code(page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Markdown's table of contents makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+?) *$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", lambda m: m[1] or "", heading).lower()
        anchor = re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip())
        number = 0
        while anchor + (f"_{number}" if number else "") in found:
            number += 1
        found.add(anchor + (f"_{number}" if number else ""))
    return found
