"""Read a source and say what is in it: readers, ceilings and analyzers wired together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from probe.analyzers.diagnosis import Beside, Diagnosis, diagnose
from probe.analyzers.memory.snapshot import snapshot_analysis, snapshot_memory
from probe.analyzers.operators.steps import mean_data_wait_s, run_times, warm
from probe.analyzers.ranks.compare import compare_ranks
from probe.analyzers.ranks.scaling import scaling, scaling_job
from probe.analyzers.ranks.summary import summarise
from probe.analyzers.which_loop import which_loop
from probe.errors import ProbeError, TraceError, UsageError
from probe.examine.cost import with_cost
from probe.examine.flows import graph_of, split
from probe.examine.roofs import choose_ceilings
from probe.examine.serving import with_serving
from probe.examine.sources import (
    FileSource,
    Found,
    Jobs,
    JobSource,
    Named,
    RunSource,
    find,
    name_of,
    refuse_unused,
    trace_of,
    without_engine,
)
from probe.examine.telemetry import with_telemetry
from probe.machine.device import Device
from probe.price import prices
from probe.ranks.asked import refuse_missing
from probe.ranks.files import Job, RankFile
from probe.ranks.summaries import RankRead, summaries
from probe.readers import allocator_snapshot, formats, ncu
from probe.readers.garbage_collection import without_garbage_collection
from probe.readers.narrow import Selection
from probe.readers.ncu import KernelCounters
from probe.readers.opening import shown
from probe.readers.rank_names import numbers
from probe.results.analysis import Analysis, Source
from probe.results.multirank import Rank, RanksAnalysis
from probe.results.scaling import ScalingJob, ScalingMode
from probe.runs.run import Run
from probe.trace import Trace

_RanksRead: TypeAlias = tuple[Sequence[RankRead], Sequence[str]]  # and what to know of them


@dataclass(frozen=True)
class Request:
    """How a source is to be read and placed."""

    ceilings: str | Path | None = None  # file of measured ceilings
    device: str | None = None  # name, where the trace does not say it
    selection: Selection = field(default_factory=Selection)
    ranks: frozenset[int] | None = None
    counters: str | Path | None = None  # CSV of Nsight Compute
    engine: str | Executor | None = None  # "dask://host:port", or an executor
    jobs: int | None = None  # processes
    scaling: ScalingMode | None = None  # what stays the same over jobs of several sizes
    progress: Callable[[str, int, int | None], None] | None = None  # what is read, how far, of how much
    price: float | None = None  # US dollars for an hour of one device; by default the user's settings say it
    preview: bool = False  # with the rules that are not on by default


def examine(source: Named, request: Request) -> Diagnosis:
    """Everything probe can say of a run, a trace, or the ranks of a job."""
    told = prices(request.price, Path.cwd())  # refused now, not once everything was read
    found = find(source)
    refuse_unused(found, request.scaling)
    diagnosis = _examine(found, request)
    warnings = (*diagnosis.analysis.warnings, *without_engine(found, request.engine))
    analysis = replace(diagnosis.analysis, loop=which_loop(diagnosis.analysis), warnings=warnings)
    diagnosis = replace(diagnosis, analysis=analysis)
    if diagnosis.analysis.cost is not None or diagnosis.analysis.source.kind == "snapshot":
        return diagnosis
    return replace(diagnosis, analysis=with_cost(diagnosis.analysis, told))


def _examine(found: Found, request: Request) -> Diagnosis:
    if isinstance(found, Jobs):
        return _examine_jobs(found, request)
    if isinstance(found, FileSource):
        return _examine_file(found, request)
    if isinstance(found, JobSource):
        return _examine_job(found, request)
    return _examine_run(found, request)


def read(source: str, request: Request) -> Trace:
    """The trace in a file, as far as it is wanted."""
    told = request.progress
    progress = None if told is None else (lambda done, size: told(f"reading {shown(source)}", done, size))
    return formats.read(source, request.selection, progress)


def _examine_snapshot(source: str) -> Diagnosis:
    """What an allocator's snapshot says: memory alone, of the device that holds most."""
    snapshots = allocator_snapshot.read(source)
    if not snapshots:
        raise TraceError(f"{source}: a snapshot of an allocator that holds nothing; take one while the program runs")
    largest = max(snapshots, key=lambda one: one.reserved_bytes)
    others = [str(one.device) for one in snapshots if one is not largest]
    said = (f"devices that hold less were left out: {', '.join(others)}",) if others else ()
    return Diagnosis(snapshot_analysis(source, snapshot_memory(largest), said), ())


