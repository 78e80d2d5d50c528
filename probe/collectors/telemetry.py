"""What runs beside a training to say what the machine was doing? All sources of one rank, begun and ended together.

Nothing here raises into the loop: a source that is not there says why, and what goes wrong becomes a warning.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from probe.collectors.dcgm import DcgmSource
from probe.collectors.gpu import NvmlSource
from probe.collectors.host import HostSource, MachineSource
from probe.collectors.phases import OpenPhases
from probe.collectors.python_stacks import StackSource
from probe.collectors.rapl import RaplSource
from probe.collectors.sampling import FLUSH_S, MOST_BYTES, PATIENCE_S, Place, Sampler, Source
from probe.collectors.serving import ServingSource, refused
from probe.errors import UsageError
from probe.results.telemetry import Window
from probe.runs.telemetry_files import has_parquet, pack

BARE = ("wait", "after")
MOST_WINDOWS = 10_000
MOST_HZ = 1000.0


@dataclass(frozen=True)
class Settings:
    """How often each source is asked (0: not at all), and what may be kept."""

    nvml_hz: float = 10.0
    dcgm_hz: float = 1.0
    host_hz: float = 10.0
    machine_hz: float = 1.0
    rapl_hz: float = 1.0
    serving: str | None = None  # address of a server's page of metrics
    serving_hz: float = 1.0
    stacks_hz: float = 0.0  # sampled Python stacks of the loop's thread
    flush_s: float = FLUSH_S
    max_bytes: int = 4 * MOST_BYTES  # of all sources of a rank, on disk


def settings_of(asked: object) -> Settings | None:
    """What `telemetry=` means; None for off. Raises UsageError."""
    if asked is True:
        return Settings()
    if asked is False or asked is None:
        return None
    if not isinstance(asked, Mapping):
        raise UsageError(f"profile(telemetry={asked!r}): give True, False, or a dictionary such as {{'host_hz': 5}}")
    known = {field.name: field.default for field in fields(Settings)}
    for name, value in asked.items():
        if name not in known:
            raise UsageError(f"profile(telemetry={{{name!r}: …}}): unknown; known are {', '.join(known)}")
        _check(name, value)
    return Settings(**asked)


def _check(name: str, value: object) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name == "serving":
        reason = refused(value)
        if reason:
            asked = f"profile(telemetry={{'serving': {value!r}}})"
            raise UsageError(f"{asked}: {reason}; give one such as http://127.0.0.1:8000/metrics")
        return
    if name.endswith("_hz"):
        if not number or not 0 <= value <= MOST_HZ:  # type: ignore[operator]
            raise UsageError(f"profile(telemetry={{{name!r}: {value!r}}}): give readings a second, 0 to {MOST_HZ:g}")
    elif not number or not value > 0:  # type: ignore[operator]
        raise UsageError(f"profile(telemetry={{{name!r}: {value!r}}}): give a number above 0")


@dataclass(frozen=True)
class Here:
    """Which process this is: whose parts, and which of the machine's sources it reads."""

    directory: Path
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    launch: str = ""
    host: str = ""
    gpus: tuple[int, ...] | None = None  # torch's numbers; None: all that NVML shows


