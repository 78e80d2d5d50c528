"""What does a model's forward pass compute? Captured once through FX, on a copy whose tensors hold nothing.

The copy's parameters and the inputs are fake tensors: sizes and types without memory, so that no arithmetic runs and
the model, its buffers and the random numbers stay as they are. Hooks of the program are not run. Composite operators
are taken apart exactly as far as the analysis does it with those of a trace. What FX cannot follow (control flow that
depends on data, operators without a shape rule, autocast, which works below where this looks) is told, once.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import os
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from probe.collectors.model_calls import Call, NotCapturedError, TensorLike
from probe.readers.module_graph import GraphArgument, GraphCall, GraphUnit, ModuleCall, ModuleGraph, Origin

MOST_S = 15.0  # of processor time for all calls together, without importing FX: about 2500 units
NormalisedName = Callable[[str], str | None]  # of a unit for an operator's name, None for what is no unit

COMPILED = "it is compiled, and what runs is not what its code says; profile it without compile"
_WRAPPERS = ("DistributedDataParallel", "DataParallel")
_SHARDED = ("FullyShardedDataParallel", "FSDPModule")


def unwrapped(model: Any) -> Any:
    """The module whose forward pass is the program's. Raises NotCapturedError where there is none to look at."""
    import torch

    if not isinstance(model, torch.nn.Module):
        raise NotCapturedError(f"model={type(model).__name__} is no torch.nn.Module")
    while type(model).__name__ in _WRAPPERS and isinstance(getattr(model, "module", None), torch.nn.Module):
        model = model.module
    if getattr(model, "_compiled_call_impl", None) is not None:
        raise NotCapturedError(COMPILED)
    for module in model.modules():
        _refuse(module)
    return model


def _refuse(module: Any) -> None:
    """NotCapturedError for modules whose operators are not those of their forward code."""
    import torch

    if hasattr(module, "_orig_mod"):  # what module.compile() compiled inside of a model is followed as it was before
        raise NotCapturedError(COMPILED)
    if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        raise NotCapturedError("it is a TorchScript module")
    if any(base.__name__ in _SHARDED for base in type(module).__mro__):
        raise NotCapturedError("its parameters are sharded (FSDP)")


def capture(model: Any, calls: Iterable[Call], normalised: NormalisedName, most_s: float | None = None) -> ModuleGraph:
    """The graphs of the given calls of an unwrapped model. Raises NotCapturedError; leaves everything as it was.

    most_s: of processor time, MOST_S by default.
    """
    import torch

    lines: dict[str, int] = {}
    with _undisturbed():
        taken_apart = _composites(normalised)
        _import_fx()
        most_s = MOST_S if most_s is None else most_s
        deadline = time.thread_time() + most_s
        found = [_Capture(model, call, normalised, deadline, most_s, lines).run(taken_apart) for call in calls]
    return ModuleGraph(model=type(model).__name__, torch=str(torch.__version__), lines=tuple(lines), calls=tuple(found))


def _import_fx() -> None:
    """Import what following takes, which can take longer than to follow."""
    importlib.import_module("torch.fx.experimental.proxy_tensor")
    importlib.import_module("torch._dynamo")


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep random numbers and warnings of the program as they are: a forward pass may draw from any generator."""
    import torch

    numpy = sys.modules.get("numpy")
    python, array = random.getstate(), numpy.random.get_state() if numpy else None
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with warnings.catch_warnings(), torch.random.fork_rng(devices=devices):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            random.setstate(python)
            if numpy:
                numpy.random.set_state(array)


def _composites(normalised: NormalisedName) -> dict[Any, Callable[..., Any]]:
    """What to do with torch's composite operators that are no units: take them apart, as running them does."""
    import torch

    found = {}
    for name in torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd"):
        namespace, _, rest = name.partition("::")
        packet, _, overload = rest.partition(".")
        if namespace == "aten" and normalised(f"aten::{packet}") is None:
            with contextlib.suppress(AttributeError):  # operators that only the interpreter has
                operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
                found[operator] = operator.decompose
    return found


