"""The verbs of probe; the only place that wires sessions, readers, analyzers and the store together."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from probe import analysis as objects
from probe import session, store
from probe.analysis import Source, StepTimes, Throughput
from probe.analyzers import steps as step_tables
from probe.analyzers.diagnosis import diagnose
from probe.chrome_trace import read
from probe.device import Ceilings
from probe.errors import RunError, TraceError
from probe.report.analysis import as_text
from probe.run import RankPart, Run, is_run, load_run
from probe.trace import Trace

RUNS = Path("runs")


class Analysis(objects.Analysis):
    """What `analyze` returns: prints as the report of `probe analyze`."""

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        """The report in a notebook."""
        from probe.report.html import fragment

        return fragment(self)


def load(source: str | Path) -> Trace:
    """The trace of a run directory (that of its lowest rank's last cycle) or of a Kineto/Chrome trace file."""
    path = Path(source)
    if not path.is_dir():
        return read(path)
    return read(_trace_file(_run(path)))


def analyze(source: str | Path | None = None, *, ceilings: str | Path | None = None) -> Analysis:
    """Where the time goes in a run directory or trace file.

    source: by default the newest run under ./runs.
    ceilings: a file of measured ceilings; by default those stored for the device of the run, where there are any.
    """
    path = Path(source) if source is not None else newest_run(RUNS)
    plain = _analyze_run(_run(path), ceilings) if path.is_dir() else _analyze_trace(path, ceilings)
    return Analysis(**{f.name: getattr(plain, f.name) for f in fields(plain)})


def newest_run(directory: Path) -> Path:
    """The run directory under `directory` that was begun last."""
    runs = [p for p in directory.iterdir() if is_run(p)] if directory.is_dir() else []
    if not runs:
        raise RunError(f"{directory}: no run in it; name a run or a trace, or record one with probe.profile()")
    return max(runs, key=lambda p: p.stat().st_mtime_ns)


def _run(path: Path) -> Run:
    if not is_run(path):
        raise RunError(f"{path}: a directory without run.json is no run; name a run directory or a trace file")
    return load_run(path)


def _trace_file(run: Run) -> Path:
    """The last trace of the lowest rank that has one."""
    for part in run.ranks:
        if part.traces:
            return part.traces[-1]
    raise TraceError(f"{run.path}: no trace was recorded: {_why_no_trace(run)}")


def _why_no_trace(run: Run) -> str:
    reasons = [*run.warnings, *(w for part in run.ranks for w in part.warnings)]
    return reasons[0] if reasons else "the loop ended before the recorded steps; record a longer one or wait less"


def _analyze_trace(path: Path, ceilings: str | Path | None) -> objects.Analysis:
    trace = read(path)
    source = Source(str(path), "kineto", trace.device.name, trace.device.kind, 1, None, {})
    return diagnose(trace, source, ceilings=_ceilings(ceilings, trace.device.key))


def _ceilings(file: str | Path | None, device_key: str) -> Ceilings | None:
    return store.load(Path(file)) if file is not None else store.find(device_key)
