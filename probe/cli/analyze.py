"""`probe analyze`: where the time goes in a run or trace."""

from __future__ import annotations

from pathlib import Path

import typer


def command(
    source: Path = typer.Argument(
        None, help="Run directory or trace (.json, .json.gz); by default the newest run under ./runs.", show_default=False
    ),
    ceilings: Path = typer.Option(None, help="Measured ceilings to use, instead of those stored for the device."),
    top: int = typer.Option(12, min=1, help="How many operators to list."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object (probe.analysis/1)."),
    md: Path = typer.Option(None, "--md", help="Write the report as Markdown to this file."),
) -> None:
    """Show where the time goes: steps, operators and kernels."""
    from probe import api
    from probe.cli.output import console, print_json, write_text
    from probe.report import analysis as terminal
    from probe.report import markdown

    found = api.analyze(source, ceilings=ceilings)
    if md is not None:
        write_text(md, markdown.render(found, top))
    if as_json:
        print_json(found.to_json())
    else:
        console().print(terminal.render(found, top))
