"""Read the two sides of a comparison, whatever each is, and compare them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import msgspec
import numpy as np

from probe.analyzers.compare.microbench import compare_microbench
from probe.analyzers.compare.operators import per_step
from probe.analyzers.compare.runs import Recorded, compare_runs
from probe.analyzers.operators.steps import warm
from probe.errors import InputError, UsageError
from probe.examine.examine import Request, examine
from probe.examine.sources import Found, RunSource, files_of, find
from probe.machine.device import Device
from probe.readers import formats
from probe.readers.opening import is_url, shown
from probe.results import comparison as objects
from probe.results.analysis import Analysis
from probe.results.measurement import SCHEMA as MICROBENCH
from probe.results.measurement import MicrobenchResult
from probe.runs.run import Run

LARGEST_RESULT_BYTES = 64 << 20  # what is larger is a trace, and is not read to find that out
REMEDY = "compare takes two runs or traces, or two files of `probe run microbench -o`"


@dataclass(frozen=True)
class _Head:
    """As much of a JSON object as tells what it is."""

    schema: str | None = None


class Comparison(objects.Comparison):
    """What `compare` returns: prints as the report of `probe compare`."""

    def __str__(self) -> str:
        from probe.report.compare import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        """The report in a notebook."""
        from probe.report.compare_html import fragment

        return fragment(self)


def compare(
    base: str | Path, new: str | Path, progress: Callable[[str, int, int | None], None] | None = None,
    analysed: Callable[[str | Path], Analysis] | None = None,
) -> Comparison:  # fmt: skip
    """What got faster or slower from `base` to `new`: two runs or traces, or two files of microbenchmarks.

    analysed: gives the analysis of a side to those who hold it; by default each is read.
    """
    kinds = ["microbench" if _holds_microbench(source) else "run" for source in (base, new)]
    if kinds[0] != kinds[1]:
        first, second = ("microbenchmarks" if kind == "microbench" else "a run or trace" for kind in kinds)
        raise UsageError(f"{shown(base)} holds {first}, {shown(new)} {second}: they cannot be compared; {REMEDY}")
    if kinds[0] == "microbench":
        return _presentable(compare_microbench(read_microbench(base), read_microbench(new), (str(base), str(new))))
    request = Request(progress=progress)
    return _presentable(compare_runs(*(_recorded(side, request, analysed) for side in (base, new))))


def _presentable(plain: objects.Comparison) -> Comparison:
    return Comparison(**{f.name: getattr(plain, f.name) for f in fields(plain)})


def _holds_microbench(source: str | Path) -> bool:
    """Whether `source` is a file of microbenchmarks; InputError for another object that probe printed."""
    path = Path(source)
    if is_url(source) or not path.is_file() or path.name == "run.json" or path.stat().st_size > LARGEST_RESULT_BYTES:
        return False
    try:
        data = path.read_bytes()
        schema = msgspec.json.decode(data, type=_Head).schema
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # not JSON, cut, or no object
        if data[:1] == b"{" and b'"probe.microbench/' in data:
            raise InputError(f"{path}: not whole JSON; measure again with `probe run microbench -o`") from None
        return False
    if schema is None or not schema.startswith("probe."):
        return False
    if schema == MICROBENCH:
        return True
    what = f"this probe reads {MICROBENCH}; update torch-probe" if "microbench" in schema else REMEDY
    raise InputError(f"{path}: its schema is {schema}; {what}")


def read_microbench(source: str | Path) -> MicrobenchResult:
    """The result in a file of `probe run microbench -o`; InputError where it is damaged."""
    try:
        return msgspec.json.decode(Path(source).read_bytes(), type=MicrobenchResult)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: damaged ({error}); measure again with `probe run microbench -o`") from None


def _recorded(
    source: str | Path, request: Request, analysed: Callable[[str | Path], Analysis] | None = None
) -> Recorded:
    """What is known of one run, trace, or job of many ranks."""
    found = find(source)
    if isinstance(found, RunSource) and not found.run.traces and len(found.run.main.steps):
        return _timed_only(found.run)
    analysis = analysed(source) if analysed is not None else examine(source, request).analysis
    trace = formats.read(files_of(source)[0])
    recorded = Recorded(
        path=analysis.source.path,
        kind=analysis.source.kind,
        device=replace(trace.device, name=analysis.source.device or trace.device.name),
        torch=analysis.source.torch,
        table=per_step(trace),
        parts={part: (analysis.time_s[part], analysis.time_interval_s.get(part)) for part in analysis.time_s},
        warnings=analysis.warnings,
        ranks=analysis.source.ranks,
    )
    return _with_run(recorded, found)


def _with_run(recorded: Recorded, found: Found) -> Recorded:
    """With the steps and the surroundings that a run wrote beside its trace."""
    if not isinstance(found, RunSource):
        return recorded
    part = found.run.main
    steps = part.steps
    told = steps.samples
    return replace(
        recorded,
        device=part.device or recorded.device,
        bare_s=steps.durations_ns[warm(steps)] / 1e9,
        environment=part.environment,
        tags={key: str(value) for key, value in part.tags.items()},
        samples=float(np.nanmedian(told)) if told is not None and not np.isnan(told).all() else None,
    )


def _timed_only(run: Run) -> Recorded:
    """A run without a trace: its steps were timed, its operators are not known."""
    part = run.main
    empty = Recorded(
        path=str(run.path),
        kind="run",
        device=part.device or Device(kind="unknown", name="unknown device"),
        torch=part.environment.get("torch"),
        warnings=(*run.warnings, *part.warnings),
        ranks=len(run.parts),
    )
    return _with_run(empty, RunSource(run))
