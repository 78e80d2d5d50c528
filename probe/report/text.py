"""Make names fit to print: no control characters, no more room than there is."""

from __future__ import annotations

import re
import unicodedata

_TEMPLATE = re.compile(r"<[^<>]*>")


def printable(text: str) -> str:
    """`text` with control, format and unassigned characters replaced: a trace's names may hold anything."""
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c).startswith("C") else c for c in text)


def shorten(text: str, width: int) -> str:
    """`text` in at most `width` characters, an ellipsis in its middle where something was left out."""
    if len(text) <= width:
        return text
    head = (width - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def kernel_name(name: str) -> str:
    """A kernel's name without return type, template and call arguments: `void at::native::f<4, …>(int)` is `f`."""
    plain = printable(name)
    if plain.startswith(("Memcpy", "Memset")):  # the profiler's own words; what is in brackets matters
        return plain
    short = plain.removeprefix("void ").replace("(anonymous namespace)::", "")
    while (stripped := _TEMPLATE.sub("", short)) != short:
        short = stripped
    return short.split("(")[0].strip().rsplit("::", 1)[-1] or plain


def markdown_cell(text: str) -> str:
    """`text` for a cell of a Markdown table: nothing in it is taken for markup."""
    escaped = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|])", r"\\\1", escaped)
