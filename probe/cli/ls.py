"""`probe ls`: the recorded runs of a directory, and what they used by team or project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from probe.cli.options import AsJson, Price


def command(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where to look, and in the directories below it.")
    ] = Path("runs"),
    by: Annotated[
        Optional[str],
        typer.Option("--by", metavar="TAG", help="Add up time, energy and cost by this tag; mark unusual spending."),
    ] = None,
    price: Price = None,
    as_json: AsJson = False,
) -> None:
    """List the recorded runs, the newest first: how they ended, steps, device, size, energy, cost, tags."""
    from probe.cli.output import console, print_json
    from probe.price import prices
    from probe.report.runs import render
    from probe.runs.run_list import list_runs

    found = list_runs(directory, prices(price, Path.cwd()), by)
    if as_json:
        print_json(found.to_json())
    else:
        console().print(render(found), soft_wrap=True)
