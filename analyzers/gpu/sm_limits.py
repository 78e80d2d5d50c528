"""How many blocks and warps fit on one multiprocessor (SM, compute unit) at a time?

Registers and shared memory are handed out in units, so what fits is computed as NVIDIA's occupancy calculator does.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from probe.machine.device import Device
from probe.trace import LaunchShape


@dataclass(frozen=True)
class SmLimits:
    """What one multiprocessor holds; None where a maker publishes it in a form that the traces do not match."""

    warp_threads: int
    warps: int
    blocks: int
    registers: int | None = None
    shared_bytes: int | None = None
    register_unit: int = 256  # registers are allocated per warp in multiples of this
    warp_unit: int = 4  # and a block's warps in multiples of this
    shared_unit: int = 128  # bytes
    shared_reserved: int = 0  # bytes per block that the system takes


_K = 1024
# CUDA C++ Programming Guide, "Technical specifications per compute capability"; the units, and the kilobyte that the
# system reserves in each block from 8.0 on, are those of the occupancy calculator (cuda_occupancy.h in the toolkit).
_CUDA: dict[str, SmLimits] = {
    "6.0": SmLimits(32, 64, 32, 64 * _K, 64 * _K, shared_unit=256, warp_unit=2),
    "6.1": SmLimits(32, 64, 32, 64 * _K, 96 * _K, shared_unit=256),
    "7.0": SmLimits(32, 64, 32, 64 * _K, 96 * _K, shared_unit=256),
    "7.5": SmLimits(32, 32, 16, 64 * _K, 64 * _K, shared_unit=256),
    "8.0": SmLimits(32, 64, 32, 64 * _K, 164 * _K, shared_reserved=_K),
    "8.6": SmLimits(32, 48, 16, 64 * _K, 100 * _K, shared_reserved=_K),
    "8.7": SmLimits(32, 48, 16, 64 * _K, 164 * _K, shared_reserved=_K),
    "8.9": SmLimits(32, 48, 24, 64 * _K, 100 * _K, shared_reserved=_K),
    "9.0": SmLimits(32, 64, 32, 64 * _K, 228 * _K, shared_reserved=_K),
    "10.0": SmLimits(32, 64, 32, 64 * _K, 228 * _K, shared_reserved=_K),
    "10.3": SmLimits(32, 64, 32, 64 * _K, 228 * _K, shared_reserved=_K),
    "12.0": SmLimits(32, 48, 24, 64 * _K, 100 * _K, shared_reserved=_K),
    "12.1": SmLimits(32, 48, 24, 64 * _K, 100 * _K, shared_reserved=_K),
}
# AMD CDNA 2 and 3 white papers: 64 threads a wavefront, eight of them on each of the four SIMDs of a compute unit. Its
# registers (VGPRs and AGPRs, by SIMD) are not in any trace, so only threads limit here.
_CDNA = SmLimits(warp_threads=64, warps=32, blocks=32)


def limits(device: Device) -> SmLimits | None:
    """The limits of a device's multiprocessors; None for one that is not in the table."""
    if device.kind == "rocm":
        return _CDNA if (device.compute_capability or "").startswith("9.") else None
    return _CUDA.get(device.compute_capability or "") if device.kind == "cuda" else None


@dataclass(frozen=True)
class Residence:
    """How much of a kernel fits on one multiprocessor at a time."""

    blocks: int
    warps: int
    occupancy_fraction: float  # theoretical: of the warps that it can hold
    limited_by: str  # "threads", "blocks", "registers" or "shared memory"
    exact: bool  # registers and shared memory are known: else more is not possible, less may be


def residence(shape: LaunchShape, limit: SmLimits) -> Residence | None:
    """What fits of a kernel with this launch shape; None where the block's size is not known, or nothing fits."""
    threads = prod(shape.block)
    if not shape.block or threads <= 0:
        return None
    warps = -(-threads // limit.warp_threads)
    fits = {"threads": limit.warps // warps, "blocks": limit.blocks}
    registers = _by_registers(shape, limit, warps)
    shared = _by_shared_memory(shape, limit)
    fits |= {name: count for name, count in (("registers", registers), ("shared memory", shared)) if count is not None}
    least = min(fits, key=fits.__getitem__)
    blocks = fits[least]
    if blocks < 1:
        return None
    known = registers is not None and shared is not None
    return Residence(blocks, blocks * warps, blocks * warps / limit.warps, least, known)


def _by_registers(shape: LaunchShape, limit: SmLimits, warps: int) -> int | None:
    if not shape.registers_per_thread or not limit.registers:
        return None
    a_warp = _up(shape.registers_per_thread * limit.warp_threads, limit.register_unit)
    held = limit.registers // a_warp // limit.warp_unit * limit.warp_unit  # warps whose registers fit
    return held // _up(warps, limit.warp_unit)


def _by_shared_memory(shape: LaunchShape, limit: SmLimits) -> int | None:
    if shape.shared_bytes is None or shape.shared_bytes < 0 or not limit.shared_bytes:
        return None
    a_block = _up(shape.shared_bytes + limit.shared_reserved, limit.shared_unit)
    return limit.shared_bytes // a_block if a_block else limit.blocks


def _up(value: int, unit: int) -> int:
    """`value` rounded up to a multiple of `unit`."""
    return -(-value // unit) * unit
