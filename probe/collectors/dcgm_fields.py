"""What do DCGM's fields mean, in which units? Both vocabularies and both sets of units become one.

DCGM 4.6 renamed fields, and dcgm-exporter 4.9 changed units (MHz to Hz, mJ to J, percent to ratios, MiB to bytes). The
name a page shows is whatever its operator wrote, and one name has stood for both units: a unit is believed when name
and help agree, or when only one of them names one. Where they contradict each other and the value does not decide,
it is left out, with both readings.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass

PREFIX = "DCGM_FI_"
# Of blanks in DCGM's three types (dcgm_structs.h), the last digit is the reason.
_BLANKS = (0x7FFFFFFFFFFFFFF0, 140737488355328, 0x7FFFFFF0)
_LOST = "no value (its reason was lost in a float)"
_BLANK_REASONS = {0: "no value yet", 1: "not found", 2: "not supported", 3: "no permission"}

# Per kind: unit -> scale to SI; the first is what a name without a unit has always meant. Then the possible range.
_UNITS: dict[str, dict[str, float]] = {
    "frequency": {"MHz": 1e6, "Hz": 1.0},
    "percent": {"%": 0.01, "ratio": 1.0},
    "ratio": {"ratio": 1.0, "%": 0.01},
    "bytes": {"MiB": float(1 << 20), "bytes": 1.0},
    "energy": {"mJ": 1e-3, "J": 1.0},
    "megabytes_per_s": {"MB/s": 1e6, "bytes": 1.0},
    "bytes_per_s": {"bytes": 1.0, "MB/s": 1e6},
    "power": {"W": 1.0, "mW": 1e-3},
    "temperature": {"C": 1.0},
    "count": {"": 1.0},
}
_RANGES = {
    "frequency": (1e6, 2e10), "percent": (0.0, 1.01), "ratio": (0.0, 1.01), "bytes": (0.0, 1e13),
    "energy": (0.0, 1e13), "megabytes_per_s": (0.0, 1e13), "bytes_per_s": (0.0, 1e13), "power": (0.0, 2e4),
    "temperature": (-50.0, 200.0), "count": (0.0, 1e19),
}  # fmt: skip


@dataclass(frozen=True)
class Field:
    """A quantity that DCGM has, and what its names begin with, without PREFIX and unit."""

    number: int
    quantity: str
    kind: str
    stems: tuple[str, ...]


FIELDS = (
    Field(1001, "graphics_active_fraction", "ratio", ("PROF_GR_ENGINE_ACTIVE", "PROF_GR_ENGINE_UTIL")),
    Field(1002, "sm_active_fraction", "ratio", ("PROF_SM_ACTIVE", "PROF_SM_UTIL")),
    Field(1003, "sm_occupancy_fraction", "ratio", ("PROF_SM_OCCUPANCY",)),
    Field(1004, "tensor_active_fraction", "ratio", ("PROF_PIPE_TENSOR_ACTIVE", "PROF_TENSOR_UTIL")),
    Field(1005, "dram_active_fraction", "ratio", ("PROF_DRAM_ACTIVE", "PROF_DRAM_UTIL")),
    Field(1006, "fp64_active_fraction", "ratio", ("PROF_PIPE_FP64_ACTIVE", "PROF_FP64_UTIL")),
    Field(1007, "fp32_active_fraction", "ratio", ("PROF_PIPE_FP32_ACTIVE", "PROF_FP32_UTIL")),
    Field(1008, "fp16_active_fraction", "ratio", ("PROF_PIPE_FP16_ACTIVE", "PROF_FP16_UTIL")),
    Field(1009, "pcie_send_bytes_per_s", "bytes_per_s", ("PROF_PCIE_TX",)),
    Field(1010, "pcie_receive_bytes_per_s", "bytes_per_s", ("PROF_PCIE_RX",)),
    Field(1011, "nvlink_send_bytes_per_s", "bytes_per_s", ("PROF_NVLINK_TX",)),
    Field(1012, "nvlink_receive_bytes_per_s", "bytes_per_s", ("PROF_NVLINK_RX",)),
    Field(1013, "tensor_imma_active_fraction", "ratio", ("PROF_PIPE_TENSOR_IMMA_ACTIVE", "PROF_IMMA_UTIL")),
    Field(1014, "tensor_hmma_active_fraction", "ratio", ("PROF_PIPE_TENSOR_HMMA_ACTIVE", "PROF_HMMA_UTIL")),
    Field(1015, "tensor_dfma_active_fraction", "ratio", ("PROF_PIPE_TENSOR_DFMA_ACTIVE", "PROF_DFMA_UTIL")),
    Field(1016, "integer_active_fraction", "ratio", ("PROF_PIPE_INT_ACTIVE", "PROF_INT_UTIL")),
    Field(100, "sm_clock_hz", "frequency", ("DEV_SM_CLOCK",)),
    Field(101, "memory_clock_hz", "frequency", ("DEV_MEM_CLOCK",)),
    Field(112, "clocks_event_reasons", "count", ("DEV_CLOCKS_EVENT_REASONS", "DEV_CLOCK_THROTTLE_REASONS")),
    Field(140, "memory_temperature_c", "temperature", ("DEV_MEMORY_TEMP",)),
    Field(150, "temperature_c", "temperature", ("DEV_GPU_TEMP",)),
    Field(155, "power_w", "power", ("DEV_POWER_USAGE", "DEV_BOARD_POWER")),
    Field(156, "energy_j", "energy", ("DEV_TOTAL_ENERGY_CONSUMPTION", "DEV_TOTAL_ENERGY", "DEV_BOARD_ENERGY")),
    Field(202, "pcie_replays", "count", ("DEV_PCIE_REPLAY_COUNTER", "DEV_PCIE_REPLAY")),
    Field(203, "gpu_utilisation_fraction", "percent", ("DEV_GPU_UTIL",)),
    Field(204, "memory_utilisation_fraction", "percent", ("DEV_MEM_COPY_UTIL",)),
    Field(230, "xid", "count", ("DEV_XID_ERRORS", "DEV_XID_ERROR")),
    Field(251, "memory_free_bytes", "bytes", ("DEV_FB_FREE",)),
    Field(252, "memory_used_bytes", "bytes", ("DEV_FB_USED",)),
    Field(311, "ecc_uncorrected_errors", "count", ("DEV_ECC_DBE_VOL",)),
    Field(310, "ecc_corrected_errors", "count", ("DEV_ECC_SBE_VOL",)),
    Field(449, "nvlink_bytes_per_s", "megabytes_per_s", ("DEV_NVLINK_BANDWIDTH", "DEV_NVLINK_THROUGHPUT")),
)
_BY_NUMBER = {field.number: field for field in FIELDS}
_BY_STEM = {stem: field for field in FIELDS for stem in field.stems}
# What a name may end in, and the unit that is; "" where the ending says nothing of the unit.
_ENDINGS = {
    "_RATIO": "ratio", "_PERCENT": "%", "_HZ": "Hz", "_HERTZ": "Hz", "_MHZ": "MHz", "_BYTES": "bytes", "_MIB": "MiB",
    "_JOULES": "J", "_MILLIJOULES": "mJ", "_WATTS": "W", "_CELSIUS": "C", "_BYTES_PER_SECOND": "bytes", "_TOTAL": "",
}  # fmt: skip
_IN_HELP = {
    "MHz": r"\bMHz\b",
    "Hz": r"\bHz\b|\bhertz\b",
    "%": r"\bin %|\bpercent",
    "ratio": r"\bratio\b|\b0 to 1\b|\b0-1\b",
    "MiB": r"\bMiB\b|\bin MB\b(?!/s)",
    "bytes": r"\bbytes?\b",
    "mJ": r"\bmJ\b|\bmillijoules?\b",
    "J": r"\bJ\b|\bjoules?\b",
    "MB/s": r"\bMB/s\b",
    "mW": r"\bmW\b",
    "W": r"\bW\b|\bwatts?\b",
    "C": r"\bC\b|\bCelsius\b",
}


@dataclass(frozen=True)
class Reading:
    """A value in SI; None with the reason where there is none."""

    quantity: str
    value: float | None
    reason: str | None = None


def blank_reason(text: str) -> str | None:
    """Why this is no value at all; None where it is one. `text`: a float cannot tell the reasons apart."""
    try:
        whole = int(text) if text.lstrip("+-").isdigit() else None
        value = float(text)
    except ValueError:
        return f"{text!r} is no number"
    if whole is None and math.isfinite(value) and value.is_integer():
        whole = int(value)
    if whole is None:
        return None if math.isfinite(value) else f"{text} is no value"
    for blank in _BLANKS:
        if 0 <= whole - blank <= 15:
            exact = blank != _BLANKS[0] or text.lstrip("+").isdigit()
            return _BLANK_REASONS.get(whole - blank, "no value") if exact else _LOST
    return _LOST if whole == 1 << 63 else None


@functools.lru_cache(maxsize=4096)
def field_named(name: str) -> tuple[Field | None, str]:
    """The field behind a metric's name in either vocabulary, and the unit that its ending names ("" for none)."""
    rest = name.strip().removeprefix(PREFIX)
    unit = ""
    while rest not in _BY_STEM:
        ending = next((end for end in sorted(_ENDINGS, key=len, reverse=True) if rest.endswith(end)), None)
        if ending is None:
            return None, ""
        unit = unit or _ENDINGS[ending]
        rest = rest.removesuffix(ending)
    return _BY_STEM[rest], unit


