"""`probe gate`: is this code slower than that, run in turn on this machine; which operator, and why?"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from probe.cli.options import MOST_SECONDS, AsJson
from probe.errors import GateFailed, UsageError

if TYPE_CHECKING:
    from probe.gate.settings import Settings
    from probe.results.gate_result import GateResult

app = typer.Typer(no_args_is_help=True, help="Fail for real regressions, and say which operator and why.")

CommandWords = Annotated[
    Optional[list[str]],
    typer.Argument(metavar="-- COMMAND…", help="python train.py …, or FILE.py:FUNCTION whose call is a step."),
]
StepOn = Annotated[
    Optional[str], typer.Option("--step-on", metavar="[MODULE:]FUNCTION", help="A step is a call of this.")
]
Budget = Annotated[
    Optional[float], typer.Option(min=1.0, max=MOST_SECONDS, help="Seconds for all of it; by default 180.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")]


@app.command("check")
def check(
    command: CommandWords = None,
    against: Annotated[
        Optional[str], typer.Option("--against", metavar="GITREF", help="The base, in a worktree; by default HEAD.")
    ] = None,
    baseline: Annotated[Optional[Path], typer.Option("--baseline", help="A stored baseline instead.")] = None,
    runs: Annotated[
        Optional[tuple[str, str]], typer.Option("--runs", metavar="BASE NEW", help="Two recorded runs instead.")
    ] = None,
    budget: Budget = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail where it is not known, too.")] = False,
    step_on: StepOn = None,
    install: Annotated[
        bool, typer.Option(help="Give the base an environment of its own where its requirements differ.")
    ] = True,
    junit: Annotated[Optional[Path], typer.Option("--junit", help="Write JUnit XML.")] = None,
    md: Annotated[Optional[Path], typer.Option("--md", help="Write Markdown.")] = None,
    html: Annotated[Optional[Path], typer.Option("--html", help="Write one HTML page.")] = None,
    gitlab: Annotated[Optional[Path], typer.Option("--gitlab", help="Write GitLab's code quality report.")] = None,
    output: Annotated[Optional[Path], typer.Option("-o", help="Write the JSON object.")] = None,
    github: Annotated[
        bool, typer.Option("--github", help="Annotations, step summary and outputs of GitHub Actions.")
    ] = False,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Run the base and the working tree in turn: pass, fail (exit code 3) or inconclusive."""
    from probe.cli.output import refuse_overwrite, refuse_unwritable
    from probe.gate.settings import settings

    if sum(x is not None for x in (against, baseline, runs)) > 1:
        raise UsageError("--against, --baseline and --runs exclude one another; give one of them")
    for path in (junit, md, html, gitlab, output):
        refuse_overwrite(path, force)
    refuse_unwritable(junit, md, html, gitlab, output)
    chosen = settings(Path.cwd())
    for warning in chosen.warnings:
        _say(f"probe: {warning}")
    with _tidy():
        result = _result(command or [], step_on, against, baseline, runs, budget, chosen, install=install)
    _write(result, {"junit": junit, "md": md, "html": html, "gitlab": gitlab, "json": output})
    if github:
        _github(result)
    _show(result, as_json=as_json)
    if result.verdict == "fail" or ((strict or chosen.strict) and result.verdict == "inconclusive"):
        raise GateFailed(f"the gate {'failed' if result.verdict == 'fail' else 'is inconclusive'}: {result.summary}")


def _result(
    words: list[str], step_on: str | None, against: str | None, baseline: Path | None, runs: tuple[str, str] | None,
    budget: float | None, chosen: Settings, *, install: bool,
) -> GateResult:  # fmt: skip
    from probe.gate.check import BUDGET_S, Request
    from probe.gate.check import check as check_against
    from probe.gate.command import command_of

    if runs is not None:
        if words:
            raise UsageError(f"--runs compares what was recorded; {' '.join(words)} would not be run: leave it out")
        from probe.gate.recorded import check_runs

        return check_runs(*runs, chosen.limits)
    command = command_of(words, step_on)
    seconds = budget or chosen.budget_s or BUDGET_S
    if baseline is not None:
        from probe.gate.checkout import here
        from probe.gate.record import check_stored

        return check_stored(baseline, command, here(), chosen.limits, seconds, _say)
    _say("probe: both versions are being started")
    return check_against(Request(command, against or "HEAD", chosen.limits, seconds, install=install), _say)


@app.command("record")
def record(
    command: CommandWords = None,
    baseline: Annotated[Optional[Path], typer.Option("--baseline", help="The file to write; commit it.")] = None,
    budget: Budget = None,
    step_on: StepOn = None,
    force: Force = False,
) -> None:
    """Store what the working tree takes: counts, memory, times, and how much they vary."""
    from probe.cli.output import refuse_overwrite, refuse_unwritable, write_text
    from probe.gate import baseline as stored
    from probe.gate.check import BUDGET_S
    from probe.gate.checkout import here
    from probe.gate.command import command_of
    from probe.gate.record import record as make
    from probe.gate.settings import settings
    from probe.units import format_time

    if baseline is None:
        raise UsageError("probe gate record needs --baseline FILE, to write it to")
    refuse_overwrite(baseline, force)
    refuse_unwritable(baseline)
    parsed = command_of(command or [], step_on)
    made = make(parsed, here(), budget or settings(Path.cwd()).budget_s or BUDGET_S, _say)
    write_text(baseline, stored.as_text(made))
    _say(
        f"probe: {baseline}: {format_time(made.step_s)} a step {stored.spread(made)} between {len(made.sessions)} "
        f"sessions, {len(made.operators)} operators, {len(made.counts)} counts"
    )


