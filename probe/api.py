"""The verbs of probe; the only place that wires sessions, readers, analyzers and the store together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from probe import analysis as objects
from probe.analyzers.cost_models import register
from probe.analyzers.cost_models.registry import Quantity
from probe.errors import UsageError
from probe.examine import Request, examine
from probe.export.traces import Traces, named
from probe.findings import Finding
from probe.ranks.asked import refuse_missing
from probe.readers import formats
from probe.readers.narrow import CATEGORIES, Category, Selection
from probe.report.analysis import as_text
from probe.scaling import ScalingMode
from probe.sources import Named, files_of
from probe.tensors import Tensors
from probe.trace import Trace

if TYPE_CHECKING:
    from probe.verify import Result


class Analysis(objects.Analysis):
    """What `analyze` returns: prints as the report of `probe analyze`."""

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        """The report in a notebook."""
        from probe.report.html import fragment

        return fragment(self)


def load(
    source: Named, *, steps: tuple[int, int] | None = None, window_s: tuple[float, float] | None = None,
    categories: Collection[Category] | None = None,
) -> Trace:  # fmt: skip
    """The trace in a file (Kineto/Chrome JSON, Nsight Systems export; a path or an fsspec URL), or a part of it.

    Of a run directory or of the traces of a job it is the last one of the lowest rank.
    steps: the first and the last wanted, as they are numbered in the trace.
    window_s: what overlaps these seconds from the start of the trace.
    categories: the wanted tables among "ops", "runtime", "kernels", "copies", "annotations", "collectives".
    """
    return formats.read(files_of(source)[0], _selection(steps, window_s, categories))


def load_all(
    source: Named, *, steps: tuple[int, int] | None = None, window_s: tuple[float, float] | None = None,
    ranks: Collection[int] | None = None, progress: Callable[[str, int, int | None], None] | None = None,
) -> Traces:  # fmt: skip
    """The traces of the ranks that `source` names, in order of rank; each is read when it is asked for, and one held.

    steps, window_s: as for `load`, of each rank. ranks: only these. progress: as for `analyze`.
    """
    traces = Traces(named(files_of(source)), _selection(steps, window_s, None), progress)
    if ranks is None:
        return traces
    there = traces.ranks
    refuse_missing(traces.name, ranks, (rank for rank in there if rank is not None), there.count(None))
    return traces.of(ranks)


def load_tensors(source: Named, execution_trace: str | Path) -> Tensors:
    """Which tensors the operators of a trace read and wrote, as PyTorch's ExecutionTraceObserver recorded beside it.

    execution_trace: the observer's JSON file, of the same run: operators are joined on their record-function id.
    """
    from probe.readers import execution_trace as recording

    return recording.join(load(source), recording.read(Path(execution_trace)))


def analyze(
    source: Named = None, *, ceilings: str | Path | None = None, device: str | None = None,
    steps: tuple[int, int] | None = None, window_s: tuple[float, float] | None = None,
    ranks: Collection[int] | None = None, counters: str | Path | None = None,
    scaling: ScalingMode | None = None, engine: str | Executor | None = None, jobs: int | None = None,
    progress: Callable[[str, int, int | None], None] | None = None, preview: bool = False,
) -> Analysis:  # fmt: skip
    """Where the time goes in a run directory or trace file, what bounds it, and what to change first.

    source: by default the newest run under ./runs. A directory, a pattern, an fsspec URL or a list of traces is a job
        of many ranks: they are compared, and the lowest one is analysed in full.
    ceilings: a file of measured ceilings; by default those stored for the device of the run, else its datasheet's.
    device: the name of the device, where the trace does not say it ("H100 SXM").
        Several directories are jobs of several sizes: their steps are compared, and the largest job is analysed.
    steps, window_s: as for `load`. ranks: only these.
    counters: CSV file of Nsight Compute for the same program: measured FLOP and bytes take the place of modelled ones.
    scaling: "weak" (each rank does the same work at every size), "strong" (all ranks together do), or "throughput".
    engine, jobs: where ranks are read: an Executor or "dask://host:port", by default that many processes here.
    progress: called with what is being read, how far it is, and of how much (None: not known).
    preview: with the rules that are not on by default; their findings are marked.
    """
    request = Request(
        ceilings=ceilings, device=device, selection=_selection(steps, window_s, None),
        ranks=None if ranks is None else frozenset(ranks), counters=counters, scaling=scaling, engine=engine,
        jobs=jobs, progress=progress, preview=preview,
    )  # fmt: skip
    return _presentable(examine(source, request).analysis)


def _selection(
    steps: tuple[int, int] | None, window_s: tuple[float, float] | None, categories: Collection[Category] | None
) -> Selection:
    unknown = set(categories or ()) - CATEGORIES
    if unknown:
        raise UsageError(f"no category {', '.join(sorted(unknown))}; there are {', '.join(sorted(CATEGORIES))}")
    window_ns = None if window_s is None else (round(window_s[0] * 1e9), round(window_s[1] * 1e9))
    return Selection(steps, window_ns, None if categories is None else frozenset(categories))


def verify(
    source: Named = None, *, codes: Sequence[str] = (), op: int | None = None, budget_s: float = 300.0,
    ceilings: str | Path | None = None,
) -> Analysis:  # fmt: skip
    """The analysis of `source` with every suggestion that can be run here run on its recorded shapes.

    codes, op: only suggestions of these rules, only those that concern the operator of that index.
    budget_s: time for all of them together; most saving first.
    """
    from probe.verify import verify_site  # with what runs replacements; reading a trace does without it

    diagnosis = examine(source, Request(ceilings=ceilings))
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
    from probe import session

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
