"""How is something sampled beside training at a bounded cost, and kept so that a kill loses seconds only?

Every source has a thread, a buffer and parts of its own: one that hangs holds up no other. The part that is being
filled is written anew every few seconds, whole, until it is full; then the next begins. A thread that takes more than
its share of a core slows down.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from probe.collectors.phases import OpenPhases
from probe.collectors.sample_buffer import NO_PHASES, SampleBuffer
from probe.runs.telemetry_files import part_name, write_part

FLUSH_S = 10.0  # how much a kill loses at most
MOST_BYTES = 16 << 20  # on disk, of one source; beyond it the oldest parts go
CPU_FRACTION = 0.005  # of a core that a thread may take, before it slows down
DRIVER_CPU_FRACTION = 0.05  # of one that is in a driver most of that time, and holds no GIL there
LIMIT_S = 5.0  # over which that is measured: a single reading may take long
SLOWEST_S = 10.0
PATIENCE_S = 2.0  # for a thread that is asked to end: it may hang in a driver
MOST_TROUBLES = 20  # kept of what went wrong
FAILURES = 10  # in a row after which a source is asked less often

Row = tuple[str, Mapping[str, float]]  # whose, and what


class NotAvailable(Exception):  # noqa: N818 (a finding, not a mistake)
    """A source that is not there; the message says why."""


@dataclass(frozen=True)
class Tick:
    """One moment of sampling."""

    due_ns: int  # when the thread asked to be woken
    at_ns: int  # when it ran


class Source(Protocol):
    """Something to sample. All but the constructor run on the source's own thread, and may raise."""

    name: str
    via: str | None
    missing: dict[str, str]  # what it cannot say: why
    in_driver: bool  # whether it spends its time in a driver, without the GIL

    def open(self) -> None:
        """Find out what there is. Raises NotAvailable."""

    def rest(self) -> None:
        """The thread is about to wait for its next moment."""

    def read(self, tick: Tick) -> Iterable[Row]:
        """What there is to say now."""

    def about(self) -> dict[str, Any]:
        """What else is to be known of it; plain JSON."""

    def close(self) -> None:
        """Leave everything as it was."""

    def forget(self) -> None:
        """This is a forked child, in which the thread is gone: undo what reaches into the process."""


@dataclass(frozen=True)
class Place:
    """Where parts go, and whose they are."""

    directory: Path
    rank: int
    identity: Mapping[str, Any] = field(default_factory=dict)


