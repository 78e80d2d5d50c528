"""How do others see a run while it goes on? The steps since the last time, as a few points, about every ten seconds.

Told on the loop's thread, between two steps, and in no step's time. step() does no more than before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from time import perf_counter_ns

from probe.session.steps import NEVER, StepLog

EVERY_S = 10.0
MOST_POINTS = 50  # at once; more steps than that become means

Tell = Callable[[int, Mapping[str, float]], None]  # a step's number, and its values by name


class Following:
    """One who is told; `close` is called once, when the run ends."""

    def __init__(
        self, log: StepLog, tell: Tell, every_s: float = EVERY_S, close: Callable[[], None] | None = None
    ) -> None:
        self._log = log
        self._tell = tell
        self._every_ns = int(every_s * 1e9)
        self._close = close
        self._next = 0  # the first step that was not told
        self._metrics: dict[str, int] = {}  # of each metric the first step that was not told
        self._told_ns = perf_counter_ns()

    def pace(self, step_ns: int) -> int:
        """After how many steps to tell again."""
        left_ns = self._every_ns - (perf_counter_ns() - self._told_ns)
        return max(1, left_ns // max(step_ns, 1))

    @property
    def due(self) -> bool:
        """Whether it is time to tell."""
        return perf_counter_ns() - self._told_ns >= self._every_ns

    def flush(self, steps: int) -> None:
        """Tell everything up to step number `steps`. Raises what the one who is told raises."""
        self._told_ns = perf_counter_ns()
        for step, values in self._points(steps):
            self._tell(step, values)
        for name, series in self._log.series.items():
            begun = self._metrics.get(name, 0)
            pairs = [(s, v) for s, v in zip(series.steps, series.values, strict=True) if s >= begun]
            for step, value in pairs[:: max(1, math.ceil(len(pairs) / MOST_POINTS))]:
                self._tell(step, {name: value})
            if pairs:
                self._metrics[name] = pairs[-1][0] + 1

    def end(self, steps: int) -> None:
        """The last steps; whoever was opened for this run is closed."""
        try:
            self.flush(steps)
        finally:
            if self._close is not None:
                self._close()

    def _points(self, steps: int) -> list[tuple[int, dict[str, float]]]:
        """Means over equal stretches of the steps that were not told, each under its last step."""
        log = self._log
        first, last = -(-self._next // log.stride), len(log.durations_ns)
        self._next = steps
        size = max(1, math.ceil((last - first) / MOST_POINTS))
        rows = (range(begin, min(begin + size, last)) for begin in range(first, last, size))
        return [((chunk[-1]) * log.stride, self._means(chunk)) for chunk in rows]

    def _means(self, rows: range) -> dict[str, float]:
        log = self._log
        seconds = sum(log.durations_ns[row] for row in rows) * 1e-9
        told = {"probe/step_s": seconds / len(rows)}
        for name, shown in (("samples", "probe/samples_per_s"), ("tokens", "probe/tokens_per_s")):
            known = [value for value in self._column(name, rows) if not math.isnan(value)]
            if known and seconds > 0:
                told[shown] = sum(known) / seconds
        waits = self._column("data_wait_ns", rows)
        if waits:
            told["probe/data_wait_s"] = sum(waits) * 1e-9 / len(rows)
        return told

    def _column(self, name: str, rows: range) -> list[float]:
        column = self._log.columns.get(name)
        return [] if column is None else list(column[rows.start : rows.stop])


class Followers:
    """All who are told of a session's steps. None of the methods raises: what those who follow raise is theirs."""

    def __init__(self, log: StepLog, warn: Callable[[str], None]) -> None:
        self._log = log
        self._warn = warn
        self._all: list[Following] = []

    def add(self, tell: Tell, every_s: float, close: Callable[[], None] | None) -> None:
        """One more."""
        self._all.append(Following(self._log, tell, every_s, close))

    def tell(self, steps: int, step_ns: int) -> int:
        """Tell those whose time it is; the number of steps at which to come again. One who raises is told no more."""
        again = NEVER
        for follower in tuple(self._all):
            try:
                if follower.due:
                    follower.flush(steps)
            except Exception as error:
                self._all.remove(follower)
                self._warn(f"one who follows the run is told no more: {type(error).__name__}: {error}")
            else:
                again = min(again, steps + follower.pace(step_ns))
        return again

    def end(self, steps: int) -> None:
        """The run is over: tell the last steps."""
        followers, self._all = self._all, []
        for follower in followers:
            try:
                follower.end(steps)
            except Exception as error:
                self._warn(f"one who follows the run was not told all: {type(error).__name__}: {error}")

    def forget(self) -> None:
        """This is a forked child: those who follow are the parent's."""
        self._all = []
