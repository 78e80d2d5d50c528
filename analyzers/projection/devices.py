"""What of a device matters to a projection beside its peak rates: caches, memory, power, links, and what an hour costs.

Sizes, power and links are the makers' (the data sheets that `datasheets` names). `reached` is the share of the
published tensor-core peak that the fastest matrix product reaches, where somebody measured it: mamf-finder of
stas00/ml-engineering (A100 271.2, H100 SXM 794.5, H200 794.5, GH200 828.6 TFLOP/s in bfloat16), and for the MI300X
45 %, which aiweekly.co reports of a study over FP8, BF16 and FP16. Elsewhere the peak is all that is known.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

from probe.analyzers.projection.links import Link
from probe.errors import UsageError
from probe.machine import datasheets
from probe.machine.datasheets import DATASHEETS, Datasheet
from probe.machine.device import Ceilings

MIB = 1 << 20
GB = 10**9
TENSOR_DTYPES = ("tf32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8")
# The lowest listed price for an hour of one device; lists differ by a factor of two and change by the month.
PRICES_FROM = "RunPod's lowest listed price as of March 2026 (deploybase.ai, 2026-03-10)"


@dataclass(frozen=True)
class DeviceFacts:
    """One device. links: the fastest between devices of one node. What is not known is None."""

    l2_bytes: int
    memory_bytes: int
    power_w: float  # the maker's limit for the board or module
    link: Link
    reached: float | None = None
    usd_per_hour: float | None = None


def _facts(
    l2_mib: float, memory_gb: float, power_w: float, link: Link, *, reached: float | None = None,
    usd: float | None = None,
) -> DeviceFacts:  # fmt: skip
    return DeviceFacts(round(l2_mib * MIB), round(memory_gb * GB), power_w, link, reached, usd)


_FACTS = {
    "V100 PCIe": _facts(6, 32, 250, Link.PCIE3),
    "V100 SXM2": _facts(6, 32, 300, Link.NVLINK2),
    "T4": _facts(4, 16, 70, Link.PCIE3),
    "A100 80GB PCIe": _facts(40, 80, 300, Link.PCIE4, reached=271.2 / 312, usd=1.19),
    "A100 80GB SXM": _facts(40, 80, 400, Link.NVLINK3, reached=271.2 / 312, usd=1.39),
    "A100 40GB": _facts(40, 40, 400, Link.NVLINK3, reached=271.2 / 312),
    "A10": _facts(6, 24, 150, Link.PCIE4),
    "L40S": _facts(96, 48, 350, Link.PCIE4, usd=0.79),
    "L4": _facts(48, 24, 72, Link.PCIE4, usd=0.44),
    "RTX 3090": _facts(6, 24, 350, Link.PCIE4, usd=0.22),
    "RTX 4090": _facts(72, 24, 450, Link.PCIE4, usd=0.34),
    "RTX A6000": _facts(6, 48, 300, Link.PCIE4),
    "GH200": _facts(50, 96, 700, Link.NVLINK4, reached=828.6 / 989.4),
    "H200": _facts(50, 141, 700, Link.NVLINK4, reached=794.5 / 989.4, usd=3.59),
    "H100 PCIe": _facts(50, 80, 350, Link.PCIE5, usd=1.99),
    "H100 SXM": _facts(50, 80, 700, Link.NVLINK4, reached=794.5 / 989.4, usd=2.69),
    "B200": _facts(126, 180, 1000, Link.NVLINK5, usd=5.98),
    "MI250X (one of two dies)": _facts(8, 64, 280, Link.XGMI2),
    "MI300X": _facts(256, 192, 750, Link.XGMI3, reached=0.45),
}


@dataclass(frozen=True)
class Target:
    """Where the work is to go: its roofs, and the facts of it where it is a known device."""

    name: str
    ceilings: Ceilings
    facts: DeviceFacts | None = None


def target(name: str) -> Target:
    """The device of that name. Raises UsageError, with the nearest names, for one that is not known."""
    sheet = datasheets.find(name)
    if sheet is None:
        raise UsageError(f"{name!r}: no such device is known; {_nearest(name)}")
    return of_sheet(sheet)


def of_sheet(sheet: Datasheet) -> Target:
    """A device of the table, with its reached rates in place of peaks where they are known."""
    facts = _FACTS[sheet.device]
    return Target(sheet.device, reached(sheet.ceilings(), facts), facts)


def all_targets() -> tuple[Target, ...]:
    """Every known device, in the order of the data sheets."""
    return tuple(map(of_sheet, DATASHEETS))


def facts_of(name: str) -> DeviceFacts | None:
    """What is known of a device by torch's name for it."""
    sheet = datasheets.find(name)
    return _FACTS[sheet.device] if sheet is not None else None


def reached(ceilings: Ceilings, facts: DeviceFacts | None) -> Ceilings:
    """Published ceilings with the tensor-core rates that products reach; measured ones stay as they are."""
    if facts is None or facts.reached is None or ceilings.origin != "datasheet":
        return ceilings
    rates = {d: r * (facts.reached if d in TENSOR_DTYPES else 1.0) for d, r in ceilings.flops_per_s.items()}
    return replace(ceilings, flops_per_s=rates)


def _nearest(name: str) -> str:
    known = {sheet.device.lower(): sheet.device for sheet in DATASHEETS}
    near = difflib.get_close_matches(name.strip().lower(), known, n=3, cutoff=0.4)
    words = [known[key] for key in known if any(word in key.split() for word in name.lower().split())]
    chosen = list(dict.fromkeys([*words, *(known[key] for key in near)]))
    if chosen:
        return f"near to it: {', '.join(chosen)}"
    return f"known are {', '.join(known.values())}, or give a file of measured ceilings"