class Sampler:
    """One source on a thread. `reason` says why it is not (or no longer) sampled; nothing of it raises."""

    def __init__(self, source: Source, period_s: float, place: Place, *, flush_s: float = FLUSH_S,
                 most_bytes: int = MOST_BYTES, writer: Callable[..., int] = write_part,
                 unix_ns: Callable[[], int] = time.time_ns, phases: OpenPhases | None = None) -> None:  # fmt: skip
        self.source = source
        self.period_s = period_s
        self.reason: str | None = None
        self.troubles: list[str] = []
        self.buffer = SampleBuffer(source.name)
        self.removed = 0  # parts that made room for newer ones
        self.written_bytes = 0
        self._asked_s = self._usual_s = period_s
        self._cpu_fraction = DRIVER_CPU_FRACTION if source.in_driver else CPU_FRACTION
        self._place = place
        self._flush_s = flush_s
        self._most_bytes = most_bytes
        self._writer = writer
        self._unix_ns = unix_ns
        self._phases = phases
        self._before_ns: int | None = None  # when the reading before was made
        self._sizes: list[tuple[Path, int]] = []  # of the parts that are complete
        self._number = 0
        self._failures = 0
        self._energy: dict[str, tuple[float, float]] = {}  # of each device: used so far, and its counter, both in J
        self.unwritten: str | None = None  # why the last attempt to write failed; it is repeated after flush_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"probe-{source.name}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """The thread ends after what it does now."""
        self._over.set()

    def join(self, patience_s: float = PATIENCE_S) -> bool:
        """Whether the thread has ended, with everything on disk."""
        if self._thread.ident is not None:
            self._thread.join(patience_s)
        return not self._thread.is_alive()

    def about(self) -> dict[str, Any]:
        """What stands in the head of each part. For any thread: the source may be reading meanwhile."""
        try:
            told = self.source.about()
        except Exception as error:
            told = {"about": f"{type(error).__name__}: {error}"}
        return {
            "via": self.source.via,
            "period_s": self.period_s,
            "asked_period_s": self._asked_s,
            "missing": dict(self.source.missing),
            "troubles": list(self.troubles),
            "dropped_rows": self.buffer.dropped,
            "removed_parts": self.removed,
            "reason": self.reason,
            "energy_used_j": {entity: used for entity, (used, _) in list(self._energy.items())},
            **told,
        }

    def _run(self) -> None:
        try:
            self.source.open()
        except NotAvailable as error:
            self.reason = str(error)
            return
        except Exception as error:
            self.reason = f"{type(error).__name__}: {error}"
            return
        try:
            self._loop()
        finally:
            self._guarded(self.source.close)
            self.flush()

    def _loop(self) -> None:
        due = flushed = limited = time.perf_counter_ns()
        cpu = time.thread_time_ns()
        while True:
            due = self.next_due(due, time.perf_counter_ns())
            self._guarded(self.source.rest)
            if self._over.wait(max(0.0, (due - time.perf_counter_ns()) * 1e-9)):
                break
            now = time.perf_counter_ns()
            self.tick(Tick(due, now))
            if (self.buffer.full and self.unwritten is None) or now - flushed >= self._flush_s * 1e9:
                self.flush()
                flushed = now
            if now - limited >= LIMIT_S * 1e9:
                self.limit((time.thread_time_ns() - cpu) / (now - limited))
                limited, cpu = now, time.thread_time_ns()
        if not len(self.buffer) and not self._number:  # a run shorter than a period
            now = time.perf_counter_ns()
            self.tick(Tick(now, now))

    def next_due(self, due_ns: int, now_ns: int) -> int:
        """When to read next; a reading that took longer than a period is followed by a whole one of rest."""
        period_ns = int(self.period_s * 1e9)
        return due_ns + period_ns if due_ns + period_ns > now_ns else now_ns + period_ns

    def tick(self, tick: Tick) -> None:
        """One reading; what goes wrong in it is told, and the next is tried."""
        unix_ns = self._unix_ns()
        phases = NO_PHASES if self._phases is None else self._phases.at(self._since_ns(tick))
        self._before_ns = tick.at_ns
        try:
            for entity, values in self.source.read(tick):
                self.buffer.add(tick.at_ns, unix_ns, entity, values, phases)
                if "energy_j" in values:
                    self._count_energy(entity, values["energy_j"])
        except Exception as error:
            self.trouble(f"{type(error).__name__}: {error}")
            self._failures += 1
            if self._failures == FAILURES:
                self.period_s = max(self._usual_s, SLOWEST_S)
            return
        if self._failures >= FAILURES:
            self.period_s = self._usual_s
        self._failures = 0

    def _since_ns(self, tick: Tick) -> int:
        """Since when what is read now is said: the reading before, or a period ago."""
        return self._before_ns if self._before_ns is not None else tick.at_ns - int(self.period_s * 1e9)

    def _count_energy(self, entity: str, counter_j: float) -> None:
        """Add up what each device used; a counter that begins anew adds nothing."""
        used, before = self._energy.get(entity, (0.0, counter_j))
        self._energy[entity] = used + max(0.0, counter_j - before), counter_j

    def limit(self, cpu_fraction: float) -> None:
        """Sample half as often where sampling took too much of a core."""
        if cpu_fraction > self._cpu_fraction and self.period_s < SLOWEST_S:
            self.period_s = self._usual_s = min(2 * self.period_s, SLOWEST_S)
            self.trouble(f"took {cpu_fraction:.1%} of a core; sampled every {self.period_s:g} s from then on")

    def flush(self) -> None:
        """Write the part that is being filled; begin the next where it is full. Nothing is lost where that fails."""
        if not len(self.buffer):
            return
        name = part_name(self._place.rank, self.source.name, self._number)
        path = self._place.directory / name
        try:
            size = self._writer(path, self.buffer.samples(self.about()), self._place.identity)
        except Exception as error:  # a full disk, a directory that was removed, a pyarrow that does not fit
            self.unwritten = f"could not be written: {type(error).__name__}: {error}"
            self.trouble(self.unwritten)
            return
        self.unwritten = None
        self.written_bytes += size
        if self.buffer.full:
            self.buffer.clear()
            self._number += 1
            self._sizes.append((path, size))
            self._make_room(size)

    def _make_room(self, next_size: int) -> None:
        while len(self._sizes) > 1 and sum(size for _, size in self._sizes) + next_size > self._most_bytes:
            oldest, _ = self._sizes.pop(0)
            try:
                oldest.unlink(missing_ok=True)
            except OSError as error:
                self.trouble(f"an old part could not be removed: {error}")
            self.removed += 1

    def trouble(self, text: str) -> None:
        """Keep what went wrong, once."""
        text = " ".join(text.split())[:300]
        if text not in self.troubles and len(self.troubles) < MOST_TROUBLES:
            self.troubles.append(text)

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self.trouble(f"{type(error).__name__}: {error}")
