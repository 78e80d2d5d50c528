"""`probe verify`: run each suggested replacement on the recorded shapes, and say whether it helps."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from probe.cli.options import MOST_SECONDS, AsJson, CeilingsFile, SourceArgument, code_of
from probe.errors import UsageError


def command(
    source: SourceArgument = None,
    code: Annotated[
        Optional[list[str]], typer.Option("--code", help="Only suggestions of this rule (F06); may be repeated.")
    ] = None,
    op: Annotated[
        Optional[int], typer.Option("--op", min=0, help="Only suggestions that concern this operator (ops[].index).")
    ] = None,
    candidate: Annotated[
        Optional[str],
        typer.Option("--candidate", metavar="FILE.py:FUNCTION", help="Your own kernel in place of --op or --code."),
    ] = None,
    command_words: Annotated[
        Optional[list[str]],
        typer.Argument(metavar="-- COMMAND…", help="With --apply: the program; by default the run's own."),
    ] = None,
    apply: Annotated[
        Optional[str],
        typer.Option("--apply", metavar="MODULE:FUNC", help="Measure whole steps with and without this change."),
    ] = None,
    budget: Annotated[float, typer.Option(min=1.0, max=MOST_SECONDS, help="Seconds for all of them together.")] = 300.0,
    ceilings: CeilingsFile = None,
    md: Annotated[bool, typer.Option("--md", help="Print Markdown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run each suggested replacement on the recorded shapes: accept, reject, inconclusive or trade.

    Each runs in a process of its own. --candidate is called with the tensors (and numbers) that the recorded operator
    was given, in their order; of a chain, with the tensors that come from outside. probe repro writes a start.
    --apply runs the program with and without a change of yours: FUNC() is called before its first line, FUNC(model)
    when the first optimizer is made.
    """
    codes = [code_of("--code", one) for one in code or ()]
    if apply is not None:
        other = op is not None or candidate is not None or md
        _apply(source, apply, command_words or [], codes, budget, as_json=as_json, other=other)
        return
    if command_words:
        raise UsageError(f"{' '.join(command_words)}: a program is only run with --apply MODULE:FUNC")
    from probe import api
    from probe.cli.output import console, print_json
    from probe.report.verification import as_markdown, render

    found = api.verify(source, codes=codes, op=op, budget_s=budget, ceilings=ceilings, candidate=candidate)
    if as_json:
        print_json(found.to_json())
    elif md:
        typer.echo(as_markdown(found.analysis, found.candidates), nl=False)
    else:
        console().print(render(found.analysis, found.candidates))


def _apply(
    source: str | None, apply: str, words: list[str], codes: list[str], budget: float, *, as_json: bool, other: bool
) -> None:
    """Whole steps, with and without the change."""
    from probe import api
    from probe.cli.output import print_json
    from probe.report.step_effect import lines_of

    if other:
        raise UsageError("--apply measures whole steps; --op, --candidate and --md are for single suggestions")
    found = api.step_effect(
        source, apply=apply, command=words, codes=codes, budget_s=budget,
        progress=lambda text: typer.echo(text, err=True),
    )  # fmt: skip
    if as_json:
        print_json(found.to_json())
    else:
        typer.echo("\n".join(lines_of(found)))
