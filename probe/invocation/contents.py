"""What must be in a tensor for the operator to run: indices in range, positive variances, values that are not 0."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from probe.invocation.schema import Argument, Invocation, ListArgument, TensorArgument, TextArgument

POSITIVE = (
    "var",
    "running_var",
    "save_var",
    "rstd",
    "save_invstd",
    "total_weight",
    "std",
    "exp_avg_sqs",
    "state_steps",
)
# Argument that holds indices -> how many there are to choose from: (argument whose size counts, dimension; None: "dim")
_OF_SIZE: dict[str, dict[str, tuple[str, int | None]]] = {
    "embedding": {"indices": ("weight", 0)},
    "embedding_bag": {"indices": ("weight", 0)},
    "_embedding_bag": {"indices": ("weight", 0)},
    "_embedding_bag_forward_only": {"indices": ("weight", 0)},
    "index_select": {"index": ("self", None)},
    "index_add": {"index": ("self", None)},
    "index_copy": {"index": ("self", None)},
    "index_fill": {"index": ("self", None)},
    "gather": {"index": ("self", None)},
    "scatter": {"index": ("self", None)},
    "scatter_add": {"index": ("self", None)},
    "scatter_reduce": {"index": ("self", None)},
    "gather_backward": {"index": ("self", None)},
    "nll_loss": {"target": ("self", 1)},
    "nll_loss_nd": {"target": ("self", 1)},
    "nll_loss_forward": {"target": ("self", 1)},
    "nll_loss_backward": {"target": ("self", 1)},
    "nll_loss2d_forward": {"target": ("self", 1)},
    "nll_loss2d_backward": {"target": ("self", 1)},
    "cross_entropy_loss": {"target": ("self", 1)},
}
_OF_VALUE = {"embedding_dense_backward": ("indices", "num_weights"), "one_hot": ("self", "num_classes")}
_SPATIAL = {"max_pool2d_with_indices_backward": "self", "max_pool3d_with_indices_backward": "self"}


@dataclass(frozen=True)
class Content:
    """How a tensor is filled: normally distributed, uniform from `low` to `high`, or one value."""

    fill: str  # "normal", "positive", "integers"
    high: int = 2


def content(call: Invocation, argument: Argument, tensor: TensorArgument, place: int = 0) -> Content:
    """What goes into one tensor of an argument; place: which of a list."""
    if tensor.dtype == "bool":
        return Content("integers", 2)
    if "int" in tensor.dtype:
        return Content("integers", max(_choices(call, argument, place), 1))
    return Content("positive" if argument.name in POSITIVE else "normal")


def _choices(call: Invocation, argument: Argument, place: int) -> int:
    """How many values an integer may take from 0 on."""
    name = call.target.rpartition(".")[2].rstrip("_")
    sized = _OF_SIZE.get(name, {}).get(argument.name)
    if sized is not None:
        return _size(call, *sized)
    if name in _OF_VALUE and argument.name == _OF_VALUE[name][0]:
        return _number(call, _OF_VALUE[name][1], 2)
    if name in _SPATIAL and argument.name == "indices":
        return prod(_dims(call, _SPATIAL[name])[2:])
    if isinstance(argument.value, ListArgument):  # of aten::index and its kin: one tensor a dimension
        dims = _dims(call, "self")
        return dims[place] if place < len(dims) else 1
    if argument.name == "offsets":
        return 1  # offsets of bags rise from 0
    return prod(_dims(call, "self")) if name in ("take", "put") and argument.name == "index" else 2


def _size(call: Invocation, name: str, dimension: int | None) -> int:
    """Extent of an argument's dimension; of the one that the call names where `dimension` is None."""
    dims = _dims(call, name)
    at = _number(call, "dim", 0) if dimension is None else dimension
    if not dims:
        return 1
    return dims[at] if -len(dims) <= at < len(dims) else dims[0]  # losses of one sample have no batch dimension


def _dims(call: Invocation, name: str) -> tuple[int, ...]:
    found = (a.value for a in call.arguments if a.name == name)
    return next((value.dims for value in found if isinstance(value, TensorArgument)), ())


def _number(call: Invocation, name: str, default: int) -> int:
    texts = (a.value.text for a in call.arguments if a.name == name and isinstance(a.value, TextArgument))
    text = next(texts, "")
    return int(text) if text.lstrip("-").isdecimal() else default
