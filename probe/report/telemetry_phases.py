"""What did device and host do in each phase that the program annotated? One line."""

from __future__ import annotations

from collections.abc import Iterator

from probe.report.text import printable
from probe.results.telemetry import PhaseUse, TelemetryUse
from probe.units import format_fraction, format_si

MOST = 4
# The first that is known of each row: name, label, unit
SHOWN = (
    (("mean_power_w", "power_w"), "", "W"),
    (("gpu_utilisation_fraction",), "GPU busy", "fraction"),
    (("dram_active_fraction",), "DRAM active", "fraction"),
    (("process_cpu_cores",), "cores used", ""),
    (("loop_run_queue_fraction",), "without a core", "fraction"),
)
MOST_FIGURES = 3


def phase_words(use: TelemetryUse | None) -> str:
    """The longest phases, their share of the time and what was sampled; "" where none was annotated."""
    if use is None or not use.phases:
        return ""
    words = [_words(phase) for phase in use.phases[:MOST]]
    if any(phase.reason for phase in use.phases[:MOST]):
        words.append("those without figures are shorter than the time between readings")
    return " · ".join(words)


def _words(phase: PhaseUse) -> str:
    figures = ", ".join(list(_figures(phase))[:MOST_FIGURES])
    share = f"{printable(phase.name)} {format_fraction(phase.share_fraction)}"
    return f"{share} ({figures})" if figures else share


def _figures(phase: PhaseUse) -> Iterator[str]:
    """Of the first device that says it; with several, the others are in the JSON."""
    for names, label, unit in SHOWN:
        found = next((q for name in names for q in phase.quantities if q.name == name), None)
        if found is not None:
            value = format_fraction(found.mean) if unit == "fraction" else format_si(found.mean, unit)
            yield f"{label} {value}".strip()