def read_named(name: str, text: str, told: str = "") -> Reading | None:
    """A line of a page, with its help; None for what is no field of interest."""
    field, by_name = field_named(name)
    if field is None:
        return None
    blank = blank_reason(text)
    if blank is not None:
        return Reading(field.quantity, None, blank)
    by_name = by_name if by_name in _UNITS[field.kind] else ""
    return _decided(field, name, float(text), by_name, _unit_in(told, field.kind))


def read_numbered(number: int, text: str) -> Reading | None:
    """A value of dcgmi or of the bindings, whose units are those of the field."""
    field = _BY_NUMBER.get(number)
    if field is None:
        return None
    blank = "not available" if text == "N/A" else blank_reason(text)
    if blank is not None:
        return Reading(field.quantity, None, blank)
    return _decided(field, f"field {number}", float(text), "", "")


@functools.lru_cache(maxsize=4096)
def _unit_in(told: str, kind: str) -> str:
    """The unit that a help text names, of those that are possible; "" for none, or for more than one."""
    found = [unit for unit, pattern in _IN_HELP.items() if unit in _UNITS[kind] and re.search(pattern, told)]
    return found[0] if len(found) == 1 else ""


def _decided(field: Field, name: str, value: float, by_name: str, by_help: str) -> Reading:
    units = _UNITS[field.kind]
    claimed = list(dict.fromkeys(unit for unit in (by_help, by_name) if unit)) or [next(iter(units))]
    readings = {unit: value * units[unit] for unit in claimed}
    possible = {unit: si for unit, si in readings.items() if _possible(field.kind, si)}
    if len(set(possible.values())) == 1:
        return Reading(field.quantity, next(iter(possible.values())))
    shown = "; ".join(f"as {unit or 'it stands'} {si:g}" for unit, si in readings.items())
    if len(possible) > 1:
        return Reading(field.quantity, None, f"{name} {value:g}: its name and its help contradict each other ({shown})")
    others = [f"as {unit} {value * scale:g}" for unit, scale in units.items() if unit not in readings]
    return Reading(field.quantity, None, f"{name} {value:g}: impossible ({'; '.join([shown, *others])})")


def _possible(kind: str, value: float) -> bool:
    low, high = _RANGES[kind]
    return value == 0 or low <= value <= high
