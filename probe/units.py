"""Print quantities with their units, and read sizes that people type.

Inside probe everything is SI (seconds, bytes, FLOP, watts); a prefix is chosen here, on printing, and only here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from probe.errors import UsageError

UNKNOWN = "–"

_SI = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_BINARY = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<prefix>[kmgt]?)(?P<binary>i?)b?", re.IGNORECASE)


def significant(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits and no exponent: 0.0123, 1.23, 123, 1234."""
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, decimals)
    return f"{rounded:.{max(0, digits - 1 - math.floor(math.log10(abs(rounded))))}f}"


def format_time(seconds: float | None, digits: int = 3) -> str:
    """12.3 ms, 4.56 µs, 0.1 ns; minutes from 100 s upwards."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds == 0:
        return "0 s"
    if abs(seconds) >= 100:
        return f"{seconds / 60:.1f} min"
    for scale, unit in _SECONDS:
        if abs(seconds) >= scale * 0.9995:
            return f"{significant(seconds / scale, digits)} {unit}"
    return f"{significant(seconds / 1e-9, digits)} ns"


def format_si(value: float | None, unit: str, digits: int = 3) -> str:
    """`value` with a decimal prefix: 4.31 TB/s, 152 GFLOP/s, 12 k."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    for scale, prefix in _SI:
        if abs(value) >= scale * 0.9995:
            return f"{significant(value / scale, digits)} {prefix}{unit}".rstrip()
    return f"{significant(value, digits)} {unit}".rstrip()


def format_bytes(count: float | None) -> str:
    """A size in memory, with binary prefixes: 64 KiB, 1.5 GiB."""
    if count is None or not math.isfinite(count):
        return UNKNOWN
    for scale, unit in _BINARY:
        if abs(count) >= scale:
            number = count / scale
            return f"{number:.0f} {unit}" if number == int(number) else f"{significant(number)} {unit}"
    return f"{count:.0f} B"


def format_bytes_per_s(rate: float | None) -> str:
    """A bandwidth, with decimal prefixes as datasheets use them: 4.31 TB/s."""
    return format_si(rate, "B/s")


def format_flops_per_s(rate: float | None) -> str:
    """An arithmetic rate: 152 GFLOP/s."""
    return format_si(rate, "FLOP/s")


def format_fraction(fraction: float | None, digits: int = 1) -> str:
    """A ratio between 0 and 1 as a percentage: 12.3 %."""
    if fraction is None or not math.isfinite(fraction):
        return UNKNOWN
    return f"{fraction * 100:.{digits}f} %"


def format_value(value: float | None, unit: str) -> str:
    """`value` of a measurement whose unit is one of the contract's: s, B/s, FLOP/s, Hz, fraction, ratio."""
    if unit == "s":
        return format_time(value)
    if unit == "fraction":
        return format_fraction(value)
    if unit == "ratio" and value is not None:
        return f"{value:.2f}×"
    return format_si(value, unit)


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """First and last of each run of whole numbers that follow each other, in rising order."""
    found: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def runs_text(numbers: Iterable[int], most: int = 8) -> str:
    """Whole numbers for people, at most so many runs of them: 0–3, 5, 7–8, …"""
    return spans_text(runs(numbers), most)


def spans_text(spans: Sequence[tuple[int, int]], most: int = 8) -> str:
    """The same of runs that are known by their ends, which may lie far apart."""
    text = [str(first) if first == last else f"{first}–{last}" for first, last in spans[:most]]
    return ", ".join(text + ["…"] * (len(spans) > most))


def parse_size(text: str) -> int:
    """Bytes in `64`, `16KiB`, `256 MiB`, `2GB`; without the i a prefix is decimal."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a size; write it like 64KiB, 1.5GiB or 4096")
    base: int = 1024 if match["binary"] else 1000
    power = "kmgt".index(match["prefix"].lower()) + 1 if match["prefix"] else 0
    size = float(match["number"]) * float(base) ** power
    return round(size)
