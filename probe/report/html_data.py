"""What the script of a report needs to draw: operators, roofs and the timeline as JSON that no markup can leave.

An operator is a row of numbers; texts stand once, in a table. Names are what `printable` leaves of them, and the signs
that a browser could read as the end of the element are written as escapes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from probe.report.analysis import by_possible_gain, operator_name, uses_device
from probe.report.html_timeline import Strip, content
from probe.report.palette import CLASSES, LOOKS
from probe.report.roofline.plane import placed, plane, roofs, roofs_met
from probe.report.roofline.svg import DOTS
from probe.report.text import kernel_name, printable, shorten
from probe.results.analysis import Analysis, Operator
from probe.units import format_fraction

MOST_OPERATORS = 2000  # of those with most to gain
LEAST_OPERATORS = 50
FEWER = 0.8  # of the operators, each time the page would be too large
LONGEST_NAME, LONGEST_EVIDENCE = 300, 240  # characters
KERNELS_SHOWN = 5
DIGITS = 5
INTERNED = ("name", "shapes", "dtypes", "module", "bound", "limiter")
FIELDS = (
    *INTERNED, "index", "calls", "time", "spread", "share", "rate", "moved", "intensity", "roof", "gain", "evidence",
    "kernels",
)  # fmt: skip
_ESCAPES = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


class _Strings:
    """Texts, each once, by their place."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def of(self, text: str | None, most: int = LONGEST_NAME) -> int | None:
        """The place of a text, made fit to be shown; None where there is none."""
        if not text:
            return None
        return self.places.setdefault(shorten(printable(text), most), len(self.places))


def payload(analysis: Analysis, top: int, strip: Strip | None, room_bytes: int, *, page: bool) -> str:
    """The JSON text, with as many operators as fit into the room. `page`: the address is the report's own."""
    everything = by_possible_gain(analysis.ops)
    fixed = {
        **_surroundings(analysis), "page": page, "top": top,
        "timeline": content(strip) if strip is not None else None,
    }  # fmt: skip
    count = min(MOST_OPERATORS, len(everything))
    while True:
        text = _text({**fixed, **_operators(everything, count, uses_device(analysis))})
        if len(text.encode()) <= room_bytes or count <= LEAST_OPERATORS:
            return text
        count = max(int(count * FEWER), LEAST_OPERATORS)


def _text(found: object) -> str:
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(_ESCAPES)


def _surroundings(analysis: Analysis) -> dict[str, Any]:
    return {
        "time": "device" if uses_device(analysis) else "self",
        "classes": list(CLASSES),
        "codes": [*CLASSES, "range", "python"],
        "signs": [LOOKS[name].mark for name in CLASSES],
        "roofline": _roofline(analysis),
    }


def _roofline(analysis: Analysis) -> dict[str, Any] | None:
    """The roofs and the ends of both axes; None where a roof is missing."""
    ceilings = analysis.ceilings
    if ceilings is None or not ceilings.dram_bytes_per_s or not ceilings.flops_per_s:
        return None
    met = roofs_met(analysis, ceilings)
    lines = roofs(met)
    area = plane(lines, placed(analysis.ops)[:DOTS])
    return {
        "plane": [area.low_x, area.high_x, area.low_y, area.high_y],
        "roofs": [
            {"label": printable(roof.label), "rate": roof.rate, "sloped": roof.sloped, "met": roof.met}
            for roof in lines
        ],
    }


def _operators(ops: Sequence[Operator], count: int, on_device: bool) -> dict[str, Any]:
    strings = _Strings()
    rows = [_row(op, strings, on_device) for op in ops[:count]]
    return {
        "fields": FIELDS, "interned": INTERNED, "ops": rows, "strings": list(strings.places),
        "rule": _rule(ops, count),
    }  # fmt: skip


def _rule(ops: Sequence[Operator], count: int) -> str:
    """Which operators the page holds."""
    if count >= len(ops):
        return "Times are per step."
    share = format_fraction(sum(op.share_fraction for op in ops[count:]))
    return (
        f"Times are per step. The page holds the {count} operators with most time to gain of {len(ops)}; "
        f"the others take {share} of the step."
    )


def _row(op: Operator, strings: _Strings, on_device: bool) -> list[Any]:
    names = [operator_name(op.name), op.shapes, op.dtypes, op.module, op.bound, op.limiter]
    numbers = [
        op.calls, op.device_s if on_device else op.self_s, op.spread_s, op.share_fraction, op.achieved_flops_per_s,
        op.achieved_bytes_per_s, op.intensity, op.roof_fraction, op.recoverable_s,
    ]  # fmt: skip
    kernels = [[strings.of(kernel_name(k.name)), _short(k.calls), _short(k.device_s)] for k in op.kernels]
    return [
        *(strings.of(name) for name in names), op.index, *map(_short, numbers),
        [strings.of(said, LONGEST_EVIDENCE) for said in op.evidence if said],
        [kernel for kernel in kernels[:KERNELS_SHOWN] if kernel[0] is not None],
    ]  # fmt: skip


def _short(value: float | None) -> float | int | None:
    """A number in few digits; None for what is none."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
