"""`probe run SCRIPT.py`: run an unchanged Python program under the collectors; its exit code is the program's."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from typer.core import TyperGroup

from probe.cli.options import size_of
from probe.errors import UsageError

_ARGUMENT = re.compile(r"^profile\((\w+)=(.*?)\): ")  # how the session's messages begin
_OPTION = {"max_pause_s": "max-pause", "every_s": "every", "max_bytes": "max-bytes"}
PROGRAM = "program"  # the command that everything but a measurement's name leads to; it need not be written


class Run(TyperGroup):
    """`probe run microbench` measures; `probe run train.py …` and `probe run -m package.train …` run a program."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Whatever names no measurement is a program with its options."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [PROGRAM, *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Both forms."""
        formatter.write_usage(
            ctx.command_path, "[-o DIR] [OPTIONS] SCRIPT.py|-m MODULE [ARGS]…  |  microbench [OPTIONS]"
        )


def command(
    program: Annotated[
        list[str],
        typer.Argument(metavar="SCRIPT [ARGS]…", help="The program and its arguments; all after it is the program's."),
    ],
    module: Annotated[bool, typer.Option("-m", help="SCRIPT names a module, as in python -m.")] = False,
    output: Annotated[
        Optional[Path], typer.Option("-o", help="Run directory; by default a fresh one under ./runs.")
    ] = None,
    wait: Annotated[int, typer.Option(min=0, help="Steps before the recording begins.")] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="Steps under the profiler that are not kept.")] = 3,
    active: Annotated[int, typer.Option(min=1, help="Steps that are recorded.")] = 3,
    repeat: Annotated[int, typer.Option(min=1, help="How often all this is done.")] = 1,
    ranks: Annotated[str, typer.Option(help="Ranks that record: first, all, slowest, or 0,3.")] = "first",
    memory: Annotated[bool, typer.Option("--memory", help="Record allocations.")] = False,
    stacks: Annotated[bool, typer.Option("--stacks", help="Record Python stacks (dear).")] = False,
    telemetry: Annotated[bool, typer.Option(help="Sample what the machine does meanwhile.")] = True,
    modules: Annotated[bool, typer.Option(help="Name the modules of the model that is trained.")] = True,
    max_pause: Annotated[float, typer.Option(help="Seconds that training may pause when a recording ends.")] = 1.0,
    every: Annotated[
        Optional[float], typer.Option(help="Record again and again, at most once in so many seconds.")
    ] = None,
    slow: Annotated[
        Optional[float], typer.Option(help="Record when a step takes this many times the p95 of the bare ones.")
    ] = None,
    on_demand: Annotated[
        bool, typer.Option("--on-demand", help="Record when DIR/trigger is touched, or on SIGUSR2; so with --every.")
    ] = False,
    keep: Annotated[Optional[int], typer.Option(help="Traces to keep: the newest, and the slowest one.")] = None,
    max_bytes: Annotated[Optional[str], typer.Option(help="Of all traces together: 2GiB.")] = None,
    step_on: Annotated[
        Optional[str],
        typer.Option(
            "--step-on",
            metavar="[MODULE:]FUNCTION",
            help="A step is a call of this; by default a step of the optimizer, without one a batch of a DataLoader.",
        ),
    ] = None,
    tag: Annotated[Optional[list[str]], typer.Option("--tag", metavar="NAME=VALUE", help="Kept with the run.")] = None,
) -> int:
    """Run an unchanged Python program under the collectors: `probe run train.py`, `probe run -m package.train`.

    Its exit code is the program's. The word "program" may be left out.
    """
    from probe.launchers import launched_rank
    from probe.program.observe import Request, observe
    from probe.program.step_on import refuse_unknown
    from probe.session.options import Options

    with _as_options():
        options = Options(
            wait, warmup, active, repeat, _ranks(ranks), memory, stacks, telemetry, max_pause, every, slow,
            on_demand or every is not None or slow is not None, keep, size_of("--max-bytes", max_bytes),
        )  # fmt: skip
    _refuse_directory(output)
    if step_on is not None:
        refuse_unknown(step_on, program[0], module=module)
    outcome = observe(
        Request(program[0], tuple(program[1:]), module, output, options, _tags(tag or ()), step_on, modules)
    )
    if launched_rank(os.environ).rank == 0:
        _say(outcome)
    return outcome.exit_code


@contextmanager
def _as_options() -> Iterator[None]:
    """What `profile` refuses is told of the command's options, not of its arguments."""
    try:
        yield
    except UsageError as error:
        raise UsageError(
            _ARGUMENT.sub(lambda found: f"--{_OPTION.get(found[1], found[1])} {found[2]}: ", str(error))
        ) from None


def _refuse_directory(asked: Path | None) -> None:
    """UsageError where no run can be written, before the program has run for hours."""
    from probe.cli.output import refuse_closed

    wanted = asked or Path("runs")
    there = next(path for path in (wanted, *wanted.parents, Path.cwd()) if path.exists())
    if asked is not None and not there.is_dir():
        raise UsageError(f"-o {asked}: {there} is a file; give the name of a directory")
    refuse_closed(wanted, there if there.is_dir() else there.parent)


def _ranks(text: str) -> str | tuple[int, ...]:
    if text in ("first", "all", "slowest"):
        return text
    try:
        ranks = tuple(int(part) for part in text.split(","))
        if min(ranks) < 0:
            raise ValueError
        return ranks
    except ValueError:
        raise UsageError(f"--ranks {text}: write first, all, slowest or numbers such as 0,3") from None


def _tags(pairs: Any) -> dict[str, Any]:
    tags = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--tag {pair}: write NAME=VALUE")
        tags[name] = value
    return tags


def _say(outcome: Any) -> None:
    """What the session does not say: that there was none, and why."""
    if outcome.failure:
        text = f"no more steps were observed: {outcome.failure}; the program was not disturbed"
    elif outcome.other:
        text = "the program has a probe.profile of its own; it was left alone, and nothing else was recorded"
    elif outcome.session is None and outcome.exit_code:
        return
    elif outcome.session is None:
        text = (
            "no step was recognised: no optimizer stepped twice and no DataLoader gave two batches; "
            "name the function whose call is a step: --step-on MODULE:FUNCTION"
        )
    else:
        return
    sys.stderr.write(f"probe: {text}\n")