@dataclass(eq=False)
class _Capture:
    """The capture of one call."""

    model: Any
    call: Call
    normalised: NormalisedName
    deadline: float
    most_s: float
    lines: dict[str, int]  # of all calls, in order
    nodes: Any = ()  # of the graph while it grows
    modules: list[list[Any]] = field(default_factory=list)  # [path, class, first node, end]
    open: list[int] = field(default_factory=list)  # module calls that have not returned
    line_of: dict[Any, int] = field(default_factory=dict)

    def run(self, taken_apart: Mapping[Any, Callable[..., Any]]) -> GraphCall:
        """The call's graph."""
        if self.call.autocast:
            raise NotCapturedError("its forward pass runs under autocast, whose casts the graph does not show")
        try:
            return self._traced(taken_apart)
        except NotCapturedError:
            raise
        except Exception as error:
            raise NotCapturedError(_reason(error)) from error

    def _traced(self, taken_apart: Mapping[Any, Callable[..., Any]]) -> GraphCall:
        import torch
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.proxy_tensor import make_fx

        fake = FakeTensorMode()
        twin = _twin(self.model, fake, self.call)
        state = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
        names, parameters = list(state), {name for name, _ in twin.named_parameters()}
        inputs = [_fake(leaf, fake) for leaf in self.call.inputs]
        self._follow(twin)
        found: list[GraphCall] = []

        def forward(values: list[Any], tensors: list[Any]) -> None:
            """Run the twin on traced values, and read the graph before FX drops what nobody uses."""
            args, kwargs = self._arguments(tensors)
            self.nodes = _growing_graph().nodes
            with _line_mode(self):
                torch.func.functional_call(twin, dict(zip(names, values, strict=True)), args, kwargs)
            kinds: list[tuple[Origin, str]] = [("parameter" if n in parameters else "buffer", n) for n in names]
            kinds += [("input", "")] * len(tensors)
            found.append(self._read(kinds))

        with fake, torch.set_grad_enabled(self.call.gradients):
            make_fx(forward, decomposition_table=taken_apart, pre_dispatch=True)([*state.values()], inputs)
        return found[0]

    def _arguments(self, tensors: Iterable[Any]) -> Any:
        """The arguments of the call, with these tensors in their places."""
        from torch.utils import _pytree

        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, TensorLike) else leaf for leaf in self.call.leaves]
        return _pytree.tree_unflatten(leaves, self.call.structure)

    def _follow(self, twin: Any) -> None:
        """Note which nodes each module's call makes."""
        for path, module in twin.named_modules():
            module.register_forward_pre_hook(self._enter(path, type(module).__name__))
            module.register_forward_hook(self._leave)

    def _enter(self, path: str, kind: str) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            self.open.append(len(self.modules))
            self.modules.append([path, kind, len(self.nodes), 0])

        return enter

    def _leave(self, *_: Any) -> None:
        self.modules[self.open.pop()][3] = len(self.nodes)

    def check_time(self) -> None:
        """NotCapturedError when it takes too long."""
        if time.thread_time() > self.deadline:
            raise NotCapturedError(f"following its forward pass took more than {self.most_s:g} s of processor time")

    def mark_line(self, first: int, line: str) -> None:
        """The nodes from number `first` on were made by this line, but for those whose line is known."""
        number = self.lines.setdefault(line, len(self.lines))
        for node in islice(reversed(self.nodes), len(self.nodes) - first):
            self.line_of.setdefault(node, number)

    def _read(self, kinds: list[tuple[Origin, str]]) -> GraphCall:
        """The nodes that are units, with who made what they read."""
        reading = _Reading(self.normalised, kinds)
        before: list[int] = []  # units before each node
        for node in self.nodes:
            before.append(len(reading.units))
            reading.add(node, self.line_of.get(node, -1), self._innermost(len(before) - 1))
        before.append(len(reading.units))
        modules = tuple(ModuleCall(path, kind, before[a], before[b]) for path, kind, a, b in self.modules)
        inputs = tuple(str(leaf) for leaf in self.call.inputs)
        return GraphCall(any(self.call.training), inputs, modules, tuple(reading.units), tuple(sorted(reading.opaque)))

    def _innermost(self, node: int) -> int:
        """The last module call to begin among those that hold the node."""
        holding = (i for i in range(len(self.modules) - 1, -1, -1) if self.modules[i][2] <= node < self.modules[i][3])
        return next(holding, -1)


class _Reading:
    """Nodes in order, read into units."""

    def __init__(self, normalised: NormalisedName, kinds: list[tuple[Origin, str]]) -> None:
        self.units: list[GraphUnit] = []
        self.opaque: set[str] = set()
        self._normalised = normalised
        self._kinds = iter(kinds)
        self._origin: dict[int, tuple[Origin, str]] = {}
        self._written: dict[int, int] = {}
        self._numbers: dict[int, int] = {}  # of storages, in order

    def add(self, node: Any, line: int, module: int) -> None:
        """The next node."""
        if node.op == "placeholder":
            tensor = _tensor(node)
            if tensor is not None:
                self._origin.setdefault(self._storage(tensor), next(self._kinds))
            return
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None:
            if getattr(node.target, "__name__", "") == "_enter_autocast":
                raise NotCapturedError("its forward pass uses autocast, whose casts the graph does not show")
            return
        name = self._normalised(schema.name)
        if name is not None:
            arguments = tuple(self._argument(value) for value in _tensor_arguments(node, schema))
            self.units.append(GraphUnit(name, str(node.target), arguments, module, line))
        else:
            self.opaque.add(schema.name)
        for tensor in _changed(node, schema, named=name is not None):
            self._made(self._storage(tensor), len(self.units) - 1 if name is not None else None)

    def _made(self, storage: int, unit: int | None) -> None:
        if unit is None:
            self._written.pop(storage, None)
        else:
            self._written[storage] = unit

    def _storage(self, tensor: Any) -> int:
        return self._numbers.setdefault(tensor.untyped_storage()._cdata, len(self._numbers))

    def _argument(self, value: Any) -> GraphArgument:
        tensor = _tensor(value)
        if tensor is None:
            return GraphArgument()
        storage = self._storage(tensor)
        origin, name = self._origin.get(storage, ("", ""))
        size, dtype = tuple(int(n) for n in tensor.shape), str(tensor.dtype).removeprefix("torch.")
        maker = self._written.get(storage)
        return GraphArgument(size, dtype, maker, origin, name, storage, int(tensor.storage_offset()))


