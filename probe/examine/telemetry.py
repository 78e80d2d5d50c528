"""What did telemetry see beside a run? From the parts in its directory to what the analysis says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from probe.analyzers.telemetry.bounds import OperatorFacts
from probe.analyzers.telemetry.overview import RunFacts, telemetry_use
from probe.results.analysis import Analysis, Operator
from probe.results.telemetry import OperatorConfidence, Telemetry, TelemetryUse, Window
from probe.runs import telemetry_files
from probe.runs.run import RankPart

NO_WARNING = ("dram-saturated", "sm-busy", "gil-held")  # confirmations; and what every loop of small operators does


def read(directory: Path, part: RankPart) -> Telemetry:
    """The telemetry of a rank. What cannot be read is in its warnings."""
    samples, warnings = telemetry_files.read(directory, part.rank, part.launch, _clock(part))
    try:
        windows = msgspec.convert(part.telemetry.get("windows", []), tuple[Window, ...])
    except msgspec.ValidationError as error:
        windows, warnings = (), (*warnings, f"telemetry: when the steps ran is damaged ({error})")
    return Telemetry(samples, windows, warnings)


def _clock(part: RankPart) -> tuple[int, int] | None:
    """The clocks when sampling began, as the run says them."""
    told = part.telemetry.get("clock")
    if not isinstance(told, dict):
        return None
    monotonic_ns, unix_ns = told.get("monotonic_ns"), told.get("unix_ns")
    return (monotonic_ns, unix_ns) if isinstance(monotonic_ns, int) and isinstance(unix_ns, int) else None


def with_telemetry(analysis: Analysis, directory: Path, part: RankPart, data_wait_s: float | None) -> Analysis:
    """The analysis with what telemetry adds; as it is where nothing was asked for."""
    if not part.telemetry:
        return analysis
    telemetry = read(directory, part)
    facts = _facts(analysis, data_wait_s)
    sources = part.telemetry.get("sources")
    use = telemetry_use(telemetry, sources if isinstance(sources, dict) else {}, facts)
    said = (judgement.says for judgement in use.judgements if judgement.code not in NO_WARNING)
    doubted = (f"operator {one.op}, {one.name}: {_words(one)}" for one in use.ops if one.says != "confirmed")
    warnings = (*analysis.warnings, *telemetry.warnings, *said, *doubted)
    return replace(analysis, telemetry=use, ops=_with_evidence(analysis.ops, use), warnings=warnings)


def _facts(analysis: Analysis, data_wait_s: float | None) -> RunFacts:
    steps, busy = analysis.steps, analysis.utilisation.device_busy_fraction
    on_gpu = analysis.source.device_kind == "cuda"
    recorded_s = steps.profiled_mean_s or steps.mean_s
    return RunFacts(
        bound=analysis.bound,
        step_s=steps.bare_mean_s or steps.mean_s,
        data_wait_s=data_wait_s,
        busy_fraction=busy if on_gpu else None,
        busy_s=busy * recorded_s if on_gpu and busy is not None and recorded_s is not None else None,
        ops=tuple(OperatorFacts(op.index, op.name, op.bound, op.device_s) for op in analysis.ops) if on_gpu else (),
    )


def _words(one: OperatorConfidence) -> str:
    return f"{one.bound}-bound is {one.says} by telemetry: {'; '.join(one.evidence)}"


def _with_evidence(ops: tuple[Operator, ...], use: TelemetryUse) -> tuple[Operator, ...]:
    """The operators with what telemetry says of their class among their evidence; nothing else of them changes."""
    said = {one.op: _words(one) for one in use.ops}
    return tuple(replace(op, evidence=(*op.evidence, said[op.index])) if op.index in said else op for op in ops)
