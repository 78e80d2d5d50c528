"""`probe repro`: one operator of a run as a script of its own, with the command that profiles its kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from probe.cli.options import CeilingsFile, SourceArgument


def command(
    op: Annotated[int, typer.Option("--op", min=0, help="The operator, by ops[].index of probe analyze.")],
    source: SourceArgument = None,
    output: Annotated[
        Optional[Path], typer.Option("-o", "--output", help="File to write; by default standard output.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Let -o overwrite a file.")] = False,
    ceilings: CeilingsFile = None,
) -> None:
    """Write a standalone script that runs one operator on its recorded shapes, and the ncu command for its kernels.

    The script needs torch alone. It takes sizes, strides, types and numbers from the trace; values are random. It
    warms up, times many windows and prints their median; with --once it makes one call, for a profiler. --ceilings:
    as they were given to probe analyze, whose order of operators depends on them.
    """
    from probe import api
    from probe.cli.output import console, refuse_overwrite, refuse_unwritable, write_text
    from probe.repro.recorded import Recording
    from probe.repro.script import profiler_command, script

    refuse_overwrite(output, force)
    refuse_unwritable(output)
    call = Recording(api.analyze(source, ceilings=ceilings), api.load(source)).call(op)
    file = str(output) if output is not None else "repro.py"
    text = script(call, file)
    if output is None:
        typer.echo(text, nl=False)
        return
    write_text(output, text)
    out = console()
    out.print(f"{output}: {call.name}; run it with: python {output}", markup=False, soft_wrap=True)
    profile = profiler_command(call, file)
    out.print(profile or "no kernels: it was recorded on a CPU", markup=False, soft_wrap=True)
