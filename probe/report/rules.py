"""A rule of the catalogue explained."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from probe.analyzers.rules.catalogue import RULES
from probe.errors import UsageError


def render(code: str) -> RenderableType:
    """What a rule looks for, what it advises, how the saving is estimated, what a trace leaves open."""
    rule = next((r for r in RULES if r.code == code.upper()), None)
    if rule is None:
        raise UsageError(f"no rule {code!r}; there are {', '.join(sorted(r.code for r in RULES))}")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(max_width=62)
    for label, text in (
        ("found by", rule.trigger),
        ("do", rule.advice),
        ("saving", rule.saving),
        ("not in a trace", rule.cannot_show),
    ):
        table.add_row(label, text)
    return Group(Text.assemble((f"{rule.code} {rule.name}", "bold"), f"  {rule.title}"), table)
