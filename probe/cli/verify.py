"""`probe verify`: run each suggested replacement on the recorded shapes, and say whether it helps."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from probe.cli.options import AsJson, CeilingsFile, SourceArgument


def command(
    source: SourceArgument = None,
    code: Annotated[
        Optional[list[str]], typer.Option("--code", help="Only suggestions of this rule (F06); may be repeated.")
    ] = None,
    op: Annotated[
        Optional[int], typer.Option("--op", help="Only suggestions that concern this operator (ops[].index).")
    ] = None,
    candidate: Annotated[
        Optional[str],
        typer.Option("--candidate", metavar="FILE.py:FUNCTION", help="Your own kernel in place of --op or --code."),
    ] = None,
    budget: Annotated[float, typer.Option(min=1.0, help="Seconds for all of them together.")] = 300.0,
    ceilings: CeilingsFile = None,
    md: Annotated[bool, typer.Option("--md", help="Print Markdown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run each suggested replacement on the recorded shapes: accept, reject, inconclusive or trade.

    Each runs in a process of its own. --candidate is called with the tensors (and numbers) that the recorded operator
    was given, in their order; of a chain, with the tensors that come from outside. probe repro writes a start.
    """
    from probe import api
    from probe.cli.output import console, print_json
    from probe.report.verification import as_markdown, render

    codes = [c.upper() for c in code or ()]
    found = api.verify(source, codes=codes, op=op, budget_s=budget, ceilings=ceilings, candidate=candidate)
    if as_json:
        print_json(found.to_json())
    elif md:
        typer.echo(as_markdown(found.analysis, found.candidates), nl=False)
    else:
        console().print(render(found.analysis, found.candidates))
