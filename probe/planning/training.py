"""How long does training take, what does it cost, and how often should it save? 6ND, MFU, failures, Young and Daly."""

from __future__ import annotations

import math
from typing import Any

from probe.planning.result import Part, Plan, fraction, positive

HOUR = 3600.0


def interval_s(write_s: float, mean_time_between_failures_s: float) -> float:
    """The best time between checkpoints: Daly's higher-order form of Young's √(2·δ·M), for δ < 2M (else M)."""
    delta, mtbf = write_s, mean_time_between_failures_s
    if delta >= 2 * mtbf:
        return mtbf
    x = delta / (2 * mtbf)
    return math.sqrt(2 * delta * mtbf) * (1 + math.sqrt(x) / 3 + x / 9) - delta


def lost_fraction(interval: float, write_s: float, restart_s: float, mtbf_s: float) -> float:
    """The share of the time that writing, computing again and restarting take: Daly's complete model of the run."""
    if mtbf_s == math.inf:
        return write_s / (interval + write_s)
    if (restart_s + interval + write_s) / mtbf_s > 600:  # e^600: no run ends, and a float goes little further
        return 1.0
    expected = mtbf_s * math.exp(restart_s / mtbf_s) * math.expm1((interval + write_s) / mtbf_s)
    return 1 - interval / expected if math.isfinite(expected) else 1.0


def training(
    *, parameters: float, tokens: float, devices: int, peak_flops_per_s: float, mfu: float = 0.4,
    usd_per_hour: float | None = None, failures_per_device_day: float | None = None,
    checkpoint_s: float | None = None, restart_s: float = 600.0, recompute: bool = False,
) -> Plan:  # fmt: skip
    """Wall time and cost of training on so many tokens. parameters: those that a token uses."""
    positive(parameters=parameters, tokens=tokens, devices=devices, peak_flops_per_s=peak_flops_per_s,
             checkpoint_s=checkpoint_s, restart_s=restart_s, price=usd_per_hour,
             failures_per_device_day=failures_per_device_day)  # fmt: skip
    fraction(mfu=mfu)
    flops = 6.0 * parameters * tokens
    bare_s = flops / (devices * peak_flops_per_s * mfu)
    result: dict[str, Any] = {"flops": flops, "compute_s": bare_s, "total_s": bare_s}
    parts = [Part("computation", seconds=bare_s, how=f"6ND at {mfu:.0%} MFU")]
    if checkpoint_s is not None and failures_per_device_day is not None:
        mtbf = 86400.0 / (failures_per_device_day * devices)
        every = interval_s(checkpoint_s, mtbf)
        lost = lost_fraction(every, checkpoint_s, restart_s, mtbf)
        total_s = bare_s / (1 - lost) if lost < 1 else math.inf
        result |= {"mean_time_between_failures_s": mtbf, "checkpoint_every_s": every, "lost_fraction": lost,
                   "total_s": total_s, "failures_expected": total_s / mtbf}  # fmt: skip
        parts.append(Part("checkpoints, failures and restarts", seconds=total_s - bare_s))
    if usd_per_hour is not None:
        result["usd"] = usd_per_hour * devices * result["total_s"] / HOUR
    inputs = {"parameters": parameters, "tokens": tokens, "devices": devices, "peak_flops_per_s": peak_flops_per_s,
              "mfu": mfu, "usd_per_hour": usd_per_hour, "failures_per_device_day": failures_per_device_day,
              "checkpoint_s": checkpoint_s, "restart_s": restart_s}  # fmt: skip
    said = ["6 FLOP a parameter and token: the attention's own products are not counted"]
    if recompute:
        said.append("recomputation is in the MFU that was measured or assumed")
    warnings = [] if math.isfinite(result["total_s"]) else ["it fails more often than it can save: it never ends"]
    return Plan("training", inputs, result, tuple(parts), tuple(said), tuple(warnings))
