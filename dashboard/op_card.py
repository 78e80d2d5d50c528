"""What is known of one operator, and why it is judged as it is? As text, for the card beside every view."""

from __future__ import annotations

from typing import Any

from probe.report.analysis import calls_text, uses_device
from probe.report.palette import LOOKS
from probe.report.text import kernel_name, printable, shorten
from probe.results.analysis import Analysis, Operator
from probe.units import UNKNOWN, format_bytes_per_s, format_flops_per_s, format_fraction, format_si, format_time

KERNELS_SHOWN = 5
LONGEST = 400


def card(analysis: Analysis, number: int) -> dict[str, Any]:
    """The card of operator `number`, every value as text that is safe to show as text."""
    op = analysis.ops[number]
    return {
        "op": op.index,
        "name": _text(op.name),
        "bound": op.bound,
        "mark": LOOKS[op.bound].mark,
        "limiter": _text(op.limiter or ""),
        "roof": op.roof_fraction,
        "roof_text": format_fraction(op.roof_fraction, 0) if op.roof_fraction is not None else "",
        "rows": [[label, _text(value)] for label, value in _rows(op, uses_device(analysis)) if value],
        "evidence": [_text(said) for said in op.evidence],
        "kernels": [
            [_text(kernel_name(k.name)), calls_text(k.calls), format_time(k.device_s)]
            for k in op.kernels[:KERNELS_SHOWN]
        ],
        "findings": [
            [f.code, _text(f.title), format_time(f.saving_s) if f.saving_s is not None else ""]
            for f in analysis.findings
            if number in f.ops
        ],
    }


def _text(value: str) -> str:
    return shorten(printable(value), LONGEST)


def _rows(op: Operator, on_device: bool) -> list[tuple[str, str]]:
    rate = format_flops_per_s(op.achieved_flops_per_s) if op.achieved_flops_per_s else ""
    moved = format_bytes_per_s(op.achieved_bytes_per_s) if op.achieved_bytes_per_s else ""
    return [
        ("Shapes", op.shapes or ""),
        ("Types", op.dtypes or ""),
        ("Module", op.module or ""),
        ("Called from", op.source or ""),
        ("Calls a step", calls_text(op.calls)),
        ("Device time" if on_device else "Self time", f"{format_time(op.device_s if on_device else op.self_s)} a step"),
        ("Host self time", format_time(op.self_s) if on_device else ""),
        ("Share of the step", format_fraction(op.share_fraction)),
        ("To gain, at most", format_time(op.recoverable_s) if op.recoverable_s is not None else UNKNOWN),
        ("Intensity", format_si(op.intensity, "FLOP/B") if op.intensity else ""),
        ("Achieved", " · ".join(part for part in (rate, moved) if part)),
    ]
