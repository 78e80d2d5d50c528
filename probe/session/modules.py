"""Which module is each operator of a recording part of? Ranges named after modules, opened and closed by hooks.

The hooks are there only while a profiler of ours records. They look at nothing and return nothing, so results are
bit-identical, and inside of what torch.compile compiles they are nothing at all. torch's own record_function takes
20 µs a range while a profiler records, its quick form 4; that one is used where torch has it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from probe.collectors.torch_profiler import end_range, recording_now
from probe.trace import MODULE_PREFIX

MOST_MODULES = 5000  # with a hook before and after each; no model of which a path says more has as many


class Removable(Protocol):
    """What torch returns for a hook."""

    def remove(self) -> None:
        """Take the hook away."""


class ModuleRanges:
    """Hooks on the modules of a model: `install` while nothing runs, `remove` likewise. Both may be repeated."""

    def __init__(self, model: object, warn: Callable[[str], None], make: Callable[[str], Any] | None = None) -> None:
        """make: a range of a name, which knows when it may end; by default torch's quickest."""
        self._make = make
        self._end: Callable[[Any, object], None] = end_range if make is None else _leave
        self._model = model
        self._warn = warn
        self._hooks: list[Removable] = []
        self._open = threading.local()
        self._begin: Callable[[str], Any] | None = None

    def install(self) -> None:
        """Hook every module that is not compiled; nothing where the model is none of torch's."""
        if self._hooks:
            return
        import torch

        self._begin = self._make or range_maker()
        if not isinstance(self._model, torch.nn.Module):
            self._warn(f"model={type(self._model).__name__}: no torch.nn.Module; module paths are not recorded")
            return
        for count, (path, module) in enumerate(_modules(self._model)):
            if count >= MOST_MODULES:
                self._warn(f"the model has more than {MOST_MODULES} modules; of the others no paths are recorded")
                break
            name = MODULE_PREFIX + (path or type(module).__name__)
            self._hooks.append(module.register_forward_pre_hook(self._opener(name)))
            self._hooks.append(module.register_forward_hook(self._close, always_call=True))

    def remove(self) -> None:
        """Take all hooks away."""
        hooks, self._hooks = self._hooks, []
        for hook in hooks:
            hook.remove()

    def _opener(self, name: str) -> Callable[[Any, Any], None]:
        """What runs before a module's forward."""
        from torch.compiler import is_compiling

        def begin(module: Any, _: Any) -> None:
            if is_compiling() or self._begin is None:
                return
            mark = self._begin(name)
            mark.__enter__()
            self._stack().append((id(module), mark, recording_now()))

        return begin

    def _close(self, module: Any, _: Any, __: Any) -> None:
        """What runs after a module's forward, also where it raised. Ranges that were left open inside end with it."""
        from torch.compiler import is_compiling

        if is_compiling():
            return
        stack = self._stack()
        if not any(owner == id(module) for owner, _, _ in stack):
            return
        while stack:
            owner, mark, begun_in = stack.pop()
            self._end(mark, begun_in)
            if owner == id(module):
                return

    def _stack(self) -> list[tuple[int, Any, object]]:
        """The ranges that are open on this thread, each with its module and the recording that it was begun in."""
        stack: list[tuple[int, Any, object]] | None = getattr(self._open, "stack", None)
        if stack is None:
            stack = self._open.stack = []
        return stack


@functools.cache
def range_maker() -> Callable[[str], Any]:
    """What makes a range of a name, to be entered and left."""
    try:
        from torch._C._profiler import _RecordFunctionFast  # since torch 2.2
    except ImportError:
        from torch.autograd.profiler import record_function

        return record_function
    return _RecordFunctionFast


def _leave(mark: Any, _: object) -> None:
    """The end of a range that knows itself when it may end."""
    mark.__exit__(None, None, None)


def _modules(model: Any) -> Iterator[tuple[str, Any]]:
    """Paths and modules, without those that are compiled: their forward runs no hooks, and must not be changed."""
    import torch

    seen = {id(model)}
    waiting = [("", model)]
    while waiting:
        path, module = waiting.pop()
        if _is_compiled(module) or isinstance(module, torch.jit.ScriptModule):
            continue
        yield path, module
        for name, child in reversed(list(module.named_children())):
            if id(child) not in seen:
                seen.add(id(child))
                waiting.append((f"{path}.{name}" if path else name, child))


def _is_compiled(module: Any) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
