"""How does a user name a stretch of code in the trace?"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar, cast

_Function = TypeVar("_Function", bound=Callable[..., Any])


class annotate:  # noqa: N801 - used as a verb: `with annotate("loss"):`, `@annotate("loss")`
    """Name a block or a function in the trace: `with annotate("loss"):` or `@annotate("loss")`.

    Costs about a microsecond while nothing records, and needs no torch until something does. One instance may be
    entered again while it is open. Coroutines may be decorated; their range then includes the time they are suspended.
    """

    __slots__ = ("_open", "name")

    def __init__(self, name: str) -> None:
        self.name = str(name)
        self._open: list[Any] = []

    def __enter__(self) -> annotate:
        self._open.append(_begin(self.name) if _records() else None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        mark = self._open.pop() if self._open else None
        if mark is not None:
            mark.__exit__(kind, error, traceback)

    def __call__(self, function: _Function) -> _Function:
        """Decorate a function or a coroutine function."""
        name = self.name
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                with annotate(name):
                    return await function(*args, **kwargs)

            return cast(_Function, awaited)

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            with annotate(name):
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


def _begin(name: str) -> Any:
    """An open record_function; entered only where a profiler records, as it costs 11 µs even if none does."""
    mark = sys.modules["torch.autograd"].profiler.record_function(name)
    mark.__enter__()
    return mark
