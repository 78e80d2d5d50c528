"""How does probe learn of a program's optimizers, batches and named functions? By torch's own hooks and a few wraps."""

from __future__ import annotations

import functools
import inspect
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


Undo = list[Callable[[], None]]


def listen(listener: Listener, imports: OnImport) -> Undo:
    """Tell `listener` of optimizers and loaders as soon as torch is imported; what to call to hear no more."""
    undo: Undo = []
    imports.do("torch.optim.optimizer", functools.partial(_hook_optimizers, listener, undo))
    imports.do("torch.utils.data.dataloader", functools.partial(_hook_loaders, listener, undo))
    return undo


def _hook_optimizers(listener: Listener, undo: Undo, module: ModuleType) -> None:
    hook = getattr(module, "register_optimizer_step_post_hook", None)
    if hook is None:  # torch < 2.1
        return
    undo.append(hook(lambda optimizer, args, kwargs: listener.optimizer_stepped(optimizer)).remove)
    made = module.Optimizer.__init__
    undo.append(lambda: setattr(module.Optimizer, "__init__", made))

    @functools.wraps(made)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        listener.optimizer_made()

    module.Optimizer.__init__ = init


def _hook_loaders(listener: Listener, undo: Undo, module: ModuleType) -> None:
    iterate = module.DataLoader.__iter__
    undo.append(lambda: setattr(module.DataLoader, "__iter__", iterate))

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


class Named:
    """The function whose call is a step, in its module or in the script itself: `found` once it is, `calls` of it."""

    def __init__(self, text: str, called: Callable[[], None]) -> None:
        self.text = text
        self.found = False
        self.calls = 0
        self._called = called
        self._module, self._name, self._method = named(text)

    def watch(self, imports: OnImport, target: str, *, module: bool) -> dict[str, Callable[[Any], Any]]:
        """Wrap it when it comes; what the script itself must replace, by name. Raises UsageError for what cannot be."""
        if self._module is None or self._module == "__main__":
            if module:
                raise UsageError(f"--step-on {self.text}: of a program run by -m name the module: MODULE:{self.text}")
            return {self._name: self._replaced}
        if module and self._module in (target, f"{target}.__main__"):
            raise UsageError(f"--step-on {self.text}: {target} itself is run; name a function of a module it imports")
        imports.do(self._module, self._act)
        return {}

    def trouble(self) -> str | None:
        """Why no step was seen, if none was."""
        if self.calls:
            return None
        return f"--step-on {self.text}: " + ("it was never called" if self.found else "there is no such function")

    def _act(self, loaded: ModuleType) -> None:
        if hasattr(loaded, self._name):
            setattr(loaded, self._name, self._replaced(getattr(loaded, self._name)))

    def _replaced(self, found: Any) -> Any:
        """`found`, or the class with its method, so that each return is told."""
        if self._method is None:
            return self._told(found) if callable(found) else found
        plain = inspect.getattr_static(found, self._method, None)
        kind = type(plain) if isinstance(plain, (staticmethod, classmethod)) else None
        function = plain.__func__ if kind is not None else plain
        if callable(function):
            told = self._told(function)
            setattr(found, self._method, kind(told) if kind is not None else told)
        return found

    def _told(self, function: Any) -> Any:
        self.found = True

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            self.calls += 1
            self._called()
            return result

        return wrapped
