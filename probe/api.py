"""The verbs of probe; the only place that wires sessions, readers, analyzers and the store together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from probe import analysis as objects
from probe import run as runs
from probe import session
from probe.analysis import Source
from probe.analyzers.cost_models import register
from probe.analyzers.cost_models.registry import Quantity
from probe.analyzers.diagnosis import Beside, Diagnosis, diagnose
from probe.analyzers.steps import mean_data_wait_s, run_times
from probe.chrome_trace import read
from probe.device import Device
from probe.errors import InputError, RunError, UsageError
from probe.findings import Finding
from probe.report.analysis import as_text
from probe.roofs import choose_ceilings
from probe.run import Run
from probe.trace import Trace
from probe.verify import Result, verify_site

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
    """The trace of a run directory (the last one of its lowest rank) or of a Kineto/Chrome trace file."""
    path = _source_path(source)
    return read(_trace_file(runs.load(path)) if path.is_dir() else path)


def analyze(
    source: str | Path | None = None, *, ceilings: str | Path | None = None, device: str | None = None
) -> Analysis:
    """Where the time goes in a run directory or trace file, what bounds it, and what to change first.

    source: by default the newest run under ./runs.
    ceilings: a file of measured ceilings; by default those stored for the device of the run, else its datasheet's.
    device: the name of the device, where the trace does not say it ("H100 SXM").
    """
    return _presentable(_diagnose(source, ceilings, device).analysis)


def verify(
    source: str | Path | None = None, *, codes: Sequence[str] = (), op: int | None = None, budget_s: float = 300.0,
    ceilings: str | Path | None = None,
) -> Analysis:  # fmt: skip
    """The analysis of `source` with every suggestion that can be run here run on its recorded shapes.

    codes, op: only suggestions of these rules, only those that concern the operator of that index.
    budget_s: time for all of them together; most saving first.
    """
    diagnosis = _diagnose(source, ceilings, None)
    chosen = [f for f in diagnosis.found if f.site is not None and _asked(f.finding, codes, op)]
    if (codes or op is not None) and not chosen:
        asked = ", ".join(codes) or f"operator {op}"
        raise UsageError(f"no suggestion for {asked} in {diagnosis.analysis.source.path} can be run; see probe analyze")
    share_s = budget_s / max(len(chosen), 1)
    results = {id(f.finding): verify_site(f.site, budget_s=share_s) for f in chosen if f.site is not None}
    findings = tuple(_with_verdict(f.finding, results.get(id(f.finding), ())) for f in diagnosis.found)
    return _presentable(replace(diagnosis.analysis, findings=findings))


def _with_verdict(finding: Finding, results: Sequence[Result]) -> Finding:
    """The finding with what became of its replacements, the best one first."""
    if not results:
        return finding
    told = [replace(r.verified, candidate=r.candidate, reason=r.reason) for r in results]
    return replace(finding, verified=told[0], alternatives=tuple(told[1:]))


def _asked(finding: Finding, codes: Sequence[str], op: int | None) -> bool:
    return (not codes or finding.code in codes) and (op is None or op in finding.ops)


def roofline(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Analysis:
    """Time and place one callable: each call is a step of the analysis."""
    with TemporaryDirectory(prefix="probe-") as folder:
        with session.profile(Path(folder) / "call", wait=6, warmup=1, active=3, telemetry=False) as prof:
            prof.quiet = True
            for _ in range(12):
                function(*args, **kwargs)
                _synchronise()
                prof.step()
        found = analyze(prof.path)
    name = getattr(function, "__name__", type(function).__name__)
    return replace(found, source=replace(found.source, path=f"{name}(…)"))


def _synchronise() -> None:
    """Wait for the device, so that a call's time is the whole call's."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def register_cost(name: str, *, flops: Quantity = None, bytes: Quantity = None) -> None:
    """Tell the cost of one call of a custom operator or kernel ("ns::op").

    Each is a number, a function of the recorded `probe.trace.Signature`, or None where it is not known.
    """
    try:
        register(name, flops=flops, bytes=bytes)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _presentable(plain: objects.Analysis) -> Analysis:
    return Analysis(**{f.name: getattr(plain, f.name) for f in fields(plain)})


def _diagnose(source: str | Path | None, ceilings: str | Path | None, device: str | None) -> Diagnosis:
    path = _source_path(source)
    return _diagnose_run(path, ceilings, device) if path.is_dir() else _diagnose_trace(path, ceilings, device)


def newest_run(directory: Path) -> Path:
    """The run directory under `directory` that was begun last."""
    found = [p for p in directory.iterdir() if runs.is_run(p)] if directory.is_dir() else []
    if not found:
        raise RunError(f"{directory}: no run in it; name a run or a trace, or record one with probe.profile()")
    return max(found, key=runs.created)


def _source_path(source: str | Path | None) -> Path:
    """The run directory or trace file that `source` names; InputError for what is not read yet."""
    if source is None:
        return newest_run(RUNS)
    if "://" in str(source):
        raise InputError(f"{source}: only local files are read so far; copy it here first")
    path = Path(source)
    if path.suffix == ".sqlite":
        raise InputError(f"{path}: exports of Nsight Systems are not read yet; give a trace of torch.profiler")
    if path.is_file() and path.name == "run.json":
        return path.parent
    if path.is_dir() and not runs.is_run(path) and any(path.glob("*.json*")):
        raise InputError(f"{path}: a directory of traces is not read as a whole yet; name one of its files")
    return path


def _diagnose_trace(path: Path, ceilings: str | Path | None, name: str | None) -> Diagnosis:
    trace = read(path)
    source = Source(str(path), "kineto", name or trace.device.name, trace.device.kind, 1, None, {})
    roofs = choose_ceilings(trace.device, ceilings, name, on_device=trace.on_device)
    return diagnose(trace, source, roofs.ceilings, Beside(datasheet=roofs.datasheet, warnings=roofs.warnings))


def _diagnose_run(path: Path, ceilings: str | Path | None, name: str | None) -> Diagnosis:
    run = runs.load(path)
    part = run.main
    trace = read(_trace_file(run))
    device = part.device or Device(kind="unknown", name="unknown device")
    if device.kind != "cpu" and not trace.on_device:
        device = Device(kind="cpu", name="CPU")  # a GPU was there and the program did not use it
    trace = replace(trace, device=device)
    source = Source(
        path=str(path),
        kind="run",
        device=name or device.name,
        device_kind=device.kind,
        ranks=len(run.parts),
        torch=part.environment.get("torch"),
        tags={key: str(value) for key, value in part.tags.items()},
    )
    roofs = choose_ceilings(device, ceilings, name, on_device=trace.on_device)
    return diagnose(
        trace,
        source,
        roofs.ceilings,
        Beside(
            timed=run_times(part),
            threads=part.environment.get("threads"),
            data_wait_s=mean_data_wait_s(part),
            datasheet=roofs.datasheet,
            warnings=(*run.warnings, *part.warnings, *roofs.warnings),
        ),
    )


def _trace_file(run: Run) -> Path:
    """The last trace of the lowest rank that has one."""
    lowest = min((rank for rank, _, _ in run.traces), default=None)
    if lowest is None:
        raise RunError(f"{run.path}: no trace was recorded: {_why_no_trace(run)}")
    return [file for rank, _, file in run.traces if rank == lowest][-1]


def _why_no_trace(run: Run) -> str:
    notes = [cycle.note for part in run.parts for cycle in part.cycles if cycle.note]
    reasons = [*notes, *(w for part in run.parts for w in part.warnings), *run.warnings]
    return reasons[0] if reasons else "the loop ended before the recorded steps; run more steps or wait less"
