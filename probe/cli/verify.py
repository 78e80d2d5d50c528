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
    budget: Annotated[float, typer.Option(min=1.0, help="Seconds for all of them together.")] = 300.0,
    ceilings: CeilingsFile = None,
    as_json: AsJson = False,
) -> None:
    """Run each suggested replacement on the recorded shapes: accept, reject, inconclusive or trade."""
    from probe import api
    from probe.cli.output import console, print_json
    from probe.report.verification import render

    found = api.verify(source, codes=[c.upper() for c in code or ()], op=op, budget_s=budget, ceilings=ceilings)
    if as_json:
        print_json({**found.to_json(), "candidates": []})
    else:
        console().print(render(found))
