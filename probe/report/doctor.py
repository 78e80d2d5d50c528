"""How does `probe doctor` look in a terminal? First what does not work and its one step, then the rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rich.console import Console
from rich.table import Table
from rich.text import Text

from probe.doctor.check import NOTHING, Check, Doctor

MARKS = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("–", "dim")}
# For terminals that cannot show them; what is not listed becomes "?".
ASCII = str.maketrans({"✓": "+", "✗": "x", "–": "-", "→": ">", "×": "x", "·": "|", "…": "...", "µ": "u"})
NAME_WIDTH = 18


def render(doctor: Doctor, console: Console) -> None:
    """Print the checks: to mend, working, and those that do not apply; then a summary line."""
    plain = console.options.ascii_only
    _line(console, _title(doctor), plain)
    for heading, ok, style in (
        ("To mend", False, "bold red"),
        ("Works", True, "bold green"),
        ("Does not apply, or cannot be known", None, "bold"),
    ):
        checks = [check for check in doctor.checks if check.ok is ok]
        if checks:
            _line(console, Text(f"\n{heading}", style=style), plain)
            console.print(_table(checks, ok, plain))
    for warning in doctor.warnings:
        _line(console, Text(f"warning: {warning}", style="yellow"), plain)
    _line(console, _summary(doctor), plain)


def _title(doctor: Doctor) -> Text:
    described = doctor.environment
    system = str(described.get("os") or "").partition(",")[0]
    torch = f"torch {described['torch']}" if described.get("torch") else "no torch"
    parts = (system, f"Python {described.get('python')}", torch)
    return Text.assemble(("probe doctor", "bold"), "  ", (" · ".join(filter(None, parts)), "dim"))


def _table(checks: list[Check], ok: bool | None, plain: bool) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column(width=NAME_WIDTH, overflow="fold")
    table.add_column(ratio=1, overflow="fold")
    for row in _rows(checks, ok):
        table.add_row(*(_plain(cell) if plain else cell for cell in row))
    return table


def _rows(checks: list[Check], ok: bool | None) -> Iterable[tuple[Text, Text, Text]]:
    if ok is None:
        yield from _compact(checks)
        return
    group = None
    for check in _merged(checks):
        if ok and check.group != group:
            group = check.group
            yield Text(), Text(group, style="dim italic"), Text()
        yield _mark(ok), Text(check.name), Text(check.found)
        if not ok:
            yield Text(), Text(), Text(check.means, style="dim")
            yield Text(), _arrow(), Text(check.remedy or NOTHING, style="bold")


def _merged(checks: list[Check]) -> Iterable[Check]:
    """`checks` with those of several GPUs that say the same in one: "PCIe 0, 1, 2, 3"."""
    alike: dict[tuple[str, ...], list[Check]] = {}
    for check in checks:
        stem, _, number = check.name.rpartition(" ")
        name = stem if number.isdigit() else check.name
        alike.setdefault((name, check.found, check.means, check.remedy or ""), []).append(check)
    for (stem, *_), same in alike.items():
        numbers = ", ".join(check.name.rpartition(" ")[2] for check in same)
        yield replace(same[0], name=f"{stem} {numbers}") if len(same) > 1 else same[0]


def _compact(checks: list[Check]) -> Iterable[tuple[Text, Text, Text]]:
    """One row for all checks that found the same thing: without a GPU that is a dozen."""
    alike: dict[tuple[str, str | None], list[Check]] = {}
    for check in _merged(checks):
        alike.setdefault((check.found, check.remedy), []).append(check)
    for (found, remedy), same in alike.items():
        says = Text(found, style="dim")
        if len(same) > 1:
            says.append(f": {', '.join(check.name for check in same[1:])} too; {same[0].means}")
        yield _mark(None), Text(same[0].name), says
        if remedy and remedy != NOTHING:
            yield Text(), _arrow(), Text(remedy)


def _mark(ok: bool | None) -> Text:
    symbol, style = MARKS[ok]
    return Text(symbol, style=style)


def _arrow() -> Text:
    """Points at a remedy from the column before it, so that the remedy's lines stay aligned."""
    return Text("→", justify="right")


def _summary(doctor: Doctor) -> Text:
    counts = {ok: sum(check.ok is ok for check in doctor.checks) for ok in MARKS}
    rest = f"{counts[True]} work, {counts[None]} do not apply or cannot be known"
    if counts[False]:
        return Text(f"\n{counts[False]} to mend, {rest}.", style="bold")
    return Text(f"\nNothing to mend: {rest}.", style="bold green")


def _line(console: Console, text: Text, plain: bool) -> None:
    console.print(_plain(text) if plain else text)


def _plain(text: Text) -> Text:
    """`text` in ASCII, its styles kept; replacements are of one character, but for the ellipsis."""
    if text.plain.isascii():
        return text
    ascii_only = text.plain.translate(ASCII).encode("ascii", "replace").decode()
    return Text(ascii_only, style=text.style, justify=text.justify)