def _examine_file(found: FileSource, request: Request) -> Diagnosis:
    if formats.format_of(found.source).kind == "snapshot":
        return _examine_snapshot(found.source)
    trace = read(found.source, request)
    known = [] if trace.rank is None else [trace.rank]
    refuse_missing(shown(found.source), request.ranks, known, unknown=1 - len(known))
    diagnosis = _of_trace(trace, shown(found.source), formats.format_of(found.source).kind, request)
    if not len(trace.collectives):
        return diagnosis
    alone = compare_ranks([summarise(trace, trace.rank or 0)])
    return replace(diagnosis, analysis=replace(diagnosis.analysis, collectives=alone.collectives))


def _of_trace(trace: Trace, name: str, kind: Any, request: Request, compared: RanksAnalysis | None = None) -> Diagnosis:
    source = Source(name, kind, request.device or trace.device.name, trace.device.kind, 1, None, {})
    roofs = choose_ceilings(trace.device, request.ceilings, request.device, on_device=trace.on_device)
    beside = Beside(
        datasheet=roofs.datasheet, counters=_counters(request), warnings=roofs.warnings, preview=request.preview,
        compared=compared,
    )  # fmt: skip
    with without_garbage_collection():
        return diagnose(trace, source, roofs.ceilings, beside)


def _counters(request: Request) -> tuple[KernelCounters, ...]:
    return ncu.read(request.counters) if request.counters is not None else ()


def _examine_job(found: JobSource, request: Request, known: _RanksRead | None = None) -> Diagnosis:
    """The ranks compared, each read where it lies unless that is `known`, and the lowest of them in full."""
    ranks, warnings = known or _summaries(found.job, request)
    lowest = ranks[0].task.source
    compared = compare_ranks([one.summary for one in ranks])
    trace = replace(read(lowest, request), rank=ranks[0].summary.rank)
    diagnosis = _of_trace(trace, found.name, formats.format_of(lowest).kind, request, compared)
    said = f"operators, parts of the step and findings are those of rank {ranks[0].summary.rank}"
    return replace(diagnosis, analysis=_with_ranks(diagnosis.analysis, compared, (*warnings, said)))


def _summaries(job: Job, request: Request) -> _RanksRead:
    """What was read of the ranks that are asked for, and what to know of them."""
    told = request.progress
    progress = None if told is None else (lambda done, count: told("reading ranks", done, count))
    selection = None if request.selection.everything else request.selection
    return summaries(job, request.engine, request.jobs, selection, progress, request.ranks)


def _examine_jobs(found: Jobs, request: Request) -> Diagnosis:
    """How the same training scales over jobs of several sizes; the largest one in full."""
    told = [_scaling_job(one, request) for one in found.jobs]
    scaled = scaling([entry.job for entry in told], request.scaling)
    warnings = [f"{name_of(entry.source)}: {warning}" for entry in told for warning in entry.warnings]
    scaled = replace(scaled, warnings=(*scaled.warnings, *warnings))
    largest = max(told, key=lambda entry: entry.job.world_size)
    diagnosis = _examine_largest(largest, request)
    said = f"operators, parts of the step and findings are those of the largest job, {diagnosis.analysis.source.path}"
    everything = (*diagnosis.analysis.warnings, *scaled.warnings, said)
    return replace(diagnosis, analysis=replace(diagnosis.analysis, scaling=scaled, warnings=everything))


def _examine_largest(largest: _Sized, request: Request) -> Diagnosis:
    """The largest job in full, its ranks as they were read; what reading them said is with the scaling."""
    if isinstance(largest.source, JobSource):
        return _examine_job(largest.source, request, (largest.ranks, []))
    return _examine(largest.source, request)


@dataclass(frozen=True)
class _Sized:
    """One of several jobs: its steps, and what was read to know them."""

    source: FileSource | RunSource | JobSource
    job: ScalingJob
    ranks: Sequence[RankRead] = ()
    warnings: Sequence[str] = ()


def _scaling_job(found: FileSource | RunSource | JobSource, request: Request) -> _Sized:
    """The steps of one job: as the run timed them, else as its traces mark them."""
    if isinstance(found, RunSource):
        return _Sized(found, _scaling_run(_asked_parts(found.run, request.ranks)))
    job = found.job if isinstance(found, JobSource) else Job((RankFile(found.source, None),))
    ranks, warnings = _summaries(job, request)
    return _Sized(found, scaling_job([one.summary for one in ranks]), ranks, warnings)


def _scaling_run(run: Run) -> ScalingJob:
    counted = warm(run.main.steps)
    work = [part.steps.samples for part in run.parts]
    told = [float(np.nanmean(samples)) for samples in work if samples is not None and not np.isnan(samples).all()]
    times = run.main.steps.durations_ns[counted] / 1e9
    return ScalingJob(run.world_size, tuple(times.tolist()), sum(told) if len(told) == run.world_size else None)


def _with_ranks(analysis: Analysis, compared: RanksAnalysis, warnings: tuple[str, ...]) -> Analysis:
    return replace(
        analysis,
        source=replace(analysis.source, ranks=len(compared.ranks)),
        ranks=compared.ranks,
        collectives=compared.collectives,
        clocks=compared.offsets,
        stragglers=compared.stragglers,
        warnings=tuple(dict.fromkeys((*analysis.warnings, *compared.warnings, *warnings))),
    )


