"""How does a user name a stretch of code in the trace?"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar, cast

from probe.collectors.phases import Mark, OpenPhases
from probe.collectors.torch_profiler import end_range, recording_now
from probe.session.modules import ModuleRanges, range_maker
from probe.trace import MODULE_PREFIX, RANGE_PREFIX

_Function = TypeVar("_Function", bound=Callable[..., Any])


class annotate:  # noqa: N801 - used as a verb: `with annotate("loss"):`, `@annotate("loss")`
    """Name a block or a function in the trace: `with annotate("loss"):` or `@annotate("loss")`.

    Costs about a microsecond while nothing records, and needs no torch until something does. One instance may be
    entered again while it is open. Coroutines may be decorated; their range then includes the time they are suspended.
    Under a tool that listens to NVTX (nsys) it is a range of the domain `probe`, too. In the thread of a session's loop
    it names a phase of the session's telemetry.
    fast: for hot paths. A range costs less while a profiler records, and has no counterpart on the GPU's time line.
    """

    __slots__ = ("_domain", "_event", "_fast", "_noted", "_open", "name")

    def __init__(self, name: str, *, fast: bool = False) -> None:
        self.name = str(name)
        self._fast = fast
        self._open: list[tuple[Any, object]] = []  # ranges, each with the recording that it was begun in
        self._noted: list[tuple[OpenPhases, Mark | None]] = []  # phases of a session, each with what leaves it
        self._domain = nvtx_domain()
        self._event = None if self._domain is None else self._domain.get_event_attributes(message=self.name)

    def __enter__(self) -> annotate:
        if self._domain is not None:
            self._domain.push_range(self._event)
        self._open.append((_begin(self.name, fast=self._fast), recording_now()) if _records() else (None, None))
        phases = _phases  # another thread may end the session meanwhile
        if phases is not None:
            self._noted.append((phases, phases.enter(self.name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._noted:
            phases, phase = self._noted.pop()
            if phase is not None:
                phases.leave(phase)
        mark, begun_in = self._open.pop() if self._open else (None, None)
        if mark is not None:
            end_range(mark, begun_in, kind, error, traceback)
        if self._domain is not None:
            self._domain.pop_range()

    def __call__(self, function: _Function) -> _Function:
        """Decorate a function or a coroutine function."""
        name, fast = self.name, self._fast
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                with annotate(name, fast=fast):
                    return await function(*args, **kwargs)

            return cast(_Function, awaited)

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            with annotate(name, fast=fast):
                return function(*args, **kwargs)

        return cast(_Function, called)


def _torch_not_imported() -> bool:
    """Whether a torch profiler records; from the first time that torch is there, its own function stands here."""
    global _records
    autograd = sys.modules.get("torch.autograd")
    enabled = getattr(autograd, "_profiler_enabled", None)  # missing while torch is being imported
    if enabled is None:
        return False
    _records = enabled
    return bool(enabled())


_records: Callable[[], bool] = _torch_not_imported
_phases: OpenPhases | None = None  # of the session that samples, if there is one


def note_phases(phases: OpenPhases | None) -> None:
    """From now on annotated blocks are phases of a session's telemetry; None: of nobody's."""
    global _phases
    _phases = phases


def _begin(name: str, *, fast: bool) -> Any:
    """An open range; entered only where a profiler records, as torch's costs 11 µs even if none does."""
    make = range_maker() if fast else sys.modules["torch.autograd"].profiler.record_function
    mark = make(RANGE_PREFIX + name if fast else name)
    mark.__enter__()
    return mark


# Tools that listen to NVTX are loaded by it from here (NVIDIA Tools Extension, "Injection"); nsys and ncu set it.
INJECTION = ("NVTX_INJECTION64_PATH", "NVTX_INJECTION32_PATH")


@functools.cache
def nvtx_domain() -> Any:
    """NVTX's domain `probe` where a tool listens and the package nvtx can be imported; else None."""
    if not any(os.environ.get(name) for name in INJECTION):
        return None
    try:
        import nvtx
    except ImportError:
        return None
    domain = nvtx.get_domain("probe")
    return None if "Dummy" in type(domain).__name__ else domain


class _WhileRecorded:
    """A module's range that is there only while a profiler records, or a tool listens to NVTX."""

    __slots__ = ("_begun_in", "_mark", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._mark: Any = None
        self._begun_in: object = None

    def __enter__(self) -> _WhileRecorded:
        domain = nvtx_domain()
        if domain is not None:
            path = self._name.removeprefix(MODULE_PREFIX)
            domain.push_range(domain.get_event_attributes(message=path))
        if _records():
            self._mark = range_maker()(self._name)
            self._mark.__enter__()
            self._begun_in = recording_now()
        return self

    def __exit__(self, *error: object) -> None:
        if self._mark is not None:
            end_range(self._mark, self._begun_in)
        domain = nvtx_domain()
        if domain is not None:
            domain.pop_range()


def annotate_modules(model: object) -> Callable[[], None]:
    """Name every module of a model in traces, whoever records them; what is returned takes the names away again.

    Costs a few microseconds a module while nothing records. `probe.profile(model=)` does it for its own recordings.
    Compiled and scripted modules are left out.
    """
    ranges = ModuleRanges(model, lambda text: warnings.warn(text, stacklevel=3), make=_WhileRecorded)
    ranges.install()
    return ranges.remove
