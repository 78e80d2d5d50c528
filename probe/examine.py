"""Read a source and say what is in it: readers, ceilings and analyzers wired together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from probe.analysis import Analysis, Source
from probe.analyzers.diagnosis import Beside, Diagnosis, diagnose
from probe.analyzers.ranks.compare import compare_ranks
from probe.analyzers.ranks.scaling import scaling, scaling_job
from probe.analyzers.ranks.summary import summarise
from probe.analyzers.steps import mean_data_wait_s, run_times, warm
from probe.device import Device
from probe.multirank import Rank, RanksAnalysis, RankSummary, ScalingJob, ScalingMode
from probe.ranks.files import Job, RankFile
from probe.ranks.summaries import summaries
from probe.readers import formats, ncu
from probe.readers.narrow import Selection
from probe.readers.ncu import KernelCounters
from probe.readers.opening import shown
from probe.roofs import choose_ceilings
from probe.run import Run
from probe.sources import FileSource, Found, Jobs, JobSource, Named, RunSource, find, only, trace_of
from probe.trace import Trace


@dataclass(frozen=True)
class Request:
    """How a source is to be read and placed."""

    ceilings: str | Path | None = None  # file of measured ceilings
    device: str | None = None  # name, where the trace does not say it
    selection: Selection = field(default_factory=Selection)
    ranks: frozenset[int] | None = None
    counters: str | Path | None = None  # CSV of Nsight Compute
    engine: Any = None  # "dask://host:port", or an executor
    jobs: int | None = None  # processes
    scaling: ScalingMode | None = None  # what stays the same over jobs of several sizes
    progress: Callable[[str, int, int | None], None] | None = None  # what is read, how far, of how much


def examine(source: Named, request: Request) -> Diagnosis:
    """Everything probe can say of a run, a trace, or the ranks of a job."""
    return _examine(find(source), request)


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


def _examine_file(found: FileSource, request: Request) -> Diagnosis:
    trace = read(found.source, request)
    diagnosis = _of_trace(trace, shown(found.source), formats.format_of(found.source).kind, request)
    if not len(trace.collectives):
        return diagnosis
    alone = compare_ranks([summarise(trace, trace.rank or 0)])
    return replace(diagnosis, analysis=replace(diagnosis.analysis, collectives=alone.collectives))


def _of_trace(trace: Trace, name: str, kind: Any, request: Request) -> Diagnosis:
    source = Source(name, kind, request.device or trace.device.name, trace.device.kind, 1, None, {})
    roofs = choose_ceilings(trace.device, request.ceilings, request.device, on_device=trace.on_device)
    beside = Beside(datasheet=roofs.datasheet, counters=_counters(request), warnings=roofs.warnings)
    return diagnose(trace, source, roofs.ceilings, beside)


def _counters(request: Request) -> tuple[KernelCounters, ...]:
    return ncu.read(request.counters) if request.counters is not None else ()


def _examine_job(found: JobSource, request: Request) -> Diagnosis:
    """The ranks compared, each read where it lies, and the lowest of them in full."""
    job = only(found.job, request.ranks)
    ranks, warnings = _summaries(job, request)
    lowest = next(f.source for f in job.files if shown(f.source) == ranks[0].path)
    diagnosis = _of_trace(read(lowest, request), found.name, formats.format_of(lowest).kind, request)
    said = f"operators, parts of the step and findings are those of rank {ranks[0].rank}"
    return replace(diagnosis, analysis=_with_ranks(diagnosis.analysis, compare_ranks(ranks), (*warnings, said)))


def _summaries(job: Job, request: Request) -> tuple[list[RankSummary], list[str]]:
    told = request.progress
    progress = None if told is None else (lambda done, count: told("reading ranks", done, count))
    steps = None if request.selection.everything else request.selection
    return summaries(job, request.engine, request.jobs, steps, progress)


def _examine_jobs(found: Jobs, request: Request) -> Diagnosis:
    """How the same training scales over jobs of several sizes; the largest one in full."""
    told = [(_scaling_job(one, request), one) for one in found.jobs]
    scaled = scaling([job for job, _ in told], request.scaling)
    largest = max(told, key=lambda entry: entry[0].world_size)[1]
    diagnosis = _examine(largest, request)
    said = f"operators, parts of the step and findings are those of the largest job, {diagnosis.analysis.source.path}"
    warnings = (*diagnosis.analysis.warnings, *scaled.warnings, said)
    return replace(diagnosis, analysis=replace(diagnosis.analysis, scaling=scaled, warnings=warnings))


def _scaling_job(found: FileSource | RunSource | JobSource, request: Request) -> ScalingJob:
    """The steps of one job: as the run timed them, else as its traces mark them."""
    if isinstance(found, RunSource):
        return _scaling_run(found.run)
    job = found.job if isinstance(found, JobSource) else Job((RankFile(found.source, None),))
    return scaling_job(_summaries(job, request)[0])


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


def _examine_run(found: RunSource, request: Request) -> Diagnosis:
    run = found.run
    part = run.main
    trace = read(trace_of(run), request)
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
    beside = Beside(
        timed=run_times(part),
        threads=part.environment.get("threads"),
        data_wait_s=mean_data_wait_s(part),
        datasheet=roofs.datasheet,
        counters=_counters(request),
        warnings=(*run.warnings, *part.warnings, *roofs.warnings),
    )
    diagnosis = diagnose(trace, source, roofs.ceilings, beside)
    return replace(diagnosis, analysis=_with_parts(diagnosis.analysis, run, found.job, request))


def _with_parts(analysis: Analysis, run: Run, job: Job, request: Request) -> Analysis:
    """What the other ranks of a run say: those with a trace are compared, of the others the steps were timed."""
    if len(run.parts) < 2:
        return analysis
    timed = {part.rank: run_times(part) for part in run.parts}
    rows = {
        rank: Rank(rank, times.bare_mean_s or times.mean_s, None, None, None, None, None)
        for rank, times in timed.items()
    }
    if len(job.files) > 1:
        found, warnings = _summaries(only(job, request.ranks), request)
        analysis = _with_ranks(analysis, compare_ranks(found), tuple(warnings))
        rows |= {row.rank: row for row in analysis.ranks}
    ranks = tuple(rows[rank] for rank in sorted(rows))
    return replace(analysis, source=replace(analysis.source, ranks=len(ranks)), ranks=ranks)
