"""How much of a device does the step use: busy time, and FLOP and bytes against the published dense peaks?"""

from __future__ import annotations

from collections.abc import Sequence

from probe.analyzers.operators.steps import busy_fraction
from probe.machine.device import Ceilings
from probe.results.analysis import Utilisation
from probe.trace import Steps, Trace

ENOUGH_KNOWN = 0.9  # share of the time with a known cost below which no utilisation is given: it would be too low

Row = tuple[float | None, float | None, str | None]  # FLOP and bytes per step of an operator, and its element type


def utilisation(
    trace: Trace, steps: Steps, rows: Sequence[Row], step_s: float, datasheet: Ceilings | None,
    known_fraction: float | None,
) -> tuple[Utilisation, tuple[str, ...]]:  # fmt: skip
    """Utilisation, and why parts of it are not given; a CPU has no published peaks and needs no reason."""
    busy = busy_fraction(trace, steps)
    if not trace.on_device or not step_s:
        return Utilisation(busy), ()
    if datasheet is None:
        return Utilisation(busy), ("mfu and mbu are not given: the published peaks of this device are not known",)
    if (known_fraction or 0.0) < ENOUGH_KNOWN:
        share = f"{known_fraction or 0.0:.0%} of the time"
        return Utilisation(busy), (f"mfu and mbu are not given: costs are known for {share}, too little",)
    peaks = datasheet.flops_per_s
    at_peak = sum(flops / peaks[dtype] for flops, _, dtype in rows if flops and dtype is not None and dtype in peaks)
    moved = sum(size or 0.0 for _, size, _ in rows)
    flops = at_peak / step_s
    traffic = moved / datasheet.dram_bytes_per_s / step_s if datasheet.dram_bytes_per_s else None
    recomputes = any("Checkpoint" in name for name in trace.names)
    found = Utilisation(
        device_busy_fraction=busy,
        mfu_fraction=None if recomputes else _possible(flops),
        hfu_fraction=_possible(flops),
        mbu_fraction=_possible(traffic),
    )
    return found, tuple(_reasons(flops, traffic, recomputes=recomputes))


def _reasons(flops: float, traffic: float | None, *, recomputes: bool) -> list[str]:
    said = []
    if recomputes:
        said.append("mfu is not given: activations are computed twice; a trace does not tell which FLOP those are")
    if _possible(flops) is None:
        said.append("mfu and hfu are not given: more FLOP than the published peak allows; is it that device?")
    if traffic is not None and _possible(traffic) is None:
        said.append("mbu is not given: caches served what was counted as memory traffic")
    return said


def _possible(fraction: float | None) -> float | None:
    """The fraction; None where it exceeds 1."""
    return fraction if fraction is not None and fraction <= 1 else None
