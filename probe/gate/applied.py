"""What does the user's own change do to a program? MODULE:FUNC called once before training, and what it changed.

In the worker's process, so that ending that is undoing it. A function that takes nothing is called before the program's
first line; one that takes an argument gets the model, when the first optimizer that trains it has been made.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from probe.program.imported import OnImport
from probe.program.model import model_of

PATCHABLE = ("torch", "torch.nn.functional", "torch.optim")
Seen = Mapping[str, Any]  # what stands behind each name


class Applied:
    """One function of the user's; `changed` says what it did, None before it was called."""

    def __init__(self, text: str, script: str, imports: OnImport) -> None:
        """Raises what the user's module raises, AttributeError where it has no such function."""
        self.changed: list[str] | None = None
        function = _loaded(text, script)
        if _takes_model(function):
            imports.do("torch.optim.optimizer", functools.partial(self._on_optimizer, function))
            return
        before = _classes_and_functions()
        said = function()
        self.changed = _told(said) or _differences(before, _classes_and_functions())

    def _on_optimizer(self, function: Callable[[Any], Any], module: ModuleType) -> None:
        """Call the function with the model that the first optimizer was made for."""
        made = module.Optimizer.__init__

        @functools.wraps(made)
        def init(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            made(optimizer, *args, **kwargs)
            model = model_of(optimizer) if self.changed is None else None
            if model is not None:
                before = _modules(model)
                said = function(model)
                self.changed = _told(said) or _differences(before, _modules(model))

        module.Optimizer.__init__ = init


def _loaded(text: str, script: str) -> Callable[..., Any]:
    """MODULE:FUNC or FILE.py:FUNC; the program's own folder is searched too, as when it imports."""
    name, _, function = text.rpartition(":")
    if name.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(name).stem, name)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        sys.path.insert(0, str(Path(name).resolve().parent))
        spec.loader.exec_module(module)
    else:
        sys.path.insert(0, str(Path(script).resolve().parent))
        module = importlib.import_module(name)
    found: Callable[..., Any] = getattr(module, function)
    return found


def _takes_model(function: Callable[..., Any]) -> bool:
    """Whether it has an argument that must be given."""
    found = inspect.signature(function).parameters.values()
    return any(
        one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) and one.default is one.empty for one in found
    )


def _told(said: Any) -> list[str]:
    """What the function itself says that it changed: a string, or several."""
    several = [said] if isinstance(said, str) else said if isinstance(said, (list, tuple)) else []
    return [one for one in several if isinstance(one, str)]


def _modules(model: Any) -> Seen:
    """Of each module its class, its forward and whether it is compiled."""
    return {path or "(model)": _identity(module) for path, module in model.named_modules()}


def _identity(module: Any) -> tuple[str, int, bool]:
    forward = vars(module).get("forward", type(module).forward)
    return type(module).__name__, id(forward), getattr(module, "_compiled_call_impl", None) is not None


def _classes_and_functions() -> Seen:
    """forward and __call__ of every class of modules that is there, and the functions of torch that programs call."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    kinds = [one for one in _subclasses(torch.nn.Module) if "forward" in vars(one)]
    found = {f"{one.__module__}.{one.__qualname__}.forward": id(vars(one)["forward"]) for one in kinds}
    for name in PATCHABLE:
        found |= {f"{name}.{key}": id(value) for key, value in vars(sys.modules[name]).items() if callable(value)}
    return found


def _subclasses(kind: Any) -> Iterator[Any]:
    one: Any
    for one in kind.__subclasses__():
        yield one
        yield from _subclasses(one)


def _differences(before: Seen, after: Seen) -> list[str]:
    """A line for each name behind which something else stands now."""
    changed = [name for name in before if name in after and before[name] != after[name]]
    return [_line(name, before[name], after[name]) for name in changed]


def _line(name: str, before: Any, after: Any) -> str:
    if not isinstance(before, tuple):
        return f"{name} replaced"
    if before[0] != after[0]:
        return f"{name}: {before[0]} → {after[0]}"
    return f"{name}: {'compiled' if before[2] != after[2] else 'forward replaced'}"
