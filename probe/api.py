"""The verbs of probe as functions; what they need is wired together in examine, changes and projecting."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, fields, replace
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from probe.analyzers.cost_models import register
from probe.analyzers.cost_models.registry import Quantity
from probe.changes.verifying import remembered
from probe.errors import UsageError
from probe.examine.examine import Request, examine
from probe.examine.sources import Named, files_of
from probe.export.traces import Traces, named
from probe.ranks.asked import refuse_missing
from probe.readers import formats
from probe.readers.narrow import CATEGORIES, Category, Selection
from probe.report.analysis import as_text
from probe.report.verification import as_text as as_verdicts
from probe.results import analysis as objects
from probe.results.findings import Finding, Verified
from probe.results.scaling import ScalingMode
from probe.runs import analysis_cache
from probe.schema import to_jsonable
from probe.tensors import Tensors
from probe.trace import Trace

if TYPE_CHECKING:
    from probe.results.step_effect import StepEffect


class Analysis(objects.Analysis):
    """What `analyze` returns: prints as the report of `probe analyze`."""

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        """The report in a notebook."""
        from probe.report.html import fragment

        return fragment(self)


@dataclass(frozen=True)
class Verification:
    """What `verify` returns: the analysis with verdicts, and those on the caller's own kernel."""

    analysis: Analysis
    candidates: tuple[Verified, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The analysis' findings, with their verdicts."""
        return self.analysis.findings

    def to_json(self) -> dict[str, Any]:
        """The object of the contract: the analysis, and `candidates`."""
        return {**self.analysis.to_json(), "candidates": to_jsonable(self.candidates)}

    def to_pandas(self) -> Any:
        """One row per replacement that was run."""
        import pandas as pd

        tried = [(f.code, v) for f in self.findings for v in (f.verified, *f.alternatives) if v is not None]
        tried += [("", verdict) for verdict in self.candidates]
        return pd.DataFrame([{"code": code, **to_jsonable(verdict)} for code, verdict in tried])

    def __str__(self) -> str:
        return as_verdicts(self.analysis, self.candidates)

    def _repr_html_(self) -> str:
        """The verdicts in a notebook."""
        return f"<pre>{escape(str(self))}</pre>"


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
    price: float | None = None,
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
    price: US dollars for an hour of one device; by default `price_per_gpu_hour` of [tool.probe] (docs/runs.md).
    """
    request = Request(
        ceilings=ceilings, device=device, selection=_selection(steps, window_s, None),
        ranks=None if ranks is None else frozenset(ranks), counters=counters, scaling=scaling, engine=engine,
        jobs=jobs, progress=progress, preview=preview, price=price,
    )  # fmt: skip
    found = _presentable(remembered(examine(source, request)))
    if request.selection.everything and ranks is None and device is None:
        analysis_cache.keep(found)
    return found


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
    ceilings: str | Path | None = None, candidate: str | None = None,
) -> Verification:  # fmt: skip
    """The analysis of `source` with every suggestion that can be run here run on its recorded shapes.

    codes, op: only suggestions of these rules, only those that concern the operator of that index.
    budget_s: time for all of them together; most saving first.
    candidate: "FILE.py:FUNCTION", a kernel of your own, in place of operator `op` or of the chain of the one code.
    """
    from probe.changes.verifying import Wish, verified
    from probe.repro.recorded import Recording
    from probe.verify import own as users

    own = users.parse(candidate) if candidate is not None else None
    diagnosis = examine(source, Request(ceilings=ceilings))
    call = None
    if own is not None and op is not None:
        call = Recording(diagnosis.analysis, load(source)).call(op)
    outcome = verified(diagnosis, Wish(tuple(codes), op, budget_s, own, call))
    return Verification(_presentable(outcome.analysis), outcome.candidates)


def step_effect(
    source: Named = None, *, apply: str, command: Sequence[str] = (), codes: Sequence[str] = (),
    budget_s: float = 300.0, progress: Callable[[str], None] = lambda text: None,
) -> StepEffect:  # fmt: skip
    """The program of the run `source`, or `command`, with and without `apply` ("MODULE:FUNC"), in fresh processes.

    codes: the rules whose suggestions `apply` follows; their stated saving is set beside what is measured.
    """
    from probe.changes.applying import apply_to

    return apply_to(source, apply, tuple(command), tuple(codes), budget_s, progress)


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
