"""`probe export`: a trace for Perfetto, its tables for pandas or a spreadsheet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from probe.cli.options import Ranks, Steps, Window, ranks_of, steps_of, window_of
from probe.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from probe.export.written import Written

_TABLES = "ops, runtime_calls, kernels, copies, annotations, collectives or steps"


def command(
    sources: Annotated[
        list[str],  # not Paths, which would mend the slashes of an address
        typer.Argument(
            metavar="SOURCE",
            help="Run directory, trace (.json, .json.gz, .sqlite), or the traces of ranks: files, a "
            "directory, a pattern.",
        ),
    ],
    output: Annotated[
        Optional[str],
        typer.Option(
            "-o",
            "--output",
            help="File to write, zipped for .gz; a directory for several CSV or Parquet tables. "
            "By default a new name in the current directory, made of the source's.",
        ),
    ] = None,
    format: Annotated[
        Optional[str],
        typer.Option(
            "--format",
            help="chrome (opens in Perfetto; all ranks in one file), csv, parquet or json. By default that of -o's "
            "ending, else chrome.",
        ),
    ] = None,
    table: Annotated[
        Optional[list[str]],
        typer.Option(
            "--table",
            help=f"Table to write: {_TABLES}; may be repeated. By default all of them, but ops where -o names a CSV or "
            "Parquet file, which holds one.",
        ),
    ] = None,
    steps: Steps = None,
    window: Window = None,
    ranks: Ranks = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
) -> None:
    """Write a trace for other tools: Chrome JSON, or tables with names resolved and times in nanoseconds (_ns).

    Times count from the first event of all ranks; JSON and Parquet say when that was (origin_unix_ns). The clocks of
    several ranks are set by the collectives they share. In CSV, text that a spreadsheet would take for a formula (it
    begins with = + - or @) gets an apostrophe in front.
    """
    from probe import api
    from probe.cli.output import progress_bar
    from probe.export import targets

    if output in ("", "-"):
        raise UsageError(f"-o {output!r}: no name of a file; give one, or leave -o out")
    source = sources[0]
    target = targets.choose(source, output, format, table or ())
    targets.refuse(target, source, force)
    with progress_bar() as progress:
        traces = api.load_all(
            sources, steps=steps_of(steps), window_s=window_of(window), ranks=ranks_of(ranks), progress=progress
        )
        files = targets.write(target, traces, progress)
    _tell(files)


def _tell(files: Iterable[Written]) -> None:
    """Each file with its rows, warnings once on standard error; nothing where the content itself went to a pipe."""
    from probe.cli.output import console
    from probe.report.text import printable

    warnings: dict[str, None] = {}
    for written in files:
        warnings.update(dict.fromkeys(written.warnings))
        if written.path.is_file():
            unit = written.unit.removesuffix("s") if written.rows == 1 else written.unit
            text = f"{written.path}: {written.rows:,} {unit}"
            console().print(printable(text), markup=False, soft_wrap=True)
    for warning in warnings:
        console(stderr=True).print(f"warning: {printable(warning)}", markup=False, soft_wrap=True)
