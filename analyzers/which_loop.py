"""Which loop is the problem: the kernels, the training job around them, or the product that calls them?"""

from __future__ import annotations

from collections.abc import Sequence

from probe.results.analysis import Analysis, Loop
from probe.results.findings import Finding
from probe.units import format_fraction

MATTERS = 0.2  # of the step: less of exposed communication or of waiting for data leaves the kernels in front
STARVED = 0.5  # of the step: a device without work for so long is not slow, it is not asked; served requests: MATTERS
TRAINS = ("backward", "optimizer")


def which_loop(analysis: Analysis) -> Loop | None:
    """The loop, the gauge that says so, and what to do next; None where no time was recorded or nothing is known."""
    step_s = analysis.time_s.get("step")
    if not step_s:
        return None
    shares = {part: (seconds or 0.0) / step_s for part, seconds in analysis.time_s.items() if part != "step"}
    trains = any(word in op.name.lower() for op in analysis.ops for word in TRAINS)
    if shares["communication"] >= MATTERS:
        return _training("exposed communication", shares["communication"], analysis, "probe whatif --ranks N")
    waiting = shares["host"] + shares["idle"] + (shares["overhead"] if analysis.source.device_kind != "cpu" else 0.0)
    if trains and shares["host"] >= MATTERS and shares["host"] == max(shares.values()):
        return _training("waiting for the host", shares["host"], analysis, "feed it faster")
    if not trains and waiting >= (MATTERS if analysis.serving is not None else STARVED):
        told = f"{format_fraction(waiting, 0)} of a forward step is host, launches and idle"
        return Loop("product", "device starved", waiting, told, _next(analysis.findings, "probe whatif --batch FACTOR"))
    if shares["unknown"] + shares["idle"] > STARVED:
        return None
    kernels = shares["compute"] + shares["memory"] + shares["latency"] + shares["overhead"]
    told = f"{format_fraction(kernels, 0)} of the step is the operators' own time"
    return Loop("kernel", "operators", kernels, told, _next(analysis.findings, "probe analyze --top, then probe repro"))


def _training(gauge: str, share: float, analysis: Analysis, otherwise: str) -> Loop:
    told = f"{format_fraction(share, 0)} of the step is {gauge}"
    return Loop("training", gauge, share, told, _next(analysis.findings, otherwise))


def _next(findings: Sequence[Finding], otherwise: str) -> str:
    """The first suggestion that saves time, else where to look."""
    first = next((f for f in findings if f.saving_s), None)
    return f"{first.code}: {first.title}" if first is not None else otherwise
