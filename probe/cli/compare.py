"""`probe compare`: what got faster or slower between two runs, traces or files of microbenchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from probe.cli.options import AsJson

_KINDS = "Run directory or trace; or a file of `probe run microbench -o`."


def command(
    base: Annotated[str, typer.Argument(metavar="BASE", help=f"Before. {_KINDS}")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="After; of the same kind.")],
    top: Annotated[int, typer.Option(min=1, help="How many operators or benchmarks to list.")] = 15,
    as_json: AsJson = False,
    md: Annotated[Optional[Path], typer.Option("--md", help="Write the report as Markdown to this file.")] = None,
) -> None:
    """Show what got faster or slower from BASE to NEW, per operator or benchmark, with intervals. Noise shows as ~.

    A ratio is always a speed-up: BASE's time by NEW's, or NEW's rate by BASE's; above 1 NEW is faster. The exit code
    says nothing of the verdict.
    """
    from probe.cli.output import console, print_json, progress_bar, refuse_unwritable, write_text
    from probe.examine.sides import compare
    from probe.examine.sources import refuse_absent
    from probe.report import compare as terminal
    from probe.report import compare_markdown

    refuse_unwritable(md)
    refuse_absent(base, new)
    with progress_bar() as progress:
        found = compare(base, new, progress=progress)
    if md is not None:
        write_text(md, compare_markdown.render(found))
    if as_json:
        print_json(found.to_json())
    else:
        console().print(terminal.render(found, top))
