"""What may a user ask of `profile`? Its options, refused before training starts where they make no sense."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from probe.errors import UsageError

Phase = Literal["wait", "calibrate", "warmup", "tensors", "active", "after"]
SNAPSHOT = "snapshot"  # memory: of CUDA's allocator too, beside the allocations in the trace
KEPT = 10  # newest traces of a loop that is watched for ever


@dataclass(frozen=True)
class Options:
    """What the user asked for. Raises UsageError, before training starts, for what makes no sense."""

    wait: int = 5
    warmup: int = 3
    active: int = 3
    repeat: int = 1
    ranks: str | tuple[int, ...] = "first"
    memory: bool | Literal["snapshot"] = False
    stacks: bool = False
    telemetry: bool | dict[str, Any] = True
    max_pause_s: float = 1.0
    every_s: float | None = None
    slow: float | None = None
    on_demand: bool = False
    keep: int | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("wait", 0), ("warmup", 0), ("active", 1), ("repeat", 0 if self.watches else 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"profile({name}={value!r}): give a whole number of steps, {least} or more")
        seconds = self.max_pause_s
        number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not (number and math.isfinite(seconds) and seconds > 0):
            raise UsageError(f"profile(max_pause_s={seconds!r}): give a number of seconds above 0")
        if self.memory not in (True, False, SNAPSHOT):
            raise UsageError(f'profile(memory={self.memory!r}): give True, False or "{SNAPSHOT}"')
        self._check_ranks()
        self._check_watch()

    @property
    def watches(self) -> bool:
        """Whether recordings may be asked for after those of the schedule."""
        return self.every_s is not None or self.slow is not None or self.on_demand

    @property
    def kept(self) -> int | None:
        """How many of the newest traces are kept; None: all."""
        return KEPT if self.keep is None and self.watches else self.keep

    def _check_watch(self) -> None:
        for name, above in (("every_s", 0.0), ("slow", 1.0)):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (number and math.isfinite(value) and value > above):
                what = "seconds" if name == "every_s" else "a factor over the p95 of bare steps"
                raise UsageError(f"profile({name}={value!r}): give {what}, above {above:g}")
        for name in ("keep", "max_bytes"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UsageError(f"profile({name}={value!r}): give a whole number, 1 or more")

    def _check_ranks(self) -> None:
        if isinstance(self.ranks, str):
            known = self.ranks in ("first", "all", "slowest")
        else:
            known = bool(self.ranks) and all(type(rank) is int and rank >= 0 for rank in self.ranks)
        if not known:
            raise UsageError(f'profile(ranks={self.ranks!r}): give "first", "all", "slowest" or a list of ranks')
        if self.ranks == "slowest" and self.wait < 2:
            raise UsageError(
                f'profile(ranks="slowest", wait={self.wait}): it compares waiting steps; wait for 2 or more'
            )

    def may_record(self, rank: int) -> bool:
        """Whether this rank records, or, for "slowest", may come to."""
        if isinstance(self.ranks, str):
            return rank == 0 or self.ranks != "first"
        return rank in self.ranks

    def phases(self, *, calibrated: bool, asked: bool = False) -> list[tuple[Phase, int]]:
        """Phases of one cycle with their lengths in steps; a step is given to calibration where one can be.

        asked: it begins when it was asked for, and waits no more. Its calibration is a step more: a recognised step
        may end within the optimizer's own range, which must not begin in one recording and end in the next.
        The last warm-up step may be recorded for its tensors: what it is slowed down by then does not matter.
        """
        wait, warmup = 0 if asked else self.wait, self.warmup
        calibrate = 0 if calibrated else min(1, wait + warmup)
        if wait:
            wait -= calibrate
        elif not asked:
            warmup -= calibrate
        tensors = min(1, warmup)
        return [
            ("wait", wait), ("calibrate", calibrate), ("warmup", warmup - tensors), ("tensors", tensors),
            ("active", self.active),
        ]  # fmt: skip


def as_memory(memory: Any) -> Any:
    """Anything but a text means whether or not; Options refuses other texts."""
    return memory if isinstance(memory, str) else bool(memory)


def as_ranks(ranks: Any) -> str | tuple[int, ...]:
    """A word, or the numbers of an iterable. Raises UsageError for anything else."""
    if isinstance(ranks, str):
        return ranks
    try:
        return tuple(ranks)
    except TypeError:
        raise UsageError(f'profile(ranks={ranks!r}): give "first", "all", "slowest" or a list of ranks') from None
