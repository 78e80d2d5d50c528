"""Rules are explained in the terminal and on a page, and the page is the catalogue's."""

from __future__ import annotations

import io
import re

import pytest
from places import ROOT
from rich.console import Console

from probe.analyzers.rules import catalogue
from probe.analyzers.rules.rule import Example, Rule
from probe.cli import main
from probe.errors import UsageError
from probe.report import rules as explained
from probe.report import rules_markdown

PAGE = ROOT / "docs" / "rules.md"
RULE = Rule(
    "F99", "made-up", "a rule of this test", lambda context: iter(()),
    trigger="what it looks for", advice="what to do | instead", saving="how much", cannot_show="what is left open",
    proof="replay", effort="line", needs=("shapes", "stacks"), example=Example("a = b\nc = d", "e = f"), preview=True,
)  # fmt: skip


def printed(code: str, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(explained.render(code))
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def test_the_page_is_current() -> None:
    """After a change of the catalogue: python docs/rules.py."""
    assert PAGE.read_text() == rules_markdown.render(explained.in_order())


def test_a_rule_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "RULES", (RULE,))
    assert (
        printed("f99")
        == """\
F99 made-up  preview
a rule of this test

Found by        what it looks for
Do              what to do | instead
Saving          how much
Not in a trace  what is left open
Needs           argument sizes (record_shapes=True); Python stacks
                (probe.profile(stacks=True), torch's with_stack=True)
Proof           probe verify runs the replacement against the original on the
                recorded shapes
Takes           a line of code
Asked           only with --preview: it is not tested on enough programs yet

Instead of
    a = b
    c = d
write
    e = f"""
    )


def test_a_rule_on_the_page() -> None:
    page = rules_markdown.render([RULE])
    assert "| [F99 made-up](#f99-made-up) | a rule of this test | a line of code | with `--preview` |" in page
    assert "### F99 made-up\n\nA rule of this test. *Preview.*\n" in page
    assert "```python\na = b\nc = d\n```\n\nwrite\n\n```python\ne = f\n```\n" in page


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("code", [*sorted(rule.code for rule in catalogue.RULES), "all"])
def test_every_rule_fits(code: str, width: int) -> None:
    lines = printed(code, width).splitlines()
    assert lines and max(map(len, lines)) <= width


def test_the_list_has_every_rule() -> None:
    listed = re.findall(r"^([FEHMD]\d\d)  (\S+)", printed("ALL", 200), re.MULTILINE)
    assert listed == [(rule.code, rule.name) for rule in explained.in_order()]
    assert len({code for code, _ in listed}) == len(listed)


@pytest.mark.parametrize("spelling", ["F06", "f6", " F6 ", "naive-attention"])
def test_spellings_of_a_code(spelling: str) -> None:
    assert explained.find(spelling).code == "F06"


@pytest.mark.parametrize(
    "wrong, near", [("attention", "F06 (naive-attention)"), ("F6O", "F06"), ("optimiser-loop", "F24")]
)
def test_close_matches_of_a_wrong_one(wrong: str, near: str) -> None:
    with pytest.raises(UsageError, match=r"did you mean .*\?") as caught:
        explained.find(wrong)
    assert near in str(caught.value)


def test_nothing_is_close_to_nonsense() -> None:
    with pytest.raises(UsageError, match="no rule 'zzzzzz'; --explain all lists them"):
        explained.find("zzzzzz")


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """It needs no source."""
    assert main(["analyze", "--explain", "D01"]) == 0
    assert capsys.readouterr().out.startswith("D01 exposed-communication\n")
    assert main(["analyze", "--explain", "attention"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_every_rule_says_enough() -> None:
    """Texts without a full stop at the end; a line of an example fits into a terminal."""
    for rule in catalogue.RULES:
        for label, text in explained.facts(rule):
            assert text and not text.endswith("."), f"{rule.code} {label}"
        lines = [line for side in (rule.example.before, rule.example.after) for line in side.splitlines()] if (
            rule.example) else []  # fmt: skip
        assert all(len(line) <= 100 for line in lines), rule.code
