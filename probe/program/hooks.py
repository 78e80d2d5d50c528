"""How does probe learn of a program's optimizers, batches and named functions? By torch's own hooks and a few wraps."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Protocol

from probe.errors import UsageError
from probe.program.imported import OnImport


class Listener(Protocol):
    """Who is told. Nothing of it may raise."""

    def optimizer_made(self) -> None:
        """An optimizer was constructed."""

    def optimizer_stepped(self, optimizer: Any) -> None:
        """`optimizer.step()` has returned."""

    def asks_for_batch(self) -> None:
        """The program is about to ask a DataLoader for a batch."""

    def got_batch(self, batch: object, waited_ns: int) -> None:
        """It has come, after so many nanoseconds."""

    def called(self) -> None:
        """The function that ends a step has returned."""


def listen(listener: Listener, imports: OnImport) -> None:
    """Tell `listener` of optimizers and loaders as soon as torch is imported."""
    imports.do("torch.optim.optimizer", functools.partial(_hook_optimizers, listener))
    imports.do("torch.utils.data.dataloader", functools.partial(_hook_loaders, listener))


def _hook_optimizers(listener: Listener, module: ModuleType) -> None:
    hook = getattr(module, "register_optimizer_step_post_hook", None)
    if hook is None:  # torch < 2.1
        return
    hook(lambda optimizer, args, kwargs: listener.optimizer_stepped(optimizer))
    made = module.Optimizer.__init__

    @functools.wraps(made)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        listener.optimizer_made()

    module.Optimizer.__init__ = init


def _hook_loaders(listener: Listener, module: ModuleType) -> None:
    iterate = module.DataLoader.__iter__

    @functools.wraps(iterate)
    def observed(self: Any) -> Any:
        return _Fetches(iterate(self), listener)

    module.DataLoader.__iter__ = observed


class _Fetches:
    """A loader's iterator that tells of each batch; all else is the loader's own."""

    def __init__(self, iterator: Any, listener: Listener) -> None:
        self._iterator = iterator
        self._listener = listener

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._listener.asks_for_batch()
        begin = time.perf_counter_ns()
        batch = next(self._iterator)
        self._listener.got_batch(batch, time.perf_counter_ns() - begin)
        return batch

    def __len__(self) -> int:
        return len(self._iterator)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)


def named(text: str) -> tuple[str | None, str, str | None]:
    """MODULE:FUNCTION, MODULE:CLASS.METHOD, or, of the script itself, without the module: module, name, method."""
    module, colon, path = text.rpartition(":")
    name, dot, method = path.partition(".")
    if not all(
        part.isidentifier() for part in (name, *([method] if dot else []), *(module.split(".") if colon else []))
    ):
        raise UsageError(f"--step-on {text}: write MODULE:FUNCTION or MODULE:CLASS.METHOD, or a function of the script")
    return (module if colon else None), name, (method if dot else None)


def on_call(called: Callable[[], None], imports: OnImport, text: str) -> dict[str, Callable[[Any], Any]]:
    """Call `called` after each return of the named function; what the script itself must replace, by name."""
    module, name, method = named(text)
    replaced = functools.partial(_told, called, method)
    if module is None:
        return {name: replaced}

    def act(loaded: ModuleType) -> None:
        if hasattr(loaded, name):
            setattr(loaded, name, replaced(getattr(loaded, name)))

    imports.do(module, act)
    return {}


def _told(called: Callable[[], None], method: str | None, found: Any) -> Any:
    """`found`, or the class with its method, so that each return is told."""
    if method is not None:
        if hasattr(found, method):
            setattr(found, method, _told(called, None, getattr(found, method)))
        return found
    if not callable(found):
        return found

    @functools.wraps(found)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = found(*args, **kwargs)
        called()
        return result

    return wrapped
