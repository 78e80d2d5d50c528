"""A projection on one screen: the sentence with its interval, the table, what moves most, and how far off it may be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from probe.analyzers.projection.result import OpMoved, TargetStep, WhatIfResult
from probe.report.text import printable, shorten
from probe.units import UNKNOWN, format_bytes, format_fraction, format_si, format_time, significant

WIDTH = 80


def render(found: WhatIfResult, top: int = 8) -> RenderableType:
    """The report as rich text, 80 columns wide."""
    blocks: list[RenderableType] = [_head(found)]
    blocks += [_sentence(found, one) for one in found.targets] if len(found.targets) <= 3 else []
    blocks += [Text(), _table(found)]
    if len(found.targets) == 1:
        blocks += _one(found.targets[0], top)
    return Group(*blocks, Text(), *_notes(found))


def as_text(found: WhatIfResult, top: int = 8) -> str:
    """The report as plain text."""
    console = Console(width=WIDTH, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(render(found, top))
    return capture.get()


def _head(found: WhatIfResult) -> Text:
    path, device = printable(found.base.source), printable(found.base.device)
    return Text.assemble((shorten(path, 44), "bold"), (f"  {shorten(device, 30)}", "dim"))


def _sentence(found: WhatIfResult, one: TargetStep) -> Text:
    low, high = (format_time(s) for s in one.interval_s)
    change = f", {', '.join(map(printable, one.changed))}" if one.changed else ""
    where = f"on {one.device}" + (f" × {one.ranks}" if one.ranks > 1 else "")
    return Text(
        f"The step of {format_time(found.base.step_s)} would take {format_time(one.step_s)} ({low} to {high})"
        f" {where}{change}: {one.speedup:.2f}×, bound by {one.bound}."
    )


def _table(found: WhatIfResult) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("device", max_width=18, no_wrap=True)
    for name in ("step ms", "interval ms", "×", "bound", "$/h", "$/1000", "J", "fits"):
        table.add_column(name, justify="left" if name in ("bound", "fits") else "right", no_wrap=True)
    for one in found.targets:
        table.add_row(
            shorten(printable(one.device), 18), significant(one.step_s * 1e3), _interval(one), f"{one.speedup:.2f}",
            one.bound if len(one.bound) < 10 else f"{one.bound[:7]}…",
            UNKNOWN if one.usd_per_hour is None else f"{one.usd_per_hour:.2f}",
            UNKNOWN if one.usd_per_step is None else significant(one.usd_per_step * 1000, 2),
            UNKNOWN if one.j_per_step is None else format_si(one.j_per_step, ""),
            UNKNOWN if one.fits is None else "yes" if one.fits else "no",
        )  # fmt: skip
    return table


def _interval(one: TargetStep) -> str:
    return "–".join(significant(seconds * 1e3) for seconds in one.interval_s)


def _one(target: TargetStep, top: int) -> Iterator[RenderableType]:
    if target.communication:
        yield Text("\ncommunication of a rank per step", style="bold")
        yield _communication(target)
        yield from _curve(target)
    changing = [op for op in target.ops if op.after_s != op.before_s][:top]
    if changing:
        yield Text("\nwhat changes most", style="bold")
        yield _ops(changing)


def _communication(target: TargetStep) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for name in ("", "", "ranks", "volume", "takes", "exposed", "over"):
        table.add_column(name, justify="right" if name else "left")
    for c in target.communication:
        volume, times = format_bytes(c.volume_bytes), (format_time(c.time_s), format_time(c.exposed_s))
        table.add_row(c.what, c.kind, str(c.ranks), volume, *times, shorten(c.link, 24))
    return table


def _curve(target: TargetStep) -> Iterator[RenderableType]:
    told = ", ".join(f"{p.ranks}: {format_fraction(p.efficiency_fraction, 0)}" for p in target.curve)
    yield Text(f"kept of a rank's throughput at so many ranks: {told}")
    if target.crossover_ranks is not None:
        yield Text(f"from {target.crossover_ranks} ranks on communication and bubble take half of the step or more")


def _ops(ops: Sequence[OpMoved]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for name, width in (("", 30), ("before", 10), ("after", 10), ("bound", 26)):
        justify = "right" if width == 10 else "left"
        table.add_column(name, max_width=width, no_wrap=True, justify=justify)  # type: ignore[arg-type]
    for op in ops:
        same = op.bound_before == op.bound_after
        bound = op.bound_before if same else f"{op.bound_before} → {op.bound_after}"
        table.add_row(shorten(printable(op.name), 30), format_time(op.before_s), format_time(op.after_s), bound)
    return table


def _notes(found: WhatIfResult) -> Iterator[Text]:
    v = found.validation
    if v.median_error_fraction is None:
        yield Text(f"how far off: {v.of}", style="yellow")
    else:
        worst = f", worst {format_fraction(v.worst_error_fraction)}" if v.worst_error_fraction is not None else ""
        yield Text(f"how far off: median {format_fraction(v.median_error_fraction)}{worst}, n = {v.n} ({v.of})")
    for price in dict.fromkeys(one.price_origin for one in found.targets if one.price_origin):
        yield Text(f"· prices: {price}", style="dim")
    for text in found.assumptions:
        yield Text(f"· {text}", style="dim")
    for text in found.warnings:
        yield Text(f"! {printable(text)}", style="yellow")
