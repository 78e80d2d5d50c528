"""How is a list of runs shown? Two lines a run, the newest first; one line a value of a tag."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from probe.report.conditions import usd
from probe.report.text import printable, shorten
from probe.runs.run_list import Group, ListedRun, RunList
from probe.units import UNKNOWN, format_bytes, format_si, format_time

AGES = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
STYLES = {"finished": "green", "running": "cyan"}
NAME_WIDTH = 40


def render(found: RunList) -> RenderableType:
    """All of it, for a terminal."""
    blocks: list[RenderableType] = []
    if found.by is not None:
        blocks += [_groups(found), *_marked(found)]
    else:
        for row in found.runs:
            blocks += _lines(row, Path(found.directory))
    if not found.runs:
        blocks.append(Text(f"no runs in {printable(found.directory)}; record one with probe.profile()"))
    blocks += [Text.assemble(("! ", "yellow"), printable(warning)) for warning in found.warnings]
    return Lines(*blocks)


def _lines(row: ListedRun, directory: Path) -> Iterator[Text]:
    """The first says which run and how it went, the second what it was."""
    status = row.status or "damaged"
    name = shorten(printable(name_of(row, directory)), NAME_WIDTH)
    yield Text.assemble(
        (name, "bold"), "  ", (f"{age(row.age_s)} ago" if row.age_s is not None else "", "dim"), "  ",
        (printable(status), STYLES.get(status, "red")), f"  {_steps(row)}",
    )  # fmt: skip
    if row.status is not None:
        yield Text("  " + " · ".join(printable(word) for word in _facts(row)), style="dim")
    if row.problem:
        yield Text.assemble(("  ! ", "yellow"), printable(row.problem))


def name_of(row: ListedRun, directory: Path) -> str:
    """The run as seen from the directory; its own name where that is the run."""
    path = Path(row.path)
    return path.name if path == directory else str(path.relative_to(directory))


def age(seconds: float | None) -> str:
    """3 d, 5 h, 12 min, 9 s."""
    if seconds is None:
        return UNKNOWN
    for scale, unit in AGES:
        if seconds >= scale:
            return f"{int(seconds // scale)} {unit}"
    return "0 s"


def _steps(row: ListedRun) -> str:
    if not row.steps:
        return "no steps" if row.steps == 0 else ""
    each = f" of {format_time(row.step_s)}" if row.step_s is not None else ""
    bound = f", {row.bound}-bound" if row.bound and row.bound != "unknown" else ""
    return f"{row.steps} step{'s' * (row.steps != 1)}{each}{bound}"


def _facts(row: ListedRun) -> Iterator[str]:
    if row.script:
        yield row.script
    if row.device:
        yield f"{row.ranks} × {row.device}" if row.ranks and row.ranks > 1 else row.device
    yield f"{row.traces} trace{'s' * (row.traces != 1)}, {format_bytes(row.bytes)}"
    if row.energy_j is not None:
        yield format_si(row.energy_j, "J")
    if row.cost_usd is not None:
        more = [f"{usd(v)} {w}" for v, w in ((row.idle_usd, "idle"), (row.recoverable_usd, "recoverable")) if v]
        yield usd(row.cost_usd) + (f" ({', '.join(more)})" if more else "")
    for key, value in (row.tags or {}).items():
        yield f"{key}={value}"


def _groups(found: RunList) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column(printable(found.by or ""))
    for title in ("runs", "time", "device hours", "energy", "cost", "unusual"):
        table.add_column(title, justify="right", no_wrap=True)
    for group in found.groups:
        table.add_row(*_cells(group))
    return table


def _cells(group: Group) -> list[str]:
    part = f" ({group.energy_runs} runs)" if 0 < group.energy_runs < group.runs else ""
    return [
        printable(group.value) if group.value is not None else "(without)",
        str(group.runs),
        format_time(group.duration_s),
        format_si(group.device_hours, ""),
        format_si(group.energy_j, "J") + part,
        usd(group.cost_usd),
        str(len(group.unusual)) if group.unusual_by else UNKNOWN,
    ]


def _marked(found: RunList) -> Iterator[Text]:
    """The runs that used unusually much, each by name."""
    rows = {row.path: row for row in found.runs}
    for group in found.groups:
        for path in group.unusual:
            shown = _amount(group.unusual_by, getattr(rows[path], group.unusual_by or ""))
            text = f"{name_of(rows[path], Path(found.directory))}: {shown}, far above the others of "
            yield Text.assemble(
                ("! ", "yellow"),
                printable(
                    text + (f"{found.by}={group.value}" if group.value is not None else f"those without {found.by}")
                ),
            )


def _amount(measure: str | None, amount: float) -> str:
    """What was spent, with its unit."""
    if measure == "cost_usd":
        return usd(amount)
    return format_si(amount, "J") if measure == "energy_j" else f"{format_si(amount, '')} device hours"
