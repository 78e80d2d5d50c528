"""How is one window of steps recorded with torch.profiler, without breaking training or another profiler?

Built on torch's low-level `_KinetoProfile`: while it is idle nothing of torch runs, step numbers are ours, and nothing
is left recording at exit (which makes the interpreter crash). What was found out about torch 2.13:

- A second profiler started while one records silently empties the first; stopping the first then empties the second.
  Starting one that was prepared before another one ran is a segmentation fault. Hence the flag and `foreign_profiler`.
- The events of a recording that was emptied or stopped are freed. A range that it saw begin must not end while another
  records: torch would write into what was freed, which crashes at once or later (`end_range`).
- The first prepare_trace imports torch._inductor.config, 1-2 s: `import_torch` pays that before training starts.
- Kineto reads KINETO_LOG_LEVEL once, at the first prepare of the process, and otherwise prints on standard error.
- Export to a full disk or a missing directory logs and returns; only the file tells.
- Metadata with a backslash in it, JSON's own escapes included, makes the whole trace invalid JSON: numbers only.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

from probe.collectors import kineto_log
from probe.files import atomic_path
from probe.trace import STEP_PREFIX

INCOMPLETE_MARK = "probe: incomplete step "
_EVENT = b'"ph": "X"'
_CHUNK = 1 << 20

# torch.autograd.profiler._is_profiler_enabled while our profiler is prepared, or records: false and true as torch's
# own values are, yet no bool. Any other profiler that starts or stops writes a bool over it.
_PREPARED, _RECORDING = 0, 1

left_open: list[Any] = []  # ranges of recordings that are gone; even to drop one would end it
_now: Recording | None = None  # the recording of ours that was started last, until it is stopped


def import_torch() -> None:
    """Import everything of torch that recording needs, so that no import falls into a timed step."""
    importlib.import_module("torch.profiler")
    with contextlib.suppress(ImportError):  # a build without inductor; prepare_trace looks for it and goes on
        importlib.import_module("torch._inductor.config")
    with _autograd().profiler.record_function("probe: first use"):  # looks its operators up, 1 ms, once
        pass


def _autograd() -> ModuleType:
    return importlib.import_module("torch.autograd")


def foreign_profiler() -> str | None:
    """Why we must not record now: a profiler that is not ours is in use. None where there is none."""
    autograd = _autograd()
    if autograd._profiler_enabled():
        return "another torch profiler is recording"
    tracker = getattr(autograd.profiler, "KinetoStepTracker", None)
    if "ProfilerStep" in getattr(tracker, "_step_dict", {}):
        return "a torch.profiler.profile of the program is in use"
    return None


def recording_now() -> object:
    """Which recording of ours goes on; None where none does, or another profiler has emptied it."""
    if _now is None:
        return None
    flag = sys.modules["torch.autograd.profiler"]._is_profiler_enabled  # as `lost`, but for hot paths
    return _now if type(flag) is int else None


def end_range(mark: Any, begun_in: object, *error: object) -> None:
    """Leave a range that was begun in `begun_in`, as `recording_now` told; kept open for good where torch may crash."""
    if begun_in is recording_now() or not _autograd()._profiler_enabled():
        mark.__exit__(*(error or (None, None, None)))
    else:
        left_open.append(mark)


class Marking(Protocol):
    """What names parts of the program in the trace, and is only there while one is recorded."""

    def install(self) -> None:
        """Begin to name them."""

    def remove(self) -> None:
        """Leave the program as it was."""


class Recording:
    """One window: prepare, start, stop, export; each at most once, in this order, all on one thread.

    `pause_s` is how long each part took.
    """

    def __init__(
        self, *, shapes: bool, memory: bool = False, stacks: bool = False, marking: Marking | None = None
    ) -> None:
        self.state: Literal["idle", "prepared", "recording", "stopped"] = "idle"
        self.pause_s: dict[str, float] = {}
        self._options = {"shapes": shapes, "memory": memory, "stacks": stacks}
        self._marking = marking
        self._profile: Any = None
        self._metadata: dict[str, str] = {}
        self._mark: Any = None
        self._mark_name = ""
        self._count: int | None = None

    def prepare(self) -> None:
        """Let kineto set up what it needs (on a GPU: CUPTI); the steps that follow are not recorded."""
        self._profile = _kineto_profile(**self._options)
        with self._timed("prepare"), kineto_log.silenced():
            self._profile.prepare_trace()
        _autograd().profiler._is_profiler_enabled = _PREPARED
        self.state = "prepared"

    def start(self) -> None:
        """Begin to record; prepares (again) where another profiler ran since."""
        if self.state == "idle" or not self._flag_is(_PREPARED):
            self.prepare()
        for key, value in self._metadata.items():
            self._profile.preset_metadata_json(key, value)
        self.state = "recording"
        with self._timed("prepare"):
            if self._marking is not None:
                self._marking.install()
            self._profile.start_trace()
        _autograd().profiler._is_profiler_enabled = _RECORDING
        self._is_now()

    def _is_now(self) -> None:
        global _now
        _now = self

    def _was_now(self) -> None:
        global _now
        if _now is self:
            _now = None

    def add_metadata(self, key: str, **numbers: int) -> None:
        """An object of numbers for the top level of the trace; before `start`."""
        self._metadata[key] = json.dumps(numbers)

    def mark_step(self, number: int) -> None:
        """Open the mark of step `number`."""
        self.mark(f"{STEP_PREFIX}{number}")

    def mark(self, name: str) -> None:
        """Open a mark of any name."""
        self._mark_name = name
        self._mark = _autograd().profiler.record_function(name)
        self._mark.__enter__()

    def end_mark(self) -> None:
        """Close the mark that is open, if any."""
        mark, self._mark = self._mark, None
        if mark is not None and self.lost:
            left_open.append(mark)
        elif mark is not None:
            mark.__exit__(None, None, None)

    @property
    def lost(self) -> bool:
        """Whether another profiler was started while this one recorded, which empties this one."""
        return self.state == "recording" and not self._flag_is(_RECORDING)

    def stop(self) -> None:
        """End the window. On a GPU this waits for it. Where the window is lost, the other profiler is left alone."""
        if self.state == "stopped":
            return
        if self.lost:
            self.abandon()
            return
        self.state = "stopped"
        self._was_now()
        with self._timed("stop"):
            self._profile.stop_trace()
            self._unmark()

    def _unmark(self) -> None:
        if self._marking is not None:
            self._marking.remove()

    def event_count(self) -> int:
        """Events recorded: operators, annotations and whatever the device did."""
        if self._count is None:
            self._count = len(self._activities())
        return self._count

    def names(self) -> set[str]:
        """The names of what was recorded."""
        return {activity.name() for activity in self._activities()}

    def _activities(self) -> Any:
        results = self._profile.profiler.kineto_results
        return getattr(results, "trace_activities", results.events)()  # with trace_only there are no events

    def export(self, path: Path, *, incomplete_step: int | None = None) -> int:
        """Write the trace to `path` (gzip, whole or not at all) and return its size in bytes. Raises OSError.

        The mark of `incomplete_step`, which the loop's end cut short, is renamed so that nobody takes it for a step.
        """
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path.parent} is gone; was the run directory removed?")
        plain = path.with_name(f".{path.name}.{os.getpid()}.json")  # here, not in $TMPDIR, which may be small
        renamed = {json.dumps(str(plain)).encode(): json.dumps(path.name).encode()}  # kineto notes where it wrote
        if incomplete_step is not None:
            old, new = f'"{STEP_PREFIX}{incomplete_step}"', f'"{INCOMPLETE_MARK}{incomplete_step}"'
            renamed[old.encode()] = new.encode()
        try:
            with self._timed("export"):
                self._profile.export_chrome_trace(str(plain))
            with self._timed("compress"), atomic_path(path) as part:
                self._count = _compress(plain, part, renamed)
            return path.stat().st_size
        finally:
            with contextlib.suppress(OSError):
                plain.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Leave without a trace: stop where it is ours to stop, else leave the other profiler alone."""
        if self.lost:
            self.end_mark()
        state, self.state = self.state, "stopped"
        self._was_now()
        self._mark = None
        self._unmark()
        if state == "prepared" and self._flag_is(_PREPARED) and foreign_profiler() is None:
            self._profile.start_trace()  # a prepared one that never started makes the next profiler complain
            self._profile.stop_trace()
        elif state == "recording" and self._flag_is(_RECORDING):
            self._profile.stop_trace()

    def _flag_is(self, value: int) -> bool:
        flag = getattr(_autograd().profiler, "_is_profiler_enabled", value)
        return flag == value and not isinstance(flag, bool)

    @contextlib.contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.pause_s[part] = self.pause_s.get(part, 0.0) + time.perf_counter() - begin


