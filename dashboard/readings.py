"""How is a sampled quantity written? Its name ends in its unit; people read words and a number with a prefix."""

from __future__ import annotations

from collections.abc import Callable

from probe.units import format_bytes, format_bytes_per_s, format_fraction, format_si, format_time, significant

# By the unit at the end of a name; a longer end comes before one that it ends in.
_UNITS: dict[str, Callable[[float], str]] = {
    "_bytes_per_s": format_bytes_per_s,
    "_per_s": lambda value: format_si(value, "/s"),
    "_bytes": format_bytes,
    "_fraction": format_fraction,
    "_hz": lambda value: format_si(value, "Hz"),
    "_w": lambda value: format_si(value, "W"),
    "_j": lambda value: format_si(value, "J"),
    "_c": lambda value: f"{significant(value)} °C",
    "_s": format_time,
}


def words(name: str) -> str:
    """A quantity's name without its unit: "sm clock" for "sm_clock_hz"."""
    return next((name.removesuffix(end) for end in _UNITS if name.endswith(end)), name).replace("_", " ")


def amount(name: str, value: float) -> str:
    """A reading with the unit that its name ends in."""
    show = next((show for end, show in _UNITS.items() if name.endswith(end)), significant)
    return show(value)
