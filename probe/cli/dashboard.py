"""`probe dashboard`: the interactive pages, on loopback."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from probe.dashboard.server import Server


def command(
    sources: Annotated[
        Optional[list[str]],
        typer.Argument(
            metavar="SOURCE",
            help="Runs, traces, files of `probe run microbench -o`, or directories of them. By default ./runs.",
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="A free one is taken where it is in use.")] = 8050,
    host: Annotated[
        str, typer.Option(help="Listen elsewhere than on this machine alone; the address then holds a token.")
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the browser.")] = True,
) -> None:
    """Show runs in the browser: overview, roofline, operators, timeline, suggestions, comparison. Ctrl-C ends it."""
    from probe.cli.output import console
    from probe.dashboard.server import Server, open_browser
    from probe.errors import InputError
    from probe.examine.sources import RUNS

    if sources is None and not RUNS.is_dir():
        raise InputError(f"{RUNS}: no such directory; name runs or traces, or record a run with probe.profile()")
    _refuse_unreadable(sources or ())
    server = Server(sources or [str(RUNS)], host, port)
    out = console()
    if port and server.port != port:
        out.print(f"port {port} is taken", highlight=False)
    out.print(f"dashboard at {server.address}", soft_wrap=True, highlight=False)
    out.print(f"{_counted(server, sources or [str(RUNS)])}; Ctrl-C ends it", soft_wrap=True, highlight=False)
    if browser:
        open_browser(server.address)
    server.run()


def _refuse_unreadable(sources: Sequence[str]) -> None:
    """InputError for what was named and is no run and no trace; what lies in a directory may come and go."""
    from probe.dashboard.catalogue import Catalogue
    from probe.examine.sources import refuse_absent, refuse_no_trace
    from probe.runs import run as runs

    refuse_absent(*sources)
    for name in sources:
        path = Path(name)
        if path.is_dir() and runs.is_run(path):
            runs.load(path)
        elif path.is_file() and any(entry.kind == "trace" for entry in Catalogue([name]).entries()):
            refuse_no_trace(path)


def _counted(server: Server, sources: Sequence[str]) -> str:
    count = len(server.library.catalogue.entries())
    where = ", ".join(str(Path(source).resolve()) for source in sources)
    if not count:
        return f"no runs yet in {where}"
    return "1 run or trace" if count == 1 else f"{count} runs and traces"
