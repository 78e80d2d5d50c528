"""The catalogue of rules as one page of Markdown that reads on its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from probe.analyzers.rules.rule import Rule
from probe.report.rules import AREAS, facts

_HEAD = """\
# What probe suggests

`probe analyze` ends with findings: places in the program where one of these rules holds, with the seconds per step that
a change there could save. Each rule says what it looks for, what to write instead, how its saving is estimated, and
what a trace cannot show. `probe analyze --explain F06` prints one of them, `--explain all` lists them; `probe verify`
runs replacements on the recorded shapes and says whether they help.

How to read them:

- A **saving** is an upper bound until it is verified. It never exceeds the time of the operators that the finding
  claims, and an operator belongs to one finding only. Below 0.5 % of the step nothing is said.
- Rules marked **preview** are asked only with `--preview`: they are not tested on enough programs yet.
- A pattern is **matched** by `dataflow` where the run recorded which tensor every operator read (`probe.profile` does),
  else by the `order` of operators and their sizes, which cannot tell two tensors of the same size apart.

This page is made from the catalogue by `python docs/rules.py`.
"""


def render(rules: Sequence[Rule]) -> str:
    """The page; rules in order of area."""
    return "\n".join([_HEAD, *_contents(rules), *_sections(rules)]).rstrip() + "\n"


def _contents(rules: Sequence[Rule]) -> Iterator[str]:
    yield "| rule | finds | takes | asked |"
    yield "|---|---|---|---|"
    for rule in rules:
        told = dict(facts(rule))
        preview = "with `--preview`" if rule.preview else "by default"
        yield f"| [{rule.code} {rule.name}](#{_anchor(rule)}) | {_cell(rule.title)} | {told['Takes']} | {preview} |"
    yield ""


def _sections(rules: Sequence[Rule]) -> Iterator[str]:
    for letter, own in groupby(rules, key=lambda rule: rule.code[0]):
        yield f"## {AREAS[letter]}\n"
        for rule in own:
            yield from _section(rule)


def _section(rule: Rule) -> Iterator[str]:
    yield f"### {_heading(rule)}\n"
    yield f"{_sentence(rule.title)}{' *Preview.*' if rule.preview else ''}\n"
    for label, text in facts(rule):
        yield f"- **{label}**: {_plain(text)}"
    yield ""
    if rule.example is not None:
        yield f"Instead of\n\n```python\n{rule.example.before}\n```\n\nwrite\n\n```python\n{rule.example.after}\n```\n"


def _heading(rule: Rule) -> str:
    return f"{rule.code} {rule.name}"


def _anchor(rule: Rule) -> str:
    """As GitHub makes it of the heading."""
    return _heading(rule).lower().replace(" ", "-")


def _sentence(text: str) -> str:
    return f"{_plain(text[:1].upper() + text[1:])}."


def _plain(text: str) -> str:
    """Text in which nothing is taken for markup."""
    return text.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")
