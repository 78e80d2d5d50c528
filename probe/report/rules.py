"""The rules of the catalogue explained: one in full, or all in a list."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from probe.analyzers.rules import catalogue
from probe.analyzers.rules.rule import NEEDS, PROOFS, Effort, Rule
from probe.errors import UsageError

ALL = "all"
WIDEST = 88  # characters of a line of prose: longer ones are hard to read
AREAS = {
    "F": "Fusion and replacement",
    "E": "Compute efficiency",
    "H": "Host, launches, waiting",
    "M": "Memory",
    "D": "Several ranks",
}
EFFORTS: dict[Effort, str] = {
    "flag": "a flag",
    "line": "a line of code",
    "function": "a function rewritten",
    "design": "a change of design",
}
_CODE = re.compile(r"([a-z])0*(\d{1,2})", re.IGNORECASE)  # F6 for F06


PART_OF = {"F17": "F06"}  # softmax and dropout apart from attention: an attention written out, found as one


def render(code: str) -> RenderableType:
    """What a rule looks for, advises, saves and cannot see, with an example; "all" lists the rules."""
    return _list(in_order()) if code.lower() == ALL else _explained(find(code))


def in_order() -> list[Rule]:
    """All rules by area and number."""
    return sorted(catalogue.RULES, key=lambda rule: (list(AREAS).index(rule.code[0]), rule.code))


def find(asked: str) -> Rule:
    """The rule of a code or a name; UsageError, which names the nearest ones, where there is none."""
    short = _CODE.fullmatch(asked.strip())
    code = f"{short[1].upper()}{int(short[2]):02d}" if short else asked.strip()
    code = PART_OF.get(code, code)
    for rule in catalogue.RULES:
        if code in (rule.code, rule.name):
            return rule
    near = _near(code)
    hint = f", did you mean {' or '.join(near)}?" if near else ";"
    raise UsageError(f"no rule {asked!r}{hint} --explain all lists them")


def _near(code: str) -> list[str]:
    """Codes with their names that look or sound like what was asked for."""
    rules = catalogue.RULES
    found = [rule for rule in rules if len(code) > 3 and code.lower() in f"{rule.name} {rule.title}".lower()]
    words = {rule.code: rule for rule in rules} | {rule.name: rule for rule in rules}
    found += [words[word] for word in difflib.get_close_matches(code, words, n=3, cutoff=0.6)]
    return [f"{rule.code} ({rule.name})" for rule in dict.fromkeys(found)][:3]


def facts(rule: Rule) -> list[tuple[str, str]]:
    """What is said of a rule, label by label; texts without a full stop."""
    needs = "; ".join(NEEDS[need] for need in rule.needs) or "a trace"
    return [
        ("Found by", rule.trigger),
        ("Do", rule.advice),
        ("Saving", rule.saving),
        ("Not in a trace", rule.cannot_show),
        ("Needs", needs),
        ("Proof", PROOFS[rule.proof]),
        ("Takes", EFFORTS[rule.effort]),
        ("Asked", asked(rule)),
    ]


def asked(rule: Rule) -> str:
    """When the rule is asked."""
    return "only with --preview: it is not tested on enough programs yet" if rule.preview else "by default"


def _explained(rule: Rule) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(max_width=WIDEST - 16)
    for label, text in facts(rule):
        table.add_row(label, Text(text))
    head = Text.assemble((f"{rule.code} {rule.name}", "bold"), ("  preview" if rule.preview else "", "yellow"))
    return Group(head, Text(rule.title), Text(), table, *_example(rule))


def _example(rule: Rule) -> Sequence[RenderableType]:
    if rule.example is None:
        return ()
    return (
        Text("\nInstead of", style="cyan"),
        Padding(Text(rule.example.before, style="dim"), (0, 0, 0, 4)),
        Text("write", style="cyan"),
        Padding(Text(rule.example.after), (0, 0, 0, 4)),
    )


def _list(rules: Sequence[Rule]) -> RenderableType:
    parts: list[RenderableType] = []
    for letter, own in groupby(rules, key=lambda rule: rule.code[0]):
        table = Table.grid(padding=(0, 2))
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(ratio=1)
        for rule in own:
            mark = Text(" (preview)", style="yellow") if rule.preview else Text("")
            table.add_row(rule.code, rule.name, Text(rule.title).append_text(mark))
        parts += [Text(AREAS[letter], style="bold"), table, Text()]
    said = f"{len(rules)} rules, {sum(rule.preview for rule in rules)} of them only with --preview"
    return Group(*parts, Text(f"{said}; --explain F06 explains one", style="dim"))
