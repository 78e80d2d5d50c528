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
from probe.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from probe.microbench.run import Progress
    from probe.results.measurement import MicrobenchResult


def command(
    suites: Annotated[
        Optional[list[str]], typer.Argument(metavar="SUITE", help="What to measure; by default everything.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N.")] = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="A first impression in seconds.")] = False,
    list_suites: Annotated[bool, typer.Option("--list", help="List the suites and what each one answers.")] = False,
    as_json: AsJson = False,
    html: Annotated[Optional[Path], typer.Option("--html", help="Write one self-contained page to this file.")] = None,
    output: Annotated[Optional[Path], typer.Option("-o", "--output", help="Write the JSON object to a file.")] = None,
    path: Annotated[
        Optional[Path], typer.Option("--path", help="Directory whose storage is measured; by default this one.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Let -o overwrite a file.")] = False,
) -> None:
    """Measure this machine's ceilings, store them for later analyses, and draw the roofs."""
    from probe.cli.output import console, print_json, refuse_overwrite, refuse_unwritable, write_text
    from probe.launchers import launched_rank
    from probe.microbench.run import SUITES, Options, measure
    from probe.report import microbench_html
    from probe.report.microbench import render, render_suites
    from probe.schema import to_jsonable

    if list_suites and as_json:
        print_json({"suites": [{"name": s.name, "question": s.question} for s in SUITES.values()]})
        return
    if list_suites:
        render_suites(SUITES, console())
        return
    refuse_overwrite(output, force)
    refuse_unwritable(output, html)
    if path is not None and not path.is_dir():
        raise UsageError(f"--path {path}: no such directory; name one that you may write in")
    place = launched_rank()
    if place.ranks > 1 and suites != ["collectives"]:
        raise UsageError(
            f"started as {place.ranks} ranks, which measure only collectives together; name that suite, or start one "
            "process for the others"
        )
    with _progress(shown=place.rank == 0) as progress:
        result = measure(Options(tuple(suites or ()), device, quick, path), progress)
    if place.rank:
        return  # the first rank has the result of all
    if suites and not result.measurements and not result.interrupted:
        raise UnavailableError("; ".join(f"{entry.suite}: {entry.reason}" for entry in result.unsupported))
    result = _store(result)
    content = to_jsonable(result)
    if output is not None:
        write_text(output, json.dumps(content, indent=2, allow_nan=False) + "\n")
    if html is not None:
        write_text(html, microbench_html.render(result))
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
def _progress(shown: bool) -> Iterator[Progress | None]:
    """A progress bar on standard error where that is a terminal."""
    if not shown or not sys.stderr.isatty():
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
