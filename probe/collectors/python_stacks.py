"""Where in the program does the loop's thread spend its time? Its Python stack, looked at a few times a second.

Off unless asked for. Stacks are counted, not kept: the commonest go into the head of the part.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath
from types import FrameType
from typing import Any

from probe.collectors.host import HOST
from probe.collectors.sampling import Row, Tick

DEPTH = 12  # innermost frames that tell stacks apart
MOST_STACKS = 2000
SHOWN = 50


class StackSource:
    """Counts the stacks of one thread."""

    name = "stacks"
    in_driver = False

    def __init__(self, thread: int) -> None:
        """`thread`: its identity, as threading.get_ident gives it."""
        self.via: str | None = "sys._current_frames"
        self.missing: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self._thread = thread

    def open(self) -> None:
        return None

    def rest(self) -> None:
        return None

    def read(self, tick: Tick) -> Iterable[Row]:
        frame = sys._current_frames().get(self._thread)
        if frame is None:
            return
        stack = described(frame)
        if stack in self.counts or len(self.counts) < MOST_STACKS:
            self.counts[stack] += 1
        yield HOST, {"samples": 1.0}

    def about(self) -> dict[str, Any]:
        """The commonest stacks, innermost frame first, with how often each was seen."""
        return {"stacks": dict(Counter(dict(self.counts)).most_common(SHOWN))}  # a copy: the thread goes on counting

    def close(self) -> None:
        return None

    def forget(self) -> None:
        return None


def described(frame: FrameType | None) -> str:
    """`train_step (train.py:82) < main (train.py:120)`; file names without their directories."""
    names: list[str] = []
    while frame is not None and len(names) < DEPTH:
        code = frame.f_code
        names.append(f"{code.co_name} ({PurePath(code.co_filename).name}:{frame.f_lineno})")
        frame = frame.f_back
    return " < ".join(names)