@app.command("history")
def history(
    baselines: Annotated[
        list[Path], typer.Argument(metavar="BASELINE", help="Stored baselines, or directories of them.")
    ],
    html: Annotated[Optional[Path], typer.Option("--html", help="Write a page with the curve.")] = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """How the step's time went over many stored baselines, and where it changed."""
    from probe.cli.output import console, print_json, refuse_overwrite, refuse_unwritable, write_text
    from probe.gate.history import history as read_all
    from probe.report import gate_history

    refuse_overwrite(html, force)
    refuse_unwritable(html)
    points = read_all(baselines)
    rows = [gate_history.row(p.path, p.baseline, p.change) for p in points]
    if html is not None:
        write_text(html, gate_history.as_html(rows))
    if as_json:
        print_json({"schema": "probe.gate-history/1", "points": [row.to_json() for row in rows]})
    else:
        console().print(gate_history.render(rows))


@app.command("canary")
def canary(
    command: CommandWords = None,
    baseline: Annotated[
        Optional[Path], typer.Option("--baseline", help="The recorded good run; made where there is none.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0.0, help="Relative difference that is rounding.")] = 1e-3,
    bitwise: Annotated[bool, typer.Option("--bitwise", help="Nothing may differ.")] = False,
    as_json: AsJson = False,
    force: Annotated[bool, typer.Option("--force", help="Record the good run again.")] = False,
) -> None:
    """Run a training program once: does it learn as the recorded good run did?"""
    from contextlib import redirect_stdout

    from probe.cli.output import console, print_json, refuse_unwritable
    from probe.gate import canary as canaries
    from probe.gate.command import command_of
    from probe.report.gate_canary import render

    if baseline is None:
        raise UsageError("probe gate canary needs --baseline FILE; the first run records it")
    refuse_unwritable(baseline)
    parsed = command_of(command or [])
    if parsed.function is not None:
        raise UsageError(f"{parsed}: the canary runs a training program, not a function")
    good = None if force or not baseline.exists() else canaries.load(baseline)
    if good is not None and good.command != str(parsed):
        raise UsageError(
            f"{baseline}: it was recorded of {good.command!r}; give that program, or --force to record anew"
        )
    with redirect_stdout(sys.stderr if as_json else sys.stdout):  # standard output is for the object
        curve, exit_code = canaries.observe(parsed)
    if exit_code:
        raise GateFailed(f"{parsed} failed (exit code {exit_code})")
    if good is None:
        canaries.store(curve, baseline)
        _say(f"probe: {baseline}: a good run of {len(curve.step_s)} steps was recorded")
        if as_json:
            print_json({"schema": canaries.SCHEMA, "verdict": "recorded", "steps": len(curve.step_s)})
        return
    found = canaries.compare(good, curve, tolerance, bitwise=bitwise)
    if as_json:
        print_json(found.to_json())
    else:
        console().print(render(good, curve, found))
    if found.verdict == "fail":
        raise GateFailed(f"the canary failed: {found.summary}")


def _write(result: GateResult, paths: dict[str, Path | None]) -> None:
    """Every report that was asked for."""
    import json

    from probe.cli.output import write_text
    from probe.report import gate_ci, gate_html, gate_markdown

    texts: dict[str, Any] = {
        "junit": lambda: gate_ci.as_junit(result),
        "md": lambda: gate_markdown.as_markdown(result),
        "html": lambda: gate_html.as_html(result),
        "gitlab": lambda: json.dumps(gate_ci.code_quality(result, "pyproject.toml"), indent=1) + "\n",
        "json": lambda: json.dumps(result.to_json(), indent=2, allow_nan=False) + "\n",
    }
    for kind, path in paths.items():
        if path is not None:
            write_text(path, texts[kind]())


def _github(result: GateResult) -> None:
    """Annotations go to standard error with --json's object on the other; GitHub reads both."""
    from probe.report import gate_ci, gate_markdown

    for line in gate_ci.github_lines(result):
        _say(line)
    for variable, text in (
        ("GITHUB_STEP_SUMMARY", gate_markdown.as_markdown(result)),
        ("GITHUB_OUTPUT", "\n".join(gate_ci.outputs(result)) + "\n"),
    ):
        if os.environ.get(variable):
            with Path(os.environ[variable]).open("a", encoding="utf-8") as file:
                file.write(text)


def _show(result: GateResult, *, as_json: bool) -> None:
    from probe.cli.output import console, print_json
    from probe.report.gate import render

    if as_json:
        print_json(result.to_json())
    else:
        console().print(render(result))


@contextmanager
def _tidy() -> Iterator[None]:
    """A job that is cancelled (SIGTERM) leaves no worktree and no process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
