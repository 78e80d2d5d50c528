"""Arguments and options that several commands have in common."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Optional, cast, get_args

import typer

from probe.errors import UsageError
from probe.results.scaling import ScalingMode
from probe.units import parse_size

_RANGE = re.compile(r"(\d{1,9})(?::(\d{1,9}))?")
_MOST_RANKS = 1_000_000
MOST_SECONDS = 1e6  # of a budget; the system's calls that wait take no infinity

SourceArgument = Annotated[
    Optional[str],  # not a Path, which would mend the slashes of an address
    typer.Argument(
        metavar="SOURCE", help="Run directory or trace (.json, .json.gz); by default the newest run under ./runs."
    ),
]
Sources = Annotated[
    Optional[list[str]],
    typer.Argument(
        metavar="SOURCE",
        help="Run directory; trace (.json, .json.gz, .sqlite of Nsight Systems); directory, pattern or list of the "
        "traces of many ranks. A path or an address (s3://…). By default the newest run under ./runs.",
    ),
]
Steps = Annotated[Optional[str], typer.Option("--steps", help="Only these steps, by number: 7, or 3:5 for 3 to 5.")]
Window = Annotated[
    Optional[str], typer.Option("--window", help="Only what overlaps these seconds of the trace: 1.5:1.75.")
]
Ranks = Annotated[Optional[str], typer.Option("--ranks", help="Only these ranks: 0,3 or 0-7.")]
Engine = Annotated[
    Optional[str], typer.Option("--engine", help="Read ranks on a Dask cluster: dask://HOST:PORT. By default here.")
]
Jobs = Annotated[Optional[int], typer.Option("--jobs", min=1, help="Ranks to read at once. By default one a core.")]
CountersFile = Annotated[
    Optional[Path],
    typer.Option("--counters", help="CSV of Nsight Compute for the same program: measured FLOP and bytes of kernels."),
]
ScalingBy = Annotated[
    Optional[str],
    typer.Option("--scaling", help="Of several jobs, directories each: weak, strong or throughput. By default weak."),
]
CeilingsFile = Annotated[
    Optional[Path], typer.Option(help="Measured ceilings to use, instead of those stored for the device.")
]
Price = Annotated[
    Optional[float],
    typer.Option("--price", help="US dollars for an hour of one GPU. By default price_per_gpu_hour of [tool.probe]."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def steps_of(text: str | None) -> tuple[int, int] | None:
    """First and last step of 7 or 3:5."""
    if text is None:
        return None
    found = _RANGE.fullmatch(text)
    if found is None:
        raise UsageError(f"--steps {text}: not steps; write 7, or 3:5 for 3 to 5")
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first:
        raise UsageError(f"--steps {text}: it ends before it begins; write {last}:{first}")
    return first, last


def window_of(text: str | None) -> tuple[float, float] | None:
    """Start and end in seconds of 1.5:1.75."""
    if text is None:
        return None
    try:
        start, end = (float(part) for part in text.split(":"))
    except ValueError:
        raise UsageError(f"--window {text}: not a window; write its start and end in seconds, 1.5:1.75") from None
    if not 0 <= start < end < float("inf"):
        raise UsageError(f"--window {text}: it must begin at 0 or later and end after it begins")
    return start, end


def ranks_of(text: str | None) -> frozenset[int] | None:
    """The ranks in 0,3 or 0-7."""
    if text is None:
        return None
    ranks: set[int] = set()
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip().replace("-", ":"))
        if found is None:
            raise UsageError(f"--ranks {text}: not ranks; write 0,3 or 0-7")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise UsageError(f"--ranks {text}: {first}-{last} ends before it begins; write {last}-{first}")
        if last - first > _MOST_RANKS:
            raise UsageError(f"--ranks {text}: more than {_MOST_RANKS} ranks")
        ranks.update(range(first, last + 1))
    return frozenset(ranks)


def scaling_of(text: str | None) -> ScalingMode | None:
    """What stays the same over jobs of several sizes."""
    for mode in get_args(ScalingMode):
        if text == mode:
            return cast(ScalingMode, mode)
    if text is not None:
        raise UsageError(f"--scaling {text}: write {', '.join(get_args(ScalingMode))}")
    return None


def engine_of(text: str | None) -> str | None:
    """Where ranks are to be read; UsageError for what is no engine, whether or not there are ranks to be read."""
    from probe.executors.engine import ENGINES, is_engine

    if text is not None and not is_engine(text):
        raise UsageError(f"--engine {text}: no such engine; use one of {ENGINES}")
    return text


def size_of(option: str, text: str | None) -> int | None:
    """Bytes of a size that an option was given, such as 80GB."""
    if text is None:
        return None
    try:
        return parse_size(text)
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from None


def code_of(option: str, text: str) -> str:
    """The code of a rule, as F06, by which an option means it; UsageError, with the nearest ones, for no rule's."""
    from probe.report.rules import find

    try:
        return find(text).code
    except UsageError as error:
        raise UsageError(f"{option}: {str(error).replace('--explain', 'probe analyze --explain')}") from None
