"""Which suggestions of an analysis are verified, on what, and what is then known: the verb `verify` step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from probe.analyzers.diagnosis import Diagnosis
from probe.analyzers.rules.catalogue import Found
from probe.errors import UsageError
from probe.results.analysis import Analysis
from probe.results.findings import Finding, Verified
from probe.sites import ChainSite, Read, Site, Step

if TYPE_CHECKING:
    from probe.repro.recorded import RecordedCall
    from probe.verify.engine import Result
    from probe.verify.task import OwnCandidate


@dataclass(frozen=True)
class Wish:
    """What is asked for. own: the user's kernel; call: the operator that it stands for, where one was named."""

    codes: tuple[str, ...] = ()
    op: int | None = None
    budget_s: float = 300.0
    own: OwnCandidate | None = None
    call: RecordedCall | None = None


@dataclass(frozen=True)
class Outcome:
    """The analysis with its verdicts, and those on the user's own kernel."""

    analysis: Analysis
    candidates: tuple[Verified, ...] = ()


def verified(diagnosis: Diagnosis, wish: Wish) -> Outcome:
    """Run what is asked for in processes of its own, keep the verdicts, and put them into the analysis."""
    from probe.verify.supervised import verify_all
    from probe.verify.task import Task

    chosen = _chosen(diagnosis, wish)
    sites = [site for _, site in chosen] if wish.call is None else [site_of_call(wish.call)]
    device, warnings = _device(diagnosis.analysis)
    tasks = [Task(site, device, wish.budget_s, own=wish.own) for site in sites]
    results = verify_all(tasks, wish.budget_s)
    if wish.own is not None:
        told = tuple(_verified(r) for one in results for r in one)
        return Outcome(_warned(diagnosis.analysis, warnings), told)
    warnings += _kept(diagnosis.analysis, chosen, results)
    by_id = {finding.id: one for (finding, _), one in zip(chosen, results, strict=True)}
    findings = tuple(_with_verdict(f, by_id.get(f.id, ())) for f in diagnosis.analysis.findings)
    return Outcome(replace(_warned(diagnosis.analysis, warnings), findings=findings))


def _chosen(diagnosis: Diagnosis, wish: Wish) -> list[tuple[Finding, Site]]:
    """The findings that can be run and are asked for; largest expected saving first."""
    if wish.call is not None:
        return []
    found = [(f.finding, f.site) for f in diagnosis.found if f.site is not None and _asked(f, wish)]
    if (wish.codes or wish.op is not None) and not found:
        asked = ", ".join(wish.codes) or f"operator {wish.op}"
        path = diagnosis.analysis.source.path
        raise UsageError(f"no suggestion for {asked} in {path} can be run; see probe analyze")
    if wish.own is not None and len(found) != 1:
        raise UsageError(
            f"--candidate stands for one operator or one chain, and {len(found)} suggestions are meant; "
            "name one with --code, or an operator with --op"
        )
    return sorted(found, key=lambda pair: -(pair[0].saving_s or 0.0))


def _asked(found: Found, wish: Wish) -> bool:
    wanted = not wish.codes or found.finding.code in wish.codes
    return wanted and (wish.op is None or wish.op in found.finding.ops)


def site_of_call(call: RecordedCall) -> ChainSite:
    """One recorded operator as a chain of one."""
    signature = call.signature
    count = 0
    for dims, dtype in zip(signature.dims, signature.dtypes, strict=False):
        if dims and isinstance(dims[0], tuple):
            count += len(dims)
        elif dims or dtype not in ("", "Scalar", "ScalarList", "None", "GenericList", "TensorList"):
            count += 1
    reads = tuple(Read(None, number) for number in range(count))
    step = Step(call.name, signature, reads, call.list_dtype)
    return ChainSite("", (step,), training=False, known=True)


def _device(analysis: Analysis) -> tuple[str, tuple[str, ...]]:
    """Where it is run, and what to say where that is not where it was recorded."""
    from probe.verify.bench import bench

    device = "cuda:0" if analysis.source.device_kind in ("cuda", "rocm") and _has_gpu() else "cpu"
    here, there = bench(device).name, analysis.source.device
    if there is None or here == there:
        return device, ()
    return device, (f"verified on {here}, and valid for it alone; the run was recorded on {there}",)


def _has_gpu() -> bool:
    from probe.machine.environment import load_torch

    torch, _ = load_torch()
    return torch is not None and bool(torch.cuda.is_available())


def _kept(
    analysis: Analysis, chosen: Sequence[tuple[Finding, Site]], results: Sequence[Sequence[Result]]
) -> tuple[str, ...]:
    """The verdicts go to the run's ledger and to the user's; warnings where they cannot."""
    from probe.verify import ledger

    version = analysis.source.torch or "unknown"
    new = [
        entry
        for (finding, site), one in zip(chosen, results, strict=True)
        for entry in ledger.entries(finding, site, map(_verified, one), version)
        if entry.verified.reason not in ("interrupted",)
    ]
    files = [ledger.user_file(), *(path / ledger.NAME for path in [Path(analysis.source.path)] if path.is_dir())]
    said = (ledger.keep(file, new) for file in files) if new else ()
    return tuple(sentence for sentence in said if sentence)


def _verified(result: Result) -> Verified:
    """What is shown of a result: with the replacement's name, and why."""
    return replace(result.verified, candidate=result.candidate, reason=result.reason)


def _with_verdict(finding: Finding, results: Sequence[Result]) -> Finding:
    """The finding with what became of its replacements, the best one first."""
    if not results:
        return finding
    told = [_verified(result) for result in results]
    return replace(finding, verified=told[0], alternatives=tuple(told[1:]))


def _warned(analysis: Analysis, warnings: Sequence[str]) -> Analysis:
    return replace(analysis, warnings=(*analysis.warnings, *warnings))


def remembered(diagnosis: Diagnosis) -> Analysis:
    """The analysis with what its run's ledger and the user's know of its findings already."""
    from probe.verify import ledger

    analysis = diagnosis.analysis
    path = Path(analysis.source.path)
    own = ledger.read(path / ledger.NAME) if path.is_dir() else ()
    everywhere = ledger.read(ledger.user_file())
    if not own and not everywhere:
        return analysis
    sites = {found.finding.id: found.site for found in diagnosis.found}
    findings = []
    for finding in analysis.findings:
        known, site = ledger.recalled(finding, own), sites.get(finding.id)
        if known.verified is None and site is not None:
            known = ledger.with_precedents(known, site, everywhere, analysis.source.device or "")
        findings.append(known)
    return replace(analysis, findings=tuple(findings))
