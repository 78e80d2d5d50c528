"""Which ceilings an analysis uses: measured ones for the device, else its datasheet's, else assumed ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from probe import store
from probe.analyzers.placed import ASSUMED_DISPATCH_S
from probe.errors import CeilingsError, UsageError
from probe.machine import datasheets, environment
from probe.machine.device import Ceilings, Device

# Peak float32 operations per cycle and core with two fused multiply-add units of the widest vectors, and a clock and a
# share of memory bandwidth that most servers and desktops reach. They place an operator roughly; reports say so.
FLOPS_PER_CYCLE = (("avx512f", 64), ("avx2", 32), ("neon", 16), ("asimd", 16))
CLOCK_HZ = 2.5e9
BYTES_PER_S_PER_CORE = 10e9
MOST_BYTES_PER_S = 100e9
CORES = 8


@dataclass(frozen=True)
class Roofs:
    """The ceilings, the device's published peaks where there are any, and what a reader must know of the choice."""

    ceilings: Ceilings
    datasheet: Ceilings | None
    warnings: tuple[str, ...] = ()


def choose_ceilings(
    device: Device, file: str | Path | None = None, name: str | None = None, *, on_device: bool = True
) -> Roofs:
    """The ceilings for a trace of `device`. file: take those; name: the device's name, where the trace has none.

    on_device: whether the trace holds work of the device; the host's operators are not judged by a GPU's roofs.
    Raises CeilingsError for a named file that cannot be used, UsageError for a name that is not known.
    """
    if name is not None and device.kind == "cpu":
        raise UsageError(f"--device {name!r}: the trace holds no device work, so a GPU's roofs do not apply to it")
    sheet = datasheets.find(name or device.name)
    published = sheet.ceilings() if sheet else None
    if name is not None and sheet is None:
        known = ", ".join(s.device for s in datasheets.DATASHEETS)
        raise UsageError(f"--device {name!r} is not in the table of datasheets, which has: {known}")
    if file is not None:
        return _from_file(Path(file), device, published)
    if device.kind != "cpu" and not on_device:
        return Roofs(Ceilings(origin="assumed", device=device.name), None)
    stored, warning = _stored(device) if name is None else (None, None)
    if stored is None:
        return Roofs(published or assumed(device), published, (warning,) if warning else ())
    return _completed(stored, published or assumed(device), published, (warning,) if warning else ())


def _completed(stored: Ceilings, other: Ceilings, published: Ceilings | None, warnings: tuple[str, ...]) -> Roofs:
    """`stored`, with what it lacks (a run of some suites) taken from `other`; that is said, and is its origin then."""
    if stored.dram_bytes_per_s and stored.flops_per_s:
        return Roofs(stored, published, warnings)
    filled = replace(
        other,
        dram_bytes_per_s=stored.dram_bytes_per_s or other.dram_bytes_per_s,
        flops_per_s=other.flops_per_s | stored.flops_per_s,
        launch_s=stored.launch_s or other.launch_s,
        levels=stored.levels,
        link_bytes_per_s=stored.link_bytes_per_s,
    )
    said = f"memory bandwidth and matmul rates were not both measured here: what lacks is {other.origin}"
    return Roofs(filled, published, (*warnings, said))


def _from_file(file: Path, device: Device, published: Ceilings | None) -> Roofs:
    ceilings = store.load(file)
    unnamed = device.name in ("CPU", "unknown device")
    if ceilings.device != device.name and not unnamed:
        warning = f"the ceilings in {file} are of {ceilings.device!r}, the trace is of {device.name!r}"
        return Roofs(ceilings, published, (warning,))
    return Roofs(ceilings, published)


def _stored(device: Device) -> tuple[Ceilings | None, str | None]:
    """Ceilings measured on that device; a CPU trace that names no CPU is taken for this machine's, and that is said."""
    try:
        if device.kind == "cpu" and device.name == "CPU":
            found = store.find(environment.cpu_device().key)
            said = "the trace does not name its CPU: this machine's measured ceilings are used"
            return found, said if found else None
        return store.find(device.key), None
    except CeilingsError as error:
        return None, f"stored ceilings were left aside: {error}"


def assumed(device: Device) -> Ceilings:
    """Rough ceilings of a CPU from its instruction sets and cores; none for an unknown accelerator."""
    if device.kind != "cpu":
        return Ceilings(origin="assumed", device=device.name)
    cores = device.physical_cores or device.cores or CORES
    per_cycle = next((flops for isa, flops in FLOPS_PER_CYCLE if isa in device.isa), 16 if device.isa else 32)
    rate = cores * CLOCK_HZ * per_cycle
    return Ceilings(
        origin="assumed",
        device=device.name,
        dram_bytes_per_s=min(cores * BYTES_PER_S_PER_CORE, MOST_BYTES_PER_S),
        flops_per_s={"float32": rate, "float64": rate / 2},
        launch_s=ASSUMED_DISPATCH_S,
    )
