"""What energy do the processor's packages use? The counters of Linux's powercap (RAPL), of Intel and AMD.

They count everything that runs on a package, not this process alone. Since Linux 5.10 root reads them only, unless
somebody allows it (chmod a+r /sys/class/powercap/*/energy_uj).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from probe.collectors.sampling import NotAvailable, Row, Tick

POWERCAP = Path("/sys/class/powercap")


class RaplSource:
    """Each package (and the DRAM beside it, where it is counted apart), as a counter that does not wrap."""

    name = "rapl"
    in_driver = False

    def __init__(self, root: Path = POWERCAP) -> None:
        self.via: str | None = None
        self.missing: dict[str, str] = {}
        self._root = root
        self._zones: dict[str, Path] = {}
        self._range: dict[str, int] = {}  # µJ at which a counter begins anew
        self._total: dict[str, tuple[int, int]] = {}  # µJ so far, and the counter

    def open(self) -> None:
        for zone in sorted(self._root.glob("intel-rapl:*")):
            self._add(zone)
        if not self._zones:
            reason = "; ".join(f"{name}: {why}" for name, why in self.missing.items())
            raise NotAvailable(reason or f"no RAPL in {self._root}: not Linux, a virtual machine, or no such processor")
        self.via = str(self._root)

    def _add(self, zone: Path) -> None:
        """Packages are zones of their own; of their parts only DRAM is not in the package's figure."""
        try:
            label = (zone / "name").read_text().strip()
        except OSError:
            label = ""
        is_package = zone.name.count(":") == 1 and label.startswith("package")
        if not is_package and label != "dram":
            return
        name = label if is_package else f"{zone.name.split(':')[1]}-dram"
        try:
            counter = int((zone / "energy_uj").read_text())
            self._range[name] = int((zone / "max_energy_range_uj").read_text())
        except PermissionError:
            self.missing[name] = f"only root may read it; sudo chmod a+r {zone / 'energy_uj'}"
        except (OSError, ValueError) as error:
            self.missing[name] = str(error)
        else:
            self._zones[name] = zone / "energy_uj"
            self._total[name] = 0, counter

    def rest(self) -> None:
        return None

    def read(self, tick: Tick) -> Iterable[Row]:
        for name, file in self._zones.items():
            counter = int(file.read_text())
            total, before = self._total[name]
            step = counter - before if counter >= before else counter - before + self._range[name]
            self._total[name] = total + max(0, step), counter
            yield name, {"energy_j": self._total[name][0] * 1e-6}

    def about(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        return None

    def forget(self) -> None:
        return None
