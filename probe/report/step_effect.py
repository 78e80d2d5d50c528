"""What a change does to a whole step, in a few lines."""

from __future__ import annotations

import math

from probe.results.step_effect import FEWEST_LOSSES, StepEffect
from probe.units import format_bytes, format_fraction, format_time, significant


def lines_of(effect: StepEffect) -> list[str]:
    """The result in a few lines of text."""
    lines = [f"{effect.verdict}: {effect.reason}", f"  {effect.command}, with and without {effect.apply}"]
    kind = "CPU time" if effect.metric == "cpu_time" else "time"
    times = f"{format_time(effect.step_before_s)} → {format_time(effect.step_after_s)}"
    predicted = f", predicted {significant(effect.predicted_speedup)}×" if effect.predicted_speedup else ""
    lines.append(f"  {kind} of a step {times}{predicted}")
    lines.append(f"  {_losses_told(effect)}")
    if effect.peak_bytes_before is not None and effect.peak_bytes_after is not None:
        lines.append(
            f"  peak memory {format_bytes(effect.peak_bytes_before)} → {format_bytes(effect.peak_bytes_after)}"
        )
    lines += [f"  changed: {one}" for one in effect.changed]
    return [*lines, *(f"  {warning}" for warning in effect.warnings), f"Measured on {effect.device}."]


def _losses_told(effect: StepEffect) -> str:
    if effect.loss_difference is None:
        return f"losses not compared: {effect.loss_steps} steps with one, {FEWEST_LOSSES} are needed"
    own = effect.loss_difference_of_itself
    steps = f"the losses of {effect.loss_steps} steps"
    itself = f"; those of the unchanged program, run twice, {_apart(own)}" if own is not None else ""
    return f"{steps} {_apart(effect.loss_difference)}{itself}"


def _apart(fraction: float) -> str:
    if fraction == 0:
        return "are the same"
    if not math.isfinite(fraction):
        return "differ: some are not finite"
    return f"differ by up to {fraction:.1g}" if fraction < 0.01 else f"differ by up to {format_fraction(fraction, 0)}"
