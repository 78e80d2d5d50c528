"""When did each request to a server arrive, get its first token, and end? Noted from any thread, kept bounded.

And when did probe itself make the loop stand? Nobody was served then, and rates leave it out.
"""

from __future__ import annotations

import math
import threading
from array import array
from time import perf_counter_ns
from types import TracebackType

from probe.results.serving import GAP_RATIO, RequestTimes

CAPACITY = 100_000  # rows; past it every second one is dropped, again and again
LEAST_PAUSE_NS = 100_000  # shorter ones, as between two recorded steps, are not worth a row
MOST_PAUSES = 10_000  # past it each becomes one with the next, as long as both
_NONE = -1
_LOG_RATIO = math.log(GAP_RATIO)


class Request:
    """One request: `token()` for each token (or several at once) as it leaves, `end()` or the end of the block.

    Made by `session.request()`; for one thread at a time. A block that raises is a failed request.
    """

    __slots__ = ("_arrival", "_ended", "_first", "_gaps", "_last", "_log", "_prompt", "_tokens")

    def __init__(self, log: RequestLog | None, prompt_tokens: int | None = None) -> None:
        self._log = log  # None: nobody looks
        self._prompt = _NONE if prompt_tokens is None else int(prompt_tokens)
        self._first = _NONE
        self._tokens = 0
        self._last = 0
        self._ended = log is None
        self._gaps: dict[int, int] = {}
        self._arrival = perf_counter_ns()
        if log is not None:
            log.begin()

    def token(self, count: int = 1) -> None:
        """`count` tokens leave now; the first call is the time to first token."""
        if self._ended:
            return
        now = perf_counter_ns()
        if self._first == _NONE:
            self._first = now
        else:
            bin_ = gap_bin(now - self._last)
            self._gaps[bin_] = self._gaps.get(bin_, 0) + 1
        self._last = now
        self._tokens += count

    def end(self, *, failed: bool = False) -> None:
        """The request is over; what follows is ignored."""
        if not self._ended and self._log is not None:
            self._ended = True
            row = (self._arrival, self._first, perf_counter_ns(), self._prompt, self._tokens)
            self._log.add(row, self._gaps, failed=failed)

    def __enter__(self) -> Request:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(failed=kind is not None)


def gap_bin(gap_ns: int) -> int:
    """The bin of a time between two tokens."""
    return math.floor(math.log(max(gap_ns, 1)) / _LOG_RATIO)


class RequestLog:
    """All requests of a session; its methods are for any thread."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._lock = threading.Lock()
        self._columns = [array("q") for _ in range(5)]
        self._gaps: dict[int, int] = {}
        self._capacity = capacity
        self._stride = 1
        self._begun = self._total = self._failed = 0
        self._pauses: list[tuple[int, int]] = []

    def begin(self) -> None:
        """A request has arrived."""
        with self._lock:
            self._begun += 1

    def add(self, row: tuple[int, int, int, int, int], gaps: dict[int, int], *, failed: bool) -> None:
        """A request has ended."""
        with self._lock:
            if not self._total % self._stride:
                for column, value in zip(self._columns, row, strict=True):
                    column.append(value)
            self._total += 1
            self._failed += failed
            for bin_, count in gaps.items():
                self._gaps[bin_] = self._gaps.get(bin_, 0) + count
            if len(self._columns[0]) >= self._capacity:
                for column in self._columns:
                    del column[1::2]
                self._stride *= 2

    def pause(self, begin_ns: int, end_ns: int) -> None:
        """In between, probe made the loop stand; for the loop's thread. Nothing where nobody has asked yet."""
        if not self._begun or end_ns - begin_ns < LEAST_PAUSE_NS:
            return
        self._pauses.append((begin_ns, end_ns))
        if len(self._pauses) >= MOST_PAUSES:
            pairs = zip(self._pauses[::2], self._pauses[1::2], strict=True)
            self._pauses = [(begin, end + last - first) for (begin, end), (first, last) in pairs]

    def times(self, opened_ns: int) -> RequestTimes | None:
        """What run.json keeps; None where there was no request."""
        with self._lock:
            if not self._begun:
                return None
            arrival, first, end, prompt, tokens = (column.tolist() for column in self._columns)
            return RequestTimes(
                self._total, self._failed, self._begun - self._total, self._stride,
                tuple(t - opened_ns for t in arrival),
                tuple(None if t == _NONE else t - opened_ns for t in first),
                tuple(t - opened_ns for t in end),
                tuple(None if n == _NONE else n for n in prompt), tuple(tokens),
                {str(bin_): count for bin_, count in sorted(self._gaps.items())},
                tuple((begin - opened_ns, end - opened_ns) for begin, end in self._pauses),
            )  # fmt: skip


NO_REQUEST = Request(None)  # what a session that observes nothing gives
