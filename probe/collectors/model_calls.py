"""With what is a model called? Sizes, types and settings of its calls in a warm-up step, from a hook that goes again.

The hook looks, keeps no tensor, and returns nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MOST_CALLS = 4  # of different sizes or settings that are kept
_PLAIN = (int, float, complex, bool, str, bytes, type(None))


class NotCapturedError(Exception):
    """Why there is no graph, in words for the user."""


@dataclass(frozen=True)
class TensorLike:
    """What is kept of a tensor."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: Any
    device: Any
    requires_grad: bool

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}{list(self.size)}"


@dataclass(frozen=True)
class Call:
    """One call: its arguments with each tensor described, and the settings under which it ran."""

    leaves: tuple[Any, ...]
    structure: Any  # torch's pytree of (args, kwargs)
    training: tuple[bool, ...]  # of each module, in the order of model.modules()
    gradients: bool
    autocast: bool

    @property
    def key(self) -> object:
        """What tells calls apart."""
        return repr((self.leaves, self.structure)), self.training, self.gradients, self.autocast

    @property
    def inputs(self) -> Iterator[TensorLike]:
        """The tensors among the arguments."""
        return (leaf for leaf in self.leaves if isinstance(leaf, TensorLike))


class ModelCalls:
    """The different calls of a model while it is watched. `problem` says why a call could not be described."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._calls: dict[object, Call] = {}
        self._handle: Any = None
        self.problem: str | None = None

    def watch(self) -> None:
        """Begin; nothing where it has begun."""
        if self._handle is None:
            self._handle = self._model.register_forward_pre_hook(self._see, with_kwargs=True)

    def leave(self) -> None:
        """End."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.remove()

    @property
    def found(self) -> tuple[Call, ...]:
        """The calls that were seen, each kind once."""
        return tuple(self._calls.values())

    def _see(self, module: Any, args: Any, kwargs: Any) -> None:
        if len(self._calls) >= MOST_CALLS:
            return
        try:
            call = _described(module, args, kwargs)
        except NotCapturedError as reason:
            self.problem = str(reason)
        except Exception as error:  # the call is the user's: whatever is odd about it must not end it
            self.problem = f"its arguments could not be described: {type(error).__name__}: {error}"
        else:
            self._calls.setdefault(call.key, call)


def _described(module: Any, args: Any, kwargs: Any) -> Call:
    import torch
    from torch.utils import _pytree

    leaves, structure = _pytree.tree_flatten((args, kwargs))
    return Call(
        leaves=tuple(_leaf(leaf) for leaf in leaves),
        structure=structure,
        training=tuple(one.training for one in module.modules()),
        gradients=torch.is_grad_enabled(),
        autocast=any(_casts(leaf) for leaf in (*leaves, *module.parameters())),
    )


def _casts(value: Any) -> bool:
    """Whether autocast is on for the device of a tensor."""
    import torch

    return isinstance(value, torch.Tensor) and torch.is_autocast_enabled(value.device.type)


def _leaf(leaf: Any) -> Any:
    """A tensor described, a plain value as it is."""
    import torch

    if type(leaf) in (torch.Tensor, torch.nn.Parameter):
        if leaf.layout != torch.strided or leaf.is_quantized:
            raise NotCapturedError(f"it is called with a tensor of layout {leaf.layout}")
        return TensorLike(tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad)
    if isinstance(leaf, (*_PLAIN, torch.dtype, torch.device, torch.memory_format)):
        return leaf
    raise NotCapturedError(f"it is called with a {type(leaf).__name__}; only tensors and plain values are understood")
