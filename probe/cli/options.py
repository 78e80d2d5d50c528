"""Arguments and options that several commands have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

SourceArgument = Annotated[
    Optional[str],  # not a Path, which would mend the slashes of an address
    typer.Argument(help="Run directory or trace (.json, .json.gz); by default the newest run under ./runs."),
]
CeilingsFile = Annotated[
    Optional[Path], typer.Option(help="Measured ceilings to use, instead of those stored for the device.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