def _asked_parts(run: Run, ranks: frozenset[int] | None) -> Run:
    """The run with the parts of the asked ranks; UsageError where one is not there."""
    if ranks is None:
        return run
    refuse_missing(str(run.path), ranks, (part.rank for part in run.parts))
    return replace(run, parts=tuple(part for part in run.parts if part.rank in ranks))


def _with_trace(run: Run, ranks: frozenset[int] | None) -> Run:
    """The same, where one of these ranks has a trace; UsageError where only others have."""
    chosen = _asked_parts(run, ranks)
    recorded = {rank for rank, _, _ in run.traces}
    if recorded and not chosen.traces:
        asked = numbers(part.rank for part in chosen.parts)
        raise UsageError(f"{run.path}: rank {asked} recorded no trace; ask for one that did: {numbers(recorded)}")
    return chosen


def _examine_run(found: RunSource, request: Request) -> Diagnosis:
    run = _with_trace(found.run, request.ranks)
    path = trace_of(run)
    parted = split(read(path, request), _tensors_of(run, path), graph_of(run))
    trace = parted.trace
    recorded = run.traces[0][0]  # the lowest rank with a trace: what was timed beside it counts, not rank 0's
    part = next(part for part in run.parts if part.rank == recorded)
    device = part.device or Device(kind="unknown", name="unknown device")
    if device.kind != "cpu" and not trace.on_device:
        device = Device(kind="cpu", name="CPU")  # a GPU was there and the program did not use it
    trace = replace(trace, device=device)
    source = Source(
        path=str(run.path),
        kind="run",
        device=request.device or device.name,
        device_kind=device.kind,
        ranks=len(run.parts),
        torch=part.environment.get("torch"),
        tags={key: str(value) for key, value in part.tags.items()},
    )
    roofs = choose_ceilings(device, request.ceilings, request.device, on_device=trace.on_device)
    compared, about_ranks = _compared(run, request)
    beside = Beside(
        compared=compared,
        preview=request.preview,
        timed=run_times(part),
        threads=part.environment.get("threads"),
        data_wait_s=mean_data_wait_s(part),
        datasheet=roofs.datasheet,
        counters=_counters(request),
        warnings=(*run.warnings, *part.warnings, *roofs.warnings, *parted.warnings),
        recorded=parted.makers,
        graph=parted.graph,
        resident=parted.resident,
    )
    with without_garbage_collection():
        diagnosis = diagnose(trace, source, roofs.ceilings, beside)
    analysis = diagnosis.analysis if compared is None else _with_ranks(diagnosis.analysis, compared, about_ranks)
    analysis = with_telemetry(analysis, run.path, part, mean_data_wait_s(part))
    if request.selection.everything:
        analysis = with_serving(
            analysis, run, part, lambda first, last: _bound_of(path, device, (first, last), request)
        )
    analysis = with_cost(_with_parts(analysis, run), prices(request.price, Path.cwd()), run)
    return replace(diagnosis, analysis=analysis)


def _bound_of(path: str, device: Device, steps: tuple[int, int], request: Request) -> str | None:
    """What bounds some of the recorded steps; None where they cannot be told apart."""
    try:
        trace = replace(read(path, replace(request, selection=Selection(steps))), device=device)
    except ProbeError:  # the steps carry no marks
        return None
    return _of_trace(trace, path, "run", request).analysis.bound


def _tensors_of(run: Run, trace: str) -> Path | None:
    """The file of the tensors that were recorded with a trace, where there is one."""
    name = next((cycle.tensors for _, cycle, path in run.traces if str(path) == trace), None)
    return run.path / name if name and (run.path / name).is_file() else None


def _compared(run: Run, request: Request) -> tuple[RanksAnalysis | None, tuple[str, ...]]:
    """The ranks of a run that have a trace, compared where there are several, and what reading them had to say."""
    job = RunSource(run).job
    if len(run.parts) < 2 or len(job.files) < 2:
        return None, ()
    found, warnings = _summaries(job, replace(request, ranks=None))  # the parts are those of the asked ranks
    return compare_ranks([one.summary for one in found]), tuple(warnings)


def _with_parts(analysis: Analysis, run: Run) -> Analysis:
    """With the other ranks of a run: those with a trace were compared, of the others the steps were timed."""
    if len(run.parts) < 2:
        return analysis
    timed = {part.rank: run_times(part) for part in run.parts}
    rows = {
        rank: Rank(rank, times.bare_mean_s or times.mean_s, None, None, None, None, None)
        for rank, times in timed.items()
    }
    rows |= {row.rank: row for row in analysis.ranks}
    ranks = tuple(rows[rank] for rank in sorted(rows))
    return replace(analysis, source=replace(analysis.source, ranks=len(ranks)), ranks=ranks)
