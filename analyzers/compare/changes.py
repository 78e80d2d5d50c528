"""What else changed between two results: device, driver, software, clocks, the state of the code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from probe.machine.device import Cache, Device
from probe.results.comparison import Change
from probe.units import format_bytes, format_si, format_value, significant

CLOCK_FRACTION = 0.02  # a measured clock that differs by less is the same clock
LOAD = 1.0  # runnable tasks; a smaller difference says nothing
NONE = "–"
LABELS = {
    "name": "device", "isa": "instruction sets", "clock_hz": "clock", "l2_bytes": "L2", "memory_bytes": "memory",
    "physical_cores": "physical cores", "compute_capability": "compute capability", "sm_count": "SMs",
    "clocks_event_reasons": "clocks limited by", "cpu_quota": "CPU quota", "cpu_governor": "CPU governor",
    "os": "system", "load_average": "load",
}  # fmt: skip
FIRST = ("device", "driver", "torch", "cuda", "hip", "clock", "clocks limited by", "git")


def other_device(base: str | None, new: str | None) -> Iterator[str]:
    """The warning that two devices are compared, where they are."""
    if base and new and base != new:
        yield f"BASE ran on {base}, NEW on {new}: the ratios hold the difference of the devices too"


def both_said(base: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    """The warnings of both sides, each with the side it is about."""
    for label, own, other in (("BASE", base, new), ("NEW", new, base)):
        for warning in own:
            if warning not in other:
                yield f"{label}: {warning}"
            elif label == "BASE":
                yield f"both: {warning}"


def differences(
    base: Device, new: Device, base_environment: Mapping[str, Any], new_environment: Mapping[str, Any]
) -> tuple[Change, ...]:
    """Every fact of device and surroundings that both recorded and that differs, the weighty ones first."""
    left, right = _facts(base, base_environment), _facts(new, new_environment)
    found = [
        Change(what, _shown(what, left.get(what)), _shown(what, right.get(what)))
        for what in dict.fromkeys((*left, *right))
        if not _same(what, left.get(what), right.get(what))
    ]
    return tuple(sorted(found, key=lambda c: FIRST.index(c.what) if c.what in FIRST else len(FIRST)))


def _facts(device: Device, environment: Mapping[str, Any]) -> dict[str, Any]:
    """What is known, by its label; the device's driver stands for the environment's."""
    facts = {name: value for name, value in environment.items() if name not in ("variables", "hostname")}
    facts |= {f.name: v for f in fields(device) if (v := getattr(device, f.name)) not in (None, ()) or f.name == "name"}
    facts |= dict(environment.get("variables") or {})
    facts["clocks_event_reasons"] = environment.get("clocks_event_reasons")
    return {LABELS.get(name, name): value for name, value in facts.items()}


def _same(what: str, base: Any, new: Any) -> bool:
    if what == "clock" and base and new:
        return bool(abs(new / base - 1) <= CLOCK_FRACTION)
    if what == "load" and base and new:
        return bool(abs(new[0] - base[0]) < LOAD)
    if what in ("clock", "load", "caches") and not (base and new):
        return True  # measured by some runs only
    return bool(base == new) or (not base and not new)


def _shown(what: str, value: Any) -> str:
    if value is None or value in ([], ()):
        return NONE
    if what == "git":
        return f"{str(value.get('commit', NONE))[:10]}{' with changes' if value.get('dirty') else ''}"
    if what in ("L2", "memory"):
        return format_bytes(value)
    if what == "clock":
        return format_si(value, "Hz")
    if what == "load":
        return significant(value[0])
    if what == "caches":
        return ", ".join(f"L{c.level} {format_bytes(c.bytes)}" for c in value if isinstance(c, Cache))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return format_value(value, "") if isinstance(value, float) else str(value)
