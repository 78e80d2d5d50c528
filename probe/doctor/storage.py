"""Where does probe keep things? The cache directory, the ceilings stored in it, room for runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from probe import files, store
from probe.doctor.check import Check, broken, works
from probe.doctor.machine import Machine
from probe.errors import CeilingsError
from probe.machine.device import Device
from probe.units import format_bytes

ENOUGH_DISK_BYTES = 2 << 30  # a few cycles of a large model's trace


def cache(machine: Machine) -> Iterator[Check]:
    """Whether the cache directory can be written, or made. Nothing is created."""
    name, path, means = "Cache directory", files.cache_directory(), "measured ceilings are kept there"
    above = _nearest(path)
    if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
        yield works(name, str(path), means)
    else:
        remedy = f"export {files.CACHE_VARIABLE}=DIR with a directory you can write"
        yield broken(name, f"{path} cannot be written", means, remedy)


def ceilings(machine: Machine) -> Iterator[Check]:
    """For each device: were its ceilings measured?"""
    yield _ceilings(machine.cpu, "cpu")
    for index, device in enumerate(machine.cuda):
        yield _ceilings(device, f"cuda:{index}")


def _ceilings(device: Device, option: str) -> Check:
    name, remedy = f"Ceilings {option}", f"probe run microbench --device {option}"
    try:
        measured = store.find(device.key)
    except CeilingsError as error:
        return broken(name, str(error), "analyses cannot use them", remedy)
    if measured is None:
        return broken(name, "not measured", "analyses take datasheet or assumed figures instead", remedy)
    how = "measured quickly" if measured.quick else "measured"
    return works(name, f"{how}, {(measured.measured_at or 'undated')[:10]}", "analyses are held against them")


def disk(machine: Machine) -> Iterator[Check]:
    """Whether runs can be written under the current directory, and how much room there is."""
    name, means = "Room for runs", "probe run and probe.profile write to ./runs"
    above = _nearest(Path("runs").absolute())
    free = shutil.disk_usage(above).free
    if not os.access(above, os.W_OK | os.X_OK):
        yield broken(name, "this directory cannot be written", means, "cd elsewhere, or probe run -o DIR …")
    elif free < ENOUGH_DISK_BYTES:
        yield broken(name, f"{format_bytes(free)} free", means, "free some, or write elsewhere: probe run -o DIR …")
    else:
        yield works(name, f"{format_bytes(free)} free", means)


def _nearest(path: Path) -> Path:
    """`path` if it exists, else the nearest directory above it that does."""
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())
