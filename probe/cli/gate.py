"""`probe gate`: is this code slower than that, run in turn on this machine; which operator, and why?"""

from __future__ import annotations

import sys
from typing import Annotated, Optional

import typer

from probe.cli.options import AsJson
from probe.errors import GateFailed

app = typer.Typer(no_args_is_help=True, help="Fail for real regressions, and say which operator and why.")

CommandWords = Annotated[
    Optional[list[str]],
    typer.Argument(metavar="-- COMMAND…", help="python train.py …, or FILE.py:FUNCTION whose call is a step."),
]


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


@app.command("check")
def check(
    command: CommandWords = None,
    against: Annotated[str, typer.Option("--against", metavar="GITREF", help="The base, in a worktree.")] = "HEAD",
    budget: Annotated[Optional[float], typer.Option(help="Seconds for all of it; by default 180.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail where it is not known, too.")] = False,
    step_on: Annotated[
        Optional[str], typer.Option("--step-on", metavar="[MODULE:]FUNCTION", help="A step is a call of this.")
    ] = None,
    install: Annotated[
        bool, typer.Option(help="Give the base an environment of its own where its requirements differ.")
    ] = True,
    as_json: AsJson = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
) -> None:
    """Run the base and the working tree in turn: pass, fail (exit code 3) or inconclusive."""
    from probe.cli.output import console, print_json
    from probe.gate.check import BUDGET_S, Request
    from probe.gate.check import check as run_check
    from probe.gate.command import command_of
    from probe.report.gate import render

    request = Request(command_of(command or [], step_on), against, budget_s=budget or BUDGET_S, install=install)
    result = run_check(request, _say)
    if as_json:
        print_json(result.to_json())
    else:
        console().print(render(result))
    if result.verdict == "fail" or (strict and result.verdict == "inconclusive"):
        raise GateFailed(f"the gate {'failed' if result.verdict == 'fail' else 'is inconclusive'}: {result.summary}")
