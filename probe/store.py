"""Where do measured ceilings live, and how are they found again? One JSON file a device in the user's cache directory.

`probe run microbench` saves them, `probe analyze` finds them by the device's key or loads the file it is given. Files
are written beside their place and renamed into it, so that a reader never sees half of one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from probe.errors import CeilingsError
from probe.files import CACHE_VARIABLE, cache_directory, write_atomically
from probe.machine.device import Ceilings, Device, Level
from probe.results.measurement import SCHEMA as MICROBENCH_SCHEMA
from probe.schema import to_jsonable

SCHEMA = "probe.ceilings/1"
MEASURE_AGAIN = "measure again with `probe run microbench`"


def directory() -> Path:
    """Where ceilings are kept."""
    return cache_directory() / "ceilings"


def path_for(device_key: str) -> Path:
    """The file of the device whose `Device.key` is given."""
    return directory() / f"{device_key}.json"


def keep(ceilings: Ceilings, device: Device) -> str | None:
    """Save the ceilings; where that cannot be done, the sentence to warn with: the measurement itself stands."""
    try:
        save(ceilings, device)
    except CeilingsError as failed:
        return str(failed)
    return None


def save(ceilings: Ceilings, device: Device) -> Path:
    """Keep the ceilings of `device` and return their file. Raises CeilingsError where it cannot be written.

    Quick ceilings never replace those of a full run, and a run of some suites only replaces what it measured.
    """
    path = path_for(device.key)
    combined = combine(_previous(path), ceilings)
    content = {"schema": SCHEMA, "device": device, "ceilings": combined}
    text = json.dumps(to_jsonable(content), indent=2, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    except OSError as failed:
        reason = failed.strerror or str(failed)
        remedy = f"set {CACHE_VARIABLE} to a directory you can write"
        raise CeilingsError(f"the ceilings could not be kept in {path}: {reason}; {remedy}") from None
    return path


def _previous(path: Path) -> Ceilings | None:
    try:
        return load(path)
    except CeilingsError:  # absent or damaged: nothing worth keeping
        return None


def combine(old: Ceilings | None, new: Ceilings) -> Ceilings:
    """What is kept after `new` was measured where `old` lies: full before quick, then new before old."""
    if old is None:
        return new
    if new.quick and not old.quick:
        return old
    if new.dram_bytes_per_s and new.flops_per_s and new.launch_s:
        return dataclasses.replace(new, link_bytes_per_s=old.link_bytes_per_s | new.link_bytes_per_s)
    return dataclasses.replace(
        new,
        dram_bytes_per_s=new.dram_bytes_per_s or old.dram_bytes_per_s,
        flops_per_s=old.flops_per_s | new.flops_per_s,
        launch_s=new.launch_s or old.launch_s,
        link_bytes_per_s=old.link_bytes_per_s | new.link_bytes_per_s,
        levels=old.levels | {name: _filled(old.levels.get(name), level) for name, level in new.levels.items()},
        quick=new.quick or old.quick,
    )


def _filled(old: Level | None, new: Level) -> Level:
    """`new` with what it lacks taken from `old`."""
    if old is None:
        return new
    return Level(
        new.capacity_bytes or old.capacity_bytes, new.latency_s or old.latency_s, new.bytes_per_s or old.bytes_per_s
    )


def find(device_key: str) -> Ceilings | None:
    """The kept ceilings of the device with that key; None if there are none. Raises CeilingsError if damaged."""
    path = path_for(device_key)
    return load(path) if path.exists() else None


def load(path: Path | str) -> Ceilings:
    """The ceilings in a kept file, or in the output of `probe run microbench --json`. Raises CeilingsError."""
    path = Path(path)
    content = _read(path)
    schema = content.get("schema")
    if schema not in (SCHEMA, MICROBENCH_SCHEMA):
        known = f"{SCHEMA} or {MICROBENCH_SCHEMA}"
        raise CeilingsError(f"{path}: schema is {schema!r}, this version reads {known}; {MEASURE_AGAIN}")
    try:
        ceilings = msgspec.convert(content.get("ceilings"), Ceilings)
    except msgspec.ValidationError as wrong:
        raise CeilingsError(f"{path}: damaged ceilings: {wrong}; {MEASURE_AGAIN}") from None
    if any(value <= 0 for value in _values(ceilings)):
        raise CeilingsError(f"{path}: damaged ceilings: a rate or time is not above 0; {MEASURE_AGAIN}")
    return ceilings


def _values(ceilings: Ceilings) -> Iterator[float]:
    """Every rate, time and capacity that is known."""
    rates = (*ceilings.flops_per_s.values(), *ceilings.link_bytes_per_s.values())
    known = [ceilings.dram_bytes_per_s, ceilings.launch_s, *rates]
    for level in ceilings.levels.values():
        known += [level.capacity_bytes, level.latency_s, level.bytes_per_s]
    yield from (value for value in known if value is not None)


def _no_constant(name: str) -> float:
    """JSON has no NaN and no Infinity, though Python reads them."""
    raise ValueError(f"{name} is no JSON number")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes(), parse_constant=_no_constant)
    except FileNotFoundError:
        raise CeilingsError(f"{path}: no such file; {MEASURE_AGAIN}") from None
    except OSError as failed:
        raise CeilingsError(f"{path}: cannot be read: {failed.strerror or failed}; {MEASURE_AGAIN}") from None
    except (ValueError, RecursionError) as wrong:  # not JSON, or not UTF-8
        raise CeilingsError(f"{path}: is not JSON ({wrong}); {MEASURE_AGAIN}") from None
    if not isinstance(content, dict):
        raise CeilingsError(f"{path}: holds no ceilings; {MEASURE_AGAIN}")
    return content
