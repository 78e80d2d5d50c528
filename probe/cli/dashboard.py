"""`probe dashboard`: the interactive pages, on loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def command(
    sources: Annotated[
        Optional[list[str]],
        typer.Argument(
            metavar="[SOURCE]...",
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
    server = Server(sources or [str(RUNS)], host, port)
    out = console()
    if port and server.port != port:
        out.print(f"port {port} is taken", highlight=False)
    out.print(f"dashboard at {server.address}", soft_wrap=True, highlight=False)
    out.print(f"{_counted(server)}; Ctrl-C ends it", highlight=False)
    if browser:
        open_browser(server.address)
    server.run()


def _counted(server: object) -> str:
    library = server.library  # type: ignore[attr-defined]
    count = len(library.catalogue.entries())
    return f"{count} run{'s' * (count != 1)} and traces" if count else f"no runs yet in {Path.cwd() / 'runs'}"