def _tensor(node: Any) -> Any:
    """The fake tensor that a node stands for; None where it stands for none."""
    import torch

    value = getattr(node, "meta", {}).get("val")
    return value if isinstance(value, torch.Tensor) else None


def _tensor_arguments(node: Any, schema: Any) -> Iterator[Any]:
    """What stands where the operator takes tensors, lists one by one; a number there is a tensor of one element."""
    for index, argument in enumerate(schema.arguments):
        value = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
        if "Tensor" not in str(argument.type) or value is None:
            continue
        yield from (item for item in (value if isinstance(value, (list, tuple)) else [value]) if item is not None)


def _changed(node: Any, schema: Any, *, named: bool) -> Iterator[Any]:
    """The tensors that an operator wrote: its results and what it changed in place. A view that is no unit wrote none.

    A unit's results count even where they are views: an execution trace cannot tell either.
    """
    import torch

    mutable = schema.is_mutable
    if named or mutable:
        value = node.meta.get("val")
        given = value if isinstance(value, (list, tuple)) else [value]
        yield from (one for one in given if isinstance(one, torch.Tensor))
    for index, argument in enumerate(schema.arguments) if mutable else ():
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
            for item in value if isinstance(value, (list, tuple)) else [value]:
                if (tensor := _tensor(item)) is not None:
                    yield tensor


def _growing_graph() -> Any:
    """The graph that FX is writing."""
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    mode = get_proxy_mode()
    if mode is None:
        raise NotCapturedError("this version of torch does not show the graph while it grows")
    return mode.tracer.graph


def _twin(model: Any, fake: Any, call: Call) -> Any:
    """A copy of the model with fake tensors, in the mode it was called in, without hooks."""
    from torch._subclasses.fake_tensor import FakeCopyMode

    with FakeCopyMode(fake):
        twin = copy.deepcopy(model)
    if len(list(twin.modules())) != len(call.training):
        raise NotCapturedError("its modules changed after it was called")
    for module, training in zip(twin.modules(), call.training, strict=True):
        object.__setattr__(module, "training", training)
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs",
                      "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called", "_backward_hooks",
                      "_backward_pre_hooks"):  # fmt: skip
            getattr(module, hooks, {}).clear()
    return twin


def _fake(like: TensorLike, fake: Any) -> Any:
    """A fake tensor of that description; one that needs a gradient is no leaf, so that it may be changed in place."""
    import torch

    with fake, torch.set_grad_enabled(True):
        tensor = torch.empty_strided(like.size, like.stride, dtype=like.dtype, device=like.device)
        return tensor.requires_grad_().clone() if like.requires_grad else tensor


def _reason(error: Exception) -> str:
    """An error of FX in words for the user."""
    name, text = type(error).__name__, str(error).strip().splitlines()
    if any(word in name for word in ("DataDependent", "GuardOnData", "DynamicOutputShape")):
        return "its control flow, or a size, depends on the values of a tensor"
    return f"FX could not follow its forward pass: {name}: {text[0][:200] if text else ''}"


def _line_mode(capture: _Capture) -> Any:
    """A torch function mode that notes the line of the program from which each operator is called."""
    from torch.overrides import TorchFunctionMode

    class LineMode(TorchFunctionMode):
        """Around the forward pass."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            capture.check_time()
            first = len(capture.nodes)
            result = func(*args, **(kwargs or {}))
            if len(capture.nodes) > first:
                capture.mark_line(first, _line(sys._getframe(1)))
            return result

    return LineMode()


def _line(frame: Any) -> str:
    """The nearest line of the program: outside torch."""
    import torch

    torchs = str(Path(torch.__file__).parent) + os.sep
    while frame is not None:
        path = frame.f_code.co_filename
        if not path.startswith(torchs):
            short = "/".join(path.replace("\\", "/").split("/")[-3:])
            return f"{short}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return ""
