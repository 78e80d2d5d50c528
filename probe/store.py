"""Where do measured ceilings live, and how are they found again? One JSON file a device in the user's cache directory.

`probe run microbench` saves them, `probe analyze` finds them by the device's key or loads the file it is given. Files are
written beside their place and renamed into it, so that a reader never sees half of one.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from probe.device import Ceilings, Device
from probe.errors import CeilingsError
from probe.measurement import SCHEMA as MICROBENCH_SCHEMA
from probe.schema import to_jsonable

SCHEMA = "probe.ceilings/1"
CACHE_DIRECTORY_VARIABLE = "PROBE_CACHE_DIR"
MEASURE_AGAIN = "measure again with `probe run microbench`"


class StoreWarning(UserWarning):
    """Ceilings could not be kept; the result itself stands."""


def directory() -> Path:
    """Where ceilings are kept; PROBE_CACHE_DIR overrides the user's cache directory."""
    root = os.environ.get(CACHE_DIRECTORY_VARIABLE) or platformdirs.user_cache_dir("torch-probe")
    return Path(root) / "ceilings"


def path_for(device_key: str) -> Path:
    """The file of the device whose `Device.key` is given."""
    return directory() / f"{device_key}.json"


def save(ceilings: Ceilings, device: Device) -> Path | None:
    """Keep the ceilings of `device` and return their file; None, with a StoreWarning, where that cannot be written.

    Quick ceilings never replace those of a full run: then the full run's file is returned, unchanged.
    """
    path = path_for(device.key)
    if ceilings.quick and _holds_full_run(path):
        return path
    content = {"schema": SCHEMA, "device": device, "ceilings": ceilings}
    try:
        _write_atomically(path, json.dumps(to_jsonable(content), indent=2, allow_nan=False) + "\n")
    except OSError as failed:
        message = f"the ceilings could not be kept in {path}: {failed.strerror or failed}"
        warnings.warn(f"{message}; set {CACHE_DIRECTORY_VARIABLE}", StoreWarning, stacklevel=2)
        return None
    return path


def _holds_full_run(path: Path) -> bool:
    try:
        return not load(path).quick
    except CeilingsError:  # absent or damaged: nothing worth keeping
        return False


def _write_atomically(path: Path, text: str) -> None:
    """Write through a file in the same directory, so that the rename is one step on every file system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


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
        return msgspec.convert(content.get("ceilings"), Ceilings)
    except msgspec.ValidationError as wrong:
        raise CeilingsError(f"{path}: damaged ceilings: {wrong}; {MEASURE_AGAIN}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CeilingsError(f"{path}: no such file; {MEASURE_AGAIN}") from None
    except OSError as failed:
        raise CeilingsError(f"{path}: cannot be read: {failed.strerror or failed}") from None
    except (ValueError, RecursionError) as wrong:  # not JSON, or not UTF-8
        raise CeilingsError(f"{path}: is not JSON ({wrong}); {MEASURE_AGAIN}") from None
    if not isinstance(content, dict):
        raise CeilingsError(f"{path}: holds no ceilings; {MEASURE_AGAIN}")
    return content
