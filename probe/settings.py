"""What does the user's [tool.probe] say? A table of the nearest probe.toml or pyproject.toml that has it.

[tool.probe]
price_per_gpu_hour = 2.5          # or a table by device: see price.py
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

from probe.errors import InputError

HOMES = (("probe.toml", ()), ("pyproject.toml", ("tool", "probe")))


def nearest(start: Path, *keys: str) -> tuple[Path, dict[str, Any]] | None:
    """The table [tool.probe.KEYS…] (in probe.toml: [KEYS…]) at or above `start`, and its file. Raises InputError."""
    for folder in (start.resolve(), *start.resolve().parents):
        for name, prefix in HOMES:
            path = folder / name
            if path.is_file():
                table = _table(path, (*prefix, *keys))
                if table is not None:
                    return path, table
    return None


def _table(path: Path, keys: tuple[str, ...]) -> dict[str, Any] | None:
    try:
        found: Any = _parsed(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


@lru_cache(maxsize=4)  # each run and each analysis asks again, and a pyproject takes milliseconds
def _parsed(text: str) -> dict[str, Any]:
    """What a file says; to be read, not changed."""
    return tomllib.loads(text)
