"""What did telemetry see beside a run? From the parts in its directory to what the analysis says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from probe import telemetry_files
from probe.analysis import Analysis
from probe.analyzers.telemetry import RunFacts, telemetry_use
from probe.run import RankPart
from probe.telemetry import Telemetry, Window

NO_WARNING = ("dram-saturated", "sm-busy", "gil-held")  # confirmations; and what every loop of small operators does


def read(directory: Path, part: RankPart) -> Telemetry:
    """The telemetry of a rank. What cannot be read is in its warnings."""
    samples, warnings = telemetry_files.read(directory, part.rank, part.launch)
    try:
        windows = msgspec.convert(part.telemetry.get("windows", []), tuple[Window, ...])
    except msgspec.ValidationError as error:
        windows, warnings = (), (*warnings, f"telemetry: when the steps ran is damaged ({error})")
    return Telemetry(samples, windows, warnings)


def with_telemetry(analysis: Analysis, directory: Path, part: RankPart, data_wait_s: float | None) -> Analysis:
    """The analysis with what telemetry adds; as it is where nothing was asked for."""
    if not part.telemetry:
        return analysis
    telemetry = read(directory, part)
    facts = RunFacts(
        bound=analysis.bound,
        step_s=analysis.steps.bare_mean_s or analysis.steps.mean_s,
        data_wait_s=data_wait_s,
        busy_fraction=analysis.utilisation.device_busy_fraction if analysis.source.device_kind == "cuda" else None,
    )
    sources = part.telemetry.get("sources")
    use = telemetry_use(telemetry, sources if isinstance(sources, dict) else {}, facts)
    said = (judgement.says for judgement in use.judgements if judgement.code not in NO_WARNING)
    return replace(analysis, telemetry=use, warnings=(*analysis.warnings, *telemetry.warnings, *said))
