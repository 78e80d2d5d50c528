"""`probe analyze`: where the time goes in a run or trace, what bounds it, what to change first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from probe.cli.options import (
    AsJson,
    CeilingsFile,
    CountersFile,
    Engine,
    Jobs,
    Price,
    Ranks,
    ScalingBy,
    Sources,
    Steps,
    Window,
    engine_of,
    ranks_of,
    scaling_of,
    steps_of,
    window_of,
)
from probe.errors import UsageError

_TOLD = ("code", "name", "title", "trigger", "advice", "saving", "cannot_show", "proof", "effort", "needs", "preview")


def command(
    sources: Sources = None,
    ceilings: CeilingsFile = None,
    device: Annotated[
        Optional[str], typer.Option(help="The device, where the trace does not name it, by its datasheet's name.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many operators to list.")] = 10,
    as_json: AsJson = False,
    html: Annotated[Optional[Path], typer.Option("--html", help="Write one self-contained page to this file.")] = None,
    md: Annotated[Optional[Path], typer.Option("--md", help="Write the report as Markdown to this file.")] = None,
    figure: Annotated[
        Optional[Path], typer.Option("--figure", help="Draw the roofline to this .svg, .png or .pdf. Needs kaleido.")
    ] = None,
    theme: Annotated[str, typer.Option("--theme", help="Of --figure: light or dark.")] = "light",
    fail_on: Annotated[
        Optional[str],
        typer.Option(
            "--fail-on",
            help="Exit with 3 where one of these holds: saving>10%, step>200ms, peak_memory>20GiB, code=F06.",
        ),
    ] = None,
    steps: Steps = None,
    window: Window = None,
    ranks: Ranks = None,
    counters: CountersFile = None,
    scaling: ScalingBy = None,
    engine: Engine = None,
    jobs: Jobs = None,
    price: Price = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Ask the rules too that no program or trace tests yet; marked as such.")
    ] = False,
    explain: Annotated[Optional[str], typer.Option("--explain", help="Explain a rule by its code (F06).")] = None,
) -> None:
    """Show where the time goes, what bounds it, and what to change first. Exit code 3: a --fail-on condition held."""
    from probe import api
    from probe.cli.conditions import parse
    from probe.cli.output import console, print_json, progress_bar, refuse_unwritable, write_text
    from probe.examine import timelines
    from probe.report import analysis as terminal
    from probe.report import markdown

    if explain is not None:
        _explain(explain, as_json=as_json)
        return
    conditions = parse(fail_on) if fail_on is not None else ()
    refuse_unwritable(md, html, figure)
    if figure is not None:
        from probe.dashboard.figures import saved

        saved.refuse(figure, theme)
    elif theme != "light":
        raise UsageError(f"--theme {theme}: it is the figure's; give --figure, too")
    with progress_bar() as progress:
        found = api.analyze(
            sources, ceilings=ceilings, device=device, steps=steps_of(steps), window_s=window_of(window),
            ranks=ranks_of(ranks), counters=counters, scaling=scaling_of(scaling), engine=engine_of(engine), jobs=jobs,
            progress=progress, preview=preview, price=price,
        )  # fmt: skip
    if md is not None:
        write_text(md, markdown.render(found, top))
    if html is not None:
        write_text(html, timelines.page(found, top, sources, steps_of(steps), window_of(window)))
    if as_json:
        print_json(found.to_json())
    else:
        console().print(terminal.render(found, top))
    if figure is not None:
        saved.save(found, figure, theme)
    for condition in conditions:
        condition.check(found)


def _explain(code: str, *, as_json: bool) -> None:
    """What a rule looks for, or all of them."""
    from probe.cli.output import console, print_json
    from probe.report import rules

    if not as_json:
        console().print(rules.render(code))
        return
    asked = rules.in_order() if code.lower() == rules.ALL else [rules.find(code)]
    print_json({"schema": "probe.rules/1", "rules": [{name: getattr(rule, name) for name in _TOLD} for rule in asked]})