class Telemetry:
    """Every source of this rank. All methods are for the loop's thread; none raises."""

    def __init__(self, settings: Settings, here: Here, warn: Callable[[str], None]) -> None:
        self._settings = settings
        self._here = here
        self._warn = warn
        self._samplers: list[Sampler] = []
        self._windows: deque[Window] = deque(maxlen=MOST_WINDOWS)  # the newest, as the parts on disk are
        self._open: tuple[str, int, int] | None = None  # phase, first step and begin of the window that is not over
        self.phases: OpenPhases | None = None  # of the loop's thread; `annotate` notes them
        self._clock = (0, 0)
        self._identity: dict[str, Any] = {}

    def start(self) -> None:
        """Begin to sample; what a source needs time for, it takes on its own thread."""
        try:
            self._start()
        except Exception as error:  # a defect here must not cost the trace
            self._warn(f"telemetry failed to start: {type(error).__name__}: {error}")

    def _start(self) -> None:
        self._clock = (time.perf_counter_ns(), time.time_ns())
        here, settings = self._here, self._settings
        self.phases = OpenPhases(threading.get_ident())
        self._identity = {"rank": here.rank, "launch": here.launch, "host": here.host, "clock": self._clock}
        place = Place(here.directory, here.rank, self._identity)
        sources = self._sources()
        for source, hz in sources:
            share = max(1, settings.max_bytes // len(sources))
            sampler = Sampler(source, 1 / hz, place, flush_s=settings.flush_s, most_bytes=share, phases=self.phases)
            sampler.start()
            self._samplers.append(sampler)

    def _sources(self) -> Sequence[tuple[Source, float]]:
        """What is asked for; what belongs to the machine is read by one rank of it."""
        settings, here = self._settings, self._here
        first = here.local_rank == 0
        loop = threading.get_native_id()
        asked: list[tuple[Source, float]] = [
            (NvmlSource(here.gpus), settings.nvml_hz),
            (DcgmSource(), settings.dcgm_hz if first else 0.0),
            (HostSource(loop), settings.host_hz),
            (MachineSource(), settings.machine_hz),
            (RaplSource(), settings.rapl_hz if first else 0.0),
            (ServingSource(settings.serving or ""), settings.serving_hz if first and settings.serving else 0.0),
            (StackSource(threading.get_ident()), settings.stacks_hz),
        ]
        return [(source, hz) for source, hz in asked if hz > 0]

    def mark(self, phase: str, step: int, begin_ns: int, ended_ns: int) -> None:
        """A phase (while recording: a step) ended at `ended_ns`, and `phase` began with `step` at `begin_ns`."""
        if self._open is not None and self._open[0] == phase and phase in BARE:
            return  # a look between recordings: the same phase goes on
        if self._open is not None:
            before, first, begun = self._open
            self._windows.append(Window(before, first, begun, ended_ns))
        self._open = (phase, step, begin_ns)

    def stop(self, ended_ns: int) -> None:
        """End every source; what they have is on disk then, unless one hangs."""
        self.mark("", 0, ended_ns, ended_ns)
        self._open = None
        for sampler in self._samplers:
            sampler.ask_to_stop()
        deadline = time.perf_counter() + PATIENCE_S
        for sampler in self._samplers:
            if not sampler.join(max(0.0, deadline - time.perf_counter())):
                self._warn(f"telemetry: {sampler.source.name} did not end in {PATIENCE_S:g} s; it is left to itself")
            elif sampler.unwritten:
                self._warn(f"telemetry: {sampler.source.name} {sampler.unwritten}")
        self._pack()

    def _pack(self) -> None:
        """Leave Parquet, where that can be written; else the archives, which hold the same."""
        if not any(sampler.written_bytes for sampler in self._samplers) or not has_parquet():
            return
        try:
            pack(self._here.directory, self._here.rank, self._here.launch, self._identity)
        except Exception as error:  # a disk that is full by now
            self._warn(f"telemetry stays in archives: {type(error).__name__}: {error}")

    def forget(self) -> None:
        """This is a forked child: threads are gone, and nothing may be written."""
        for sampler in self._samplers:
            sampler.source.forget()
        self._samplers = []
        self.phases = None

    def describe(self) -> dict[str, Any]:
        """What stands in run.json."""
        monotonic_ns, unix_ns = self._clock
        return {
            "clock": {"monotonic_ns": monotonic_ns, "unix_ns": unix_ns},
            "windows": [asdict(window) for window in self._windows],
            "sources": {one.source.name: {**one.about(), "bytes": one.written_bytes} for one in self._samplers},
        }

    def collected(self) -> bool | str:
        """Whether anything is sampled; else why not."""
        running = [one for one in self._samplers if one.reason is None]
        if running:
            return True
        return "; ".join(f"{one.source.name}: {one.reason}" for one in self._samplers) or "nothing was asked for"
