"""Does a module with another forward compute the same? On inputs that reach it in the live model, by verify's rule."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probe.verify.numeric import compare

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Given:
    """What a module was called with."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def caught(model: Any, modules: Sequence[Any], inputs: Sequence[Any]) -> dict[int, Given]:
    """What each module is given when the model runs on `inputs`, by the module's id; those that it does not call, not.

    The model's buffers and the random numbers are afterwards as they were. Raises what the model raises.
    """
    import torch

    found: dict[int, Given] = {}

    def catch(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        found.setdefault(id(module), Given(_detached(args), {key: _detached((v,))[0] for key, v in kwargs.items()}))

    hooks = [module.register_forward_pre_hook(catch, with_kwargs=True) for module in modules]
    try:
        with torch.no_grad(), _unchanged(model):
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _detached(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(v.detach().clone() if hasattr(v, "detach") else v for v in values)


@contextmanager
def _unchanged(module: Any) -> Iterator[None]:
    """Buffers, gradients and random numbers as they were."""
    import torch

    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    devices = {p.device.index or 0 for p in module.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(sorted(devices)):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)


def wrong(module: Any, apply: Callable[[], None], undo: Callable[[], None], given: Given) -> str | None:
    """Why the changed module is not the module: its outputs or gradients; None where it is. It is left undone."""
    exact = copy.deepcopy(module).double()
    named = dict(zip(given.kwargs, _doubled(tuple(given.kwargs.values())), strict=True))
    reference = _values(exact, Given(_doubled(given.args), named))
    old = _values(module, given)
    apply()
    try:
        new = _values(module, given)
    except Exception as error:  # the replacement's: it may be any code
        return f"fails: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    finally:
        undo()
    if [(t.shape, t.dtype) for t in old] != [(t.shape, t.dtype) for t in new]:
        return "returns other sizes or types"
    checks = (compare(f"value {i}", *three) for i, three in enumerate(zip(old, new, reference, strict=True)))
    return next((f"{check.where}: {check.failure}" for check in checks if check.failure), None)


def _doubled(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(v.double() if hasattr(v, "double") and v.is_floating_point() else v for v in values)


def _values(module: Any, given: Given) -> list[torch.Tensor]:
    """Outputs, and the gradients of the inputs and the parameters; `grad` is not touched."""
    import torch

    leaves = tuple(_leaf(v) for v in given.args)
    with torch.enable_grad(), _unchanged(module):
        torch.manual_seed(0)  # within fork_rng: dropout draws the same on both sides
        outputs = [t for t in _flat(module(*leaves, **given.kwargs)) if t.is_floating_point()]
        learning = [t for t in (*_flat(leaves), *module.parameters()) if t.requires_grad]
        ends = [t for t in outputs if t.requires_grad]
        given_back = [_cotangent(t) for t in ends]
        found = torch.autograd.grad(ends, learning, given_back, allow_unused=True) if ends and learning else ()
    return [*(t.detach() for t in outputs), *(g for g in found if g is not None)]


def _cotangent(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers for every side."""
    import torch

    drawn = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
    return drawn.to(tensor.device, tensor.dtype)


def _leaf(value: Any) -> Any:
    tensor = hasattr(value, "requires_grad_") and value.is_floating_point()
    return value.detach().clone().requires_grad_() if tensor else value


def _flat(value: Any) -> list[Any]:
    """The tensors of an output, in order."""
    if hasattr(value, "is_floating_point"):
        return [value]
    if isinstance(value, Mapping):
        return [t for one in value.values() for t in _flat(one)]
    return [t for one in value for t in _flat(one)] if isinstance(value, (tuple, list)) else []
