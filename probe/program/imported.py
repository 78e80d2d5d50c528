"""How is something done to a module as soon as the program imports it, and not before?

Importing torch first would fix what the program sets for it: OMP_NUM_THREADS, PYTORCH_CUDA_ALLOC_CONF, TORCH_LOGS.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Action = Callable[[ModuleType], None]


class OnImport(MetaPathFinder):
    """Calls each module's action once, after the module was imported; at once where it has been."""

    def __init__(self) -> None:
        self._actions: dict[str, list[Action]] = {}

    def do(self, name: str, action: Action) -> None:
        """`action(module)` once module `name` is there."""
        if name in sys.modules:
            action(sys.modules[name])
            return
        self._actions.setdefault(name, []).append(action)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def forget(self) -> None:
        """Do nothing more."""
        self._actions.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module as Python finds it, with the actions behind its loader."""
        if name not in self._actions:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others if hasattr(finder, "find_spec"))
        spec = next((found for found in specs if found is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Acting(spec.loader, self._actions.pop(name))
        return spec


class _Acting(Loader):
    """Another loader, and what is to be done when it is done."""

    def __init__(self, loader: Any, actions: list[Action]) -> None:
        self._loader = loader
        self._actions = actions

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """The other's."""
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The other's; then the actions, with the module as it would be without us."""
        spec = module.__spec__
        if spec is not None:
            spec.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        for action in self._actions:
            action(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
