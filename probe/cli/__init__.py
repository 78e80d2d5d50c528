"""The command line: parse, call one verb, print. The only place that prints and exits.

One file a command. `main` takes its arguments and returns the exit code, so that tests call it in-process.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence

import typer

from probe.cli import analyze, compare, dashboard, doctor, export, gate, ls, microbench, plan, repro, verify, whatif
from probe.cli import run as program
from probe.errors import ProbeError

# typer carries its own copy of click in some versions; its public error class leads to that copy's base class.
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]

STOPPED = 130  # what a shell reports of a program ended by Ctrl-C: 128 + SIGINT

app = typer.Typer(
    name="probe",
    help="Where does the time go, what is the limit, what do I change?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show µ shows ?
    try:
        result = app(args=list(sys.argv[1:] if arguments is None else arguments), standalone_mode=False)
        sys.stdout.flush()
        if result == STOPPED:  # typer turns Ctrl-C into this result
            return _complain("stopped", STOPPED)
        return result if isinstance(result, int) else 0
    except ProbeError as error:
        return _complain(str(error), error.exit_code)
    except _ClickError as error:
        return _complain(_usage(error), 2) if str(error) else 2  # without arguments the help was printed
    except (typer.Abort, KeyboardInterrupt):
        return _complain("stopped", STOPPED)
    except BrokenPipeError:
        # The reader of our output went away; point stdout elsewhere so that the interpreter's flush is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO) and error.filename is None:
            return _complain(f"the output cannot be written: {error.strerror}", 2)
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":  # installed with --no-deps, say
            return _complain("torch is not installed, and this needs it; install it: pip install torch", 4)
        traceback.print_exc()
        return _complain("this is a defect of probe's own; please report it with the lines above", 1)


def _complain(message: str, exit_code: int) -> int:
    from probe.report.text import printable

    print(f"probe: {printable(' '.join(message.split()))}", file=sys.stderr)  # noqa: T201
    return exit_code


def _usage(error: Exception) -> str:
    """click's message with the command whose --help tells more."""
    message = getattr(error, "format_message", lambda: str(error))().rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message}; see {context.command_path if context else 'probe'} --help"
