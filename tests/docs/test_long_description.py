"""What a package index shows of the README: no picture and no link that leads nowhere there."""

from __future__ import annotations

import re
from typing import Any

import pytest
from places import ROOT

RELATIVE = re.compile(r"!?\[[^\]]*\]\((?!https?://)[^)]*\)")


@pytest.fixture(scope="module")
def described() -> Any:
    names: dict[str, Any] = {"__name__": "setup_of_probe"}
    exec(compile((ROOT / "setup.py").read_text(), "setup.py", "exec"), names)
    return names["described"]


def test_nothing_relative_is_left(described: Any) -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(RELATIVE.findall(readme)) > 20, "the README has pictures and links"
    shown = described(readme)
    assert RELATIVE.findall(shown) == []
    assert "the method behind every number" in shown  # the words of a link stay
    assert "The roofline page" not in shown  # those of a picture go
    assert readme.count("```") == shown.count("```")


def test_code_and_full_addresses_stay(described: Any) -> None:
    text = "See [this](docs/x.md) and [that](https://host/y).\n\n![p](a.svg)\n\n```py\na[i](b)\n```\n"
    assert described(text).startswith("See this and [that](https://host/y).\n\n```py\na[i](b)\n```\n\n")
