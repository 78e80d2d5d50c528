"""`probe run microbench`: measure this machine's ceilings, store them, draw the roofs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from probe.cli.options import AsJson

if TYPE_CHECKING:
    from probe.measurement import MicrobenchResult
    from probe.microbench.run import Progress


def command(
    suites: Annotated[
        Optional[list[str]], typer.Argument(metavar="[SUITE]...", help="What to measure; by default everything.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N.")] = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="A first impression in seconds.")] = False,
    list_suites: Annotated[bool, typer.Option("--list", help="List the suites and what each one answers.")] = False,
    as_json: AsJson = False,
    output: Annotated[Optional[Path], typer.Option("-o", "--output", help="Write the JSON object to a file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Let -o overwrite a file.")] = False,
) -> None:
    """Measure this machine's ceilings, store them for later analyses, and draw the roofs."""
    from probe.cli.output import console, print_json, refuse_overwrite, write_text
    from probe.microbench.run import SUITES, Options, measure
    from probe.report.microbench import render, render_suites
    from probe.schema import to_jsonable

    if list_suites and as_json:
        print_json({"suites": [{"name": s.name, "question": s.question} for s in SUITES.values()]})
        return
    if list_suites:
        render_suites(SUITES, console())
        return
    refuse_overwrite(output, force)
    with _progress() as progress:
        result = measure(Options(tuple(suites or ()), device, quick), progress)
    result = _store(result)
    content = to_jsonable(result)
    if output is not None:
        write_text(output, json.dumps(content, indent=2, allow_nan=False) + "\n")
    if as_json:
        print_json(content)
    else:
        render(result, console())
    if result.interrupted:
        raise KeyboardInterrupt


def _store(result: MicrobenchResult) -> MicrobenchResult:
    """Keep the ceilings for later analyses; where that fails the result says so."""
    from dataclasses import replace

    from probe import store

    warning = store.keep(result.ceilings, result.device)
    return replace(result, warnings=(*result.warnings, warning)) if warning else result


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """A progress bar on standard error where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    from probe.cli.output import console

    with Bar(TextColumn("{task.description:18}"), BarColumn(), TimeElapsedColumn(), console=console(stderr=True),
             transient=True) as bar:  # fmt: skip
        task = bar.add_task("starting", total=1.0)

        def show(suite: str, fraction: float) -> None:
            bar.update(task, description=suite, completed=fraction)

        yield show
