"""The command line: parse, call one verb, print. The only place that prints and exits.

One file a command. `main` takes its arguments and returns the exit code, so that tests call it in-process.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from probe.cli import analyze, compare, dashboard, doctor, export, gate, ls, microbench, plan, repro, verify, whatif
from probe.cli import run as program
from probe.errors import ProbeError

# typer carries its own copy of click in some versions; its public error class leads to that copy's base class.
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]

STOPPED = 130  # what a shell reports of a program ended by Ctrl-C: 128 + SIGINT
ORDER = (
    "run",
    "analyze",
    "verify",
    "dashboard",
    "compare",
    "gate",
    "whatif",
    "plan",
    "repro",
    "export",
    "ls",
    "doctor",
)

_USERS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)  # where a file is in the way, not probe


class Commands(TyperGroup):
    """The commands in the order in which they are needed; typer would put those with commands of their own last."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All of them, those that ORDER lacks at the end."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


app = typer.Typer(
    name="probe",
    cls=Commands,
    help="Where does the time go, what is the limit, what do I change?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # rich's own takes [tool.probe] for a style and leaves it out
    context_settings={"help_option_names": ["-h", "--help"]},
)
run = typer.Typer(
    cls=program.Run, no_args_is_help=True, help="Run a Python program under the collectors, or measure this machine."
)
app.add_typer(run, name="run")
run.command("microbench")(microbench.command)
run.command(program.PROGRAM, context_settings={"allow_interspersed_args": False})(program.command)
app.command("doctor")(doctor.command)
app.command("analyze")(analyze.command)
app.command("verify")(verify.command)
app.command("repro")(repro.command)
app.command("compare")(compare.command)
app.command("whatif")(whatif.command)
app.command("export")(export.command)
app.command("dashboard")(dashboard.command)
app.command("ls")(ls.command)
app.add_typer(gate.app, name="gate")
app.add_typer(plan.app, name="plan")


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"probe {installed('torch-probe')}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; see the contract for what each code means."""
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show µ shows ?
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = _commands(app)(args=words, prog_name="probe", standalone_mode=False)
        sys.stdout.flush()
        if result == STOPPED:  # typer turns Ctrl-C into this result
            return _complain("stopped", STOPPED)
        return result if isinstance(result, int) else 0
    except ProbeError as error:
        return _complain(str(error), error.exit_code)
    except _ClickError as error:
        return _complain(_usage(error, words), 2) if str(error) else 2  # without arguments the help was printed
    except (typer.Abort, KeyboardInterrupt):
        return _complain("stopped", STOPPED)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich's way, by which typer prints its help
            return 0
        raise
    except BrokenPipeError:
        # The reader of our output went away; point stdout elsewhere so that the interpreter's flush is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO) and error.filename is None:
            return _complain(f"the output cannot be written: {error.strerror}", 2)
        if isinstance(error, OSError) and error.errno in _USERS and error.filename is not None:
            why = str(error.strerror).lower()
            return _complain(f"{error.filename}: {why}; check the name and your rights, or give another", 2)
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":  # installed with --no-deps, say
            return _complain("torch is not installed, and this needs it; install it: pip install torch", 4)
        traceback.print_exc()
        return _complain("this is a defect of probe's own; please report it with the lines above", 1)


@functools.cache
def _commands(of: typer.Typer) -> Any:
    """The tree of all commands: made once in a process, for it takes longer than many a command does."""
    return typer.main.get_command(of)


def _open_closed() -> None:
    """A stream that the caller closed (>&-) is one that nobody reads; Python has none then."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (for good)


def _complain(message: str, exit_code: int) -> int:
    from probe.report.text import printable

    print(f"probe: {printable(' '.join(message.split()))}", file=sys.stderr)  # noqa: T201
    return exit_code


def _usage(error: Exception, words: Sequence[str]) -> str:
    """click's message with the command whose --help tells more: of some errors click does not know which."""
    message = getattr(error, "format_message", lambda: str(error))().rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message}; see {context.command_path if context else _named(words)} --help"


def _named(words: Sequence[str]) -> str:
    """The command that a line begins with, as far as there is one."""
    command: Any = _commands(app)
    path = ["probe"]
    for word in words:
        command = getattr(command, "commands", {}).get(word)
        if command is None:
            break
        path.append(word)
    return " ".join(path)