def _kineto_profile(*, shapes: bool, memory: bool, stacks: bool) -> Any:
    """torch's low-level profiler; trace_only (no Python object for each event) halves what stopping costs."""
    torch = importlib.import_module("torch")
    activity = torch.profiler.ProfilerActivity
    activities = [activity.CPU] + ([activity.CUDA] if torch.cuda.is_available() else [])
    options: dict[str, Any] = {"record_shapes": shapes, "profile_memory": memory, "with_stack": stacks}
    config = importlib.import_module("torch._C._profiler")._ExperimentalConfig
    if not stacks:
        with contextlib.suppress(TypeError):  # older than trace_only
            options["experimental_config"] = config(trace_only=True)
    return torch.profiler._KinetoProfile(activities=activities, **options)


def _compress(plain: Path, part: Path, renamed: dict[bytes, bytes]) -> int:
    """Compress a trace with some texts replaced; the number of its events. Raises OSError where it is cut short.

    Level 1: four times as fast as the default, and a tenth larger.
    """
    events = 0
    tail = b""
    with plain.open("rb") as source, gzip.open(part, "wb", compresslevel=1) as target:
        for text in _lines(source.read):
            events += text.count(_EVENT)
            for old, new in renamed.items():
                text = text.replace(old, new)
            target.write(text)
            tail = (tail + text)[-64:]
    if not tail.rstrip().endswith(b"}"):
        raise OSError("torch wrote an unfinished trace; is the disk full?")
    return events


def _lines(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Pieces of about 1 MiB that end where a line ends, so that no name is cut in two."""
    rest = b""
    while chunk := read(_CHUNK):
        end = chunk.rfind(b"\n") + 1
        if end == 0:
            rest += chunk
            continue
        yield rest + chunk[:end]
        rest = chunk[end:]
    if rest:
        yield rest
