"""Which annotated phases is the loop in? What the loop's thread notes, and threads that sample look at.

A phase is noted by appending to a list and left by taking it off again; nothing is summed up and nothing grows, so that
it may stand in a hot path. What a reading says is said of the time since the reading before: it belongs to a phase only
if that was open all the while.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import get_ident
from time import perf_counter_ns

from probe.results.telemetry import InPhases

Mark = tuple[str, int]  # name, and when it was entered (perf_counter_ns)


@dataclass(slots=True)
class OpenPhases:
    """The annotated blocks that one thread is in; `enter` and `leave` are called by it and by no other."""

    thread: int
    open: list[Mark] = field(default_factory=list)

    def enter(self, name: str) -> Mark | None:
        """A block begins; None in another thread, whose blocks are not the loop's."""
        if get_ident() != self.thread:
            return None
        mark = (name, perf_counter_ns())
        self.open.append(mark)
        return mark

    def leave(self, mark: Mark) -> None:
        """It ends, mostly as the last one that began; blocks of coroutines end in any order."""
        marks = self.open
        if marks and marks[-1] is mark:
            marks.pop()
            return
        for index, one in enumerate(marks):
            if one is mark:
                del marks[index]
                return

    def at(self, since_ns: int) -> InPhases:
        """The phases now, and which of them were open since `since_ns`; for any thread."""
        marks = tuple(self.open)
        whole = 0
        while whole < len(marks) and marks[whole][1] <= since_ns:
            whole += 1
        return InPhases(tuple(name for name, _ in marks), whole)
