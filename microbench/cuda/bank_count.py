"""How many banks has the register file, and how many registers does one give a cycle? Read from times by pattern.

With k banks, register r lies in bank r mod k, so what an instruction costs depends only on which of its three sources
share a bank: five classes (all in one, three ways of two in one, all apart). The answer is the smallest k for which all
patterns of each class take the same time, and those with more sources in one bank no less than those with fewer. Where
none does, or where no pattern is slower than another, the number is not known, and the reason is.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

TRIED = (1, 2, 4, 8)
SAME_FRACTION = 0.05  # times of one class may differ by as much: the loop's counter and branch, and noise
APART_FRACTION = 0.10  # a conflict costs at least this much; the smallest known one costs 15 %
PORTS = (1, 2, 3)  # registers that a bank gives each cycle
Residues = tuple[int, int, int]
Sharing = tuple[int, int, int]  # by source: the first source that lies in the same bank


@dataclass(frozen=True)
class Class:
    """The patterns in which the same sources share a bank."""

    sharing: Sharing
    cycles: tuple[float, ...]  # of an instruction, one value a pattern

    @property
    def load(self) -> int:
        """How many sources lie in the bank with the most."""
        return max(Counter(self.sharing).values())

    @property
    def median(self) -> float:
        """Cycles of an instruction of this class."""
        return statistics.median(self.cycles)

    @property
    def spread_fraction(self) -> float:
        """How far the slowest lies above the fastest."""
        return max(self.cycles) / min(self.cycles) - 1

    @property
    def name(self) -> str:
        """The sources by bank: AB C where the first two share one."""
        banks = dict.fromkeys(self.sharing)
        return " ".join("".join("ABC"[i] for i in range(3) if self.sharing[i] == bank) for bank in banks)


@dataclass(frozen=True)
class Banks:
    """The result; `count` and `ports` are None where they are not known, and `because` says why, or what shows it."""

    count: int | None
    because: str
    ports: int | None = None
    classes: tuple[Class, ...] = ()  # most sources in one bank first

    @property
    def conflict_cycles(self) -> float | None:
        """What an instruction with all sources in one bank takes longer than the fastest class."""
        cycles = [c.median for c in self.classes]
        return max(cycles) - min(cycles) if len(cycles) > 1 else None


def infer(cycles: Mapping[Residues, float], least: float) -> Banks:
    """Banks from the cycles an instruction takes by the residues of its sources modulo 8.

    `least` is what it takes without reading any register (all of them reused), or less: nothing is faster.
    """
    if len(cycles) < 2 or min(cycles.values()) <= 0:
        return Banks(None, "too few patterns were measured")
    for k in TRIED:
        classes = classified(cycles, k)
        if _why_not(classes) is None:
            return _found(k, classes, least)
    reasons = {k: _why_not(classified(cycles, k)) for k in TRIED[1:]}
    return Banks(None, "; ".join(f"with {k} banks {reason}" for k, reason in reasons.items()))


def classified(cycles: Mapping[Residues, float], k: int) -> tuple[Class, ...]:
    """The patterns by which sources share one of `k` banks."""
    found: dict[Sharing, list[float]] = {}
    for residues, taken in cycles.items():
        banks = [r % k for r in residues]
        a, b, c = (banks.index(bank) for bank in banks)
        found.setdefault((a, b, c), []).append(taken)
    classes = [Class(sharing, tuple(values)) for sharing, values in found.items()]
    return tuple(sorted(classes, key=lambda c: (-c.load, c.sharing)))


def _why_not(classes: Sequence[Class]) -> str | None:
    """Why these classes do not explain the times; None where they do."""
    widest = max(classes, key=lambda c: c.spread_fraction)
    if widest.spread_fraction > SAME_FRACTION:
        return f"patterns {widest.name} should cost the same and differ by {widest.spread_fraction:.0%}"
    for heavy in classes:
        for light in classes:
            if heavy.load > light.load and heavy.median < light.median * (1 - SAME_FRACTION):
                return f"{light.name} takes longer than {heavy.name}"
    return None


def _found(k: int, classes: tuple[Class, ...], least: float) -> Banks:
    """The result with the least k that explains the times."""
    slowest, fastest = max(c.median for c in classes), min(c.median for c in classes)
    if k == 1 and slowest > least * (1 + APART_FRACTION):
        because = f"all patterns take {slowest:.2f} cycles, and {least:.2f} where registers are reused"
    elif k == 1:
        return Banks(None, f"no pattern is slower than another: all take {slowest:.2f} cycles", classes=classes)
    elif slowest < fastest * (1 + APART_FRACTION):
        return Banks(
            None, f"patterns differ by {slowest / fastest - 1:.0%}, too little for a conflict", classes=classes
        )
    else:
        because = ", ".join(f"{c.name}: {c.median:.2f}" for c in classes)
        because = f"cycles by which sources share a bank: {because}"
    return Banks(k, because, _ports(classes, min(least, fastest)), classes)


def _ports(classes: Sequence[Class], least: float) -> int | None:
    """The fewest registers a bank gives each cycle with which every class takes as long as it does."""
    for ports in PORTS:
        if all(_fits(c, ports, least) for c in classes):
            return ports
    return None


def _fits(found: Class, ports: int, least: float) -> bool:
    """Whether so many ports give the class its time: reads of several instructions overlap, or start with each one."""
    return any(abs(found.median / max(least, cycles) - 1) <= APART_FRACTION for cycles in _read_cycles(found, ports))


def _read_cycles(found: Class, ports: int) -> Iterator[float]:
    yield found.load / ports
    yield math.ceil(found.load / ports)
