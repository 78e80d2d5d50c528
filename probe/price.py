"""What does an hour of a device cost? By --price, else by [tool.probe] price_per_gpu_hour.

price_per_gpu_hour = 2.5

[tool.probe.price_per_gpu_hour]   # or by device: the longest name whose words all stand in the device's
"H100" = 2.99
"A100 80GB" = 1.8
default = 2.0
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.errors import InputError, UsageError
from probe.settings import nearest

KEY = "price_per_gpu_hour"
DEFAULT = "default"
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Price:
    """Of one device (on a CPU: of the machine) for an hour, in US dollars, and who said so."""

    usd_per_hour: float
    origin: str  # "--price", or the file

    def of(self, seconds: float, devices: int = 1) -> float:
        """What `devices` cost for so long, in US dollars."""
        return self.usd_per_hour * devices * seconds / SECONDS_PER_HOUR


Prices = Callable[[str | None], Price | None]  # of a device by its name; None where no price was given for it


def prices(asked: float | None, start: Path) -> Prices:
    """The price of each device. Raises UsageError or InputError for what is no price."""
    if asked is not None:
        if not _is_price(asked):
            raise UsageError(f"--price {asked}: give US dollars for an hour of one device, such as 2.5")
        return lambda device: Price(float(asked), "--price")
    found = nearest(start)
    told = None if found is None else found[1].get(KEY)
    if found is None or told is None:
        return lambda device: None
    table = told if isinstance(told, Mapping) else {DEFAULT: told}
    for name, value in table.items():
        if not _is_price(value):
            raise InputError(f"{found[0]}: {KEY}: {name} = {value!r}: give US dollars for an hour, such as 2.5")
    return lambda device: _of(device, table, str(found[0]))


def _is_price(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0


def _of(device: str | None, table: Mapping[str, Any], origin: str) -> Price | None:
    words = _words(device or "")
    fitting = [name for name in table if name != DEFAULT and _words(name) and _words(name) <= words]
    if not fitting and DEFAULT not in table:
        return None
    name = max(fitting, key=len) if fitting else DEFAULT
    return Price(float(table[name]), f"{origin}, {name}" if fitting else origin)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))
