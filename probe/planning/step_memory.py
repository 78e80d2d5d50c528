"""How much memory does one step of a program take? The step runs on tensors without data, and what lives is counted.

Nothing is computed and nothing of the size is allocated: a model that fits nowhere can be planned. Of what operators
take for themselves while they run, a CPU's convolutions are known; workspaces on a GPU are not seen.
"""

from __future__ import annotations

import importlib.util
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from probe.errors import InputError, UsageError
from probe.planning.convolution_memory import held_bytes
from probe.planning.result import Part, Plan

STEPS = 2  # optimizer states are there from the second on
HOW = "write FILE.py:FUNCTION, where FUNCTION() builds model and optimizer and returns a function that does a step"


def step_memory(place: str) -> Plan:
    """The plan of the step that FILE.py:FUNCTION returns."""
    build = _load(place)
    live = Live()
    with _without_data(), live.counting():
        try:
            step = build()
        except Exception as error:
            raise InputError(f"{place}: building failed without data: {type(error).__name__}: {error}") from None
        if not callable(step):
            raise UsageError(f"{place}: returned {type(step).__name__}, not a function that does a step; {HOW}")
        built = live.bytes
        for _ in range(STEPS):
            live.peak = live.bytes
            try:
                step()
            except Exception as error:
                raise InputError(
                    f"{place}: the step needs the values of tensors, or failed: {type(error).__name__}: {error}"
                ) from None
        after = live.bytes
    parts = (
        Part("built: parameters, buffers, inputs", float(built)),
        Part("kept between steps: optimizer states, gradients", float(max(after - built, 0))),
        Part("within the step: activations and temporaries", float(max(live.peak - max(after, built), 0))),
    )
    said = "fragmentation, the allocator's rounding, and workspaces but those of a CPU's convolutions are not counted"
    return Plan("memory", {"step": place}, {"peak_bytes": float(live.peak)}, parts, (said,))


class Live:
    """Bytes of the storages that are alive, and the most there were at once."""

    def __init__(self) -> None:
        from torch.utils.weak import WeakIdKeyDictionary

        self.bytes = 0
        self.peak = 0
        self._known: Any = WeakIdKeyDictionary()

    def add(self, tensor: Any) -> None:
        """Count a tensor's storage once, until nothing refers to it."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        size = storage.nbytes()
        self._known[storage] = size
        weakref.finalize(storage, self._freed, size)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)

    def _freed(self, size: int) -> None:
        self.bytes -= size

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what operators return in here."""
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves

        live = self

        class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not say
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                found = func(*args, **(kwargs or {}))
                for leaf in tree_leaves(found):
                    if isinstance(leaf, torch.Tensor):
                        live.add(leaf)
                live.peak = max(live.peak, live.bytes + held_bytes(func._schema.name, args, found))
                return found

        with _Counting():  # type: ignore[no-untyped-call]
            yield


@contextmanager
def _without_data() -> Iterator[None]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), _converting_modules():
        yield


@contextmanager
def _converting_modules() -> Iterator[None]:
    """`model.to(dtype)` without data, which torch (2.13) refuses: parameters are replaced, tied ones once."""
    import torch
    from torch.utils.weak import WeakIdKeyDictionary

    new: Any = WeakIdKeyDictionary()

    def convert(module: torch.nn.Module, fn: Callable[[Any], Any], recurse: bool = True) -> torch.nn.Module:
        for child in module.children() if recurse else ():
            child._apply(fn)  # type: ignore[no-untyped-call]  # torch does not say
        for key, parameter in module._parameters.items():
            if parameter is not None:
                if parameter not in new:
                    with torch.no_grad():
                        new[parameter] = torch.nn.Parameter(fn(parameter), parameter.requires_grad)
                module._parameters[key] = new[parameter]
        module._buffers.update({key: None if b is None else fn(b) for key, b in module._buffers.items()})
        return module

    before = torch.nn.Module._apply
    torch.nn.Module._apply = convert  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.nn.Module._apply = before  # type: ignore[method-assign]


def _load(place: str) -> Callable[[], Any]:
    file, _, name = place.rpartition(":")
    path = Path(file)
    if not file or not name:
        raise UsageError(f"--step {place}: {HOW}")
    if not path.is_file():
        raise UsageError(f"--step {place}: there is no file {file}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--step {place}: {file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{file}: cannot be imported: {type(error).__name__}: {error}") from None
    found = getattr(module, name, None)
    if not callable(found):
        raise UsageError(f"--step {place}: {file} has no function {name}")
    return found  # type: ignore[no-any-return]
