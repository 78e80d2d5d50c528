"""What does one operator call cost, by its name and recorded arguments?"""

from __future__ import annotations

import math
import re

from probe.analyzers.cost_models import (
    attention,
    collectives,
    convolution,
    copies,
    fbgemm,
    indexing,
    losses,
    matmul,
    normalisation,
    optimizers,
    pointwise,
    pooling,
    reduction,
    triton,
)
from probe.analyzers.cost_models.call import NO_HINTS, Call, Hints
from probe.analyzers.cost_models.dtypes import ELEMENT_TYPES
from probe.analyzers.cost_models.registry import Model, Quantity, Registered, registered
from probe.analyzers.cost_models.structure import structural
from probe.analyzers.cost_models.tensors import UndeterminedError
from probe.analyzers.cost_models.terms import Cost, Kind, nothing, unknown
from probe.trace import Signature

_FAMILIES: tuple[tuple[Kind, dict[str, Model]], ...] = (
    ("pointwise", pointwise.MODELS),
    ("reduction", reduction.MODELS),
    ("indexing", indexing.MODELS),
    ("reduction", losses.MODELS),
    ("reduction", pooling.MODELS),
    ("copy", copies.MODELS),
    ("normalisation", normalisation.MODELS),
    ("optimizer", optimizers.MODELS),
    ("attention", attention.MODELS),
    ("convolution", convolution.MODELS),
    ("matmul", matmul.MODELS),
)
MODELS: dict[str, tuple[Kind, Model]] = {
    name: (kind, model) for kind, models in _FAMILIES for name, model in models.items()
}

_OVERLOAD = re.compile(r"(\w+::\w+)\.\w+")  # "aten::add.Tensor", as compiled graphs spell it
_NO_SHAPES = "no shapes recorded"


def cost(name: str, signature: Signature | None, hints: Hints = NO_HINTS) -> Cost:
    """The work of one call of operator `name`; what the arguments do not determine is None, with a reason.

    Never raises, and never gives a negative or infinite number, whatever was recorded.
    """
    told = registered(name)
    if told is not None:
        return _told(told, name, signature)
    match = _OVERLOAD.fullmatch(name)
    plain = match[1] if match else name
    kind, model = _model(plain)
    if model is None:
        return _without_model(plain, kind)
    if signature is None or not signature.dims:
        return unknown(_NO_SHAPES, kind)
    return _applied(model, kind, Call(plain, signature, hints))


def _model(name: str) -> tuple[Kind, Model | None]:
    """Kind and model of an operator; no model where it does no work itself or is not known."""
    if name in MODELS:
        return MODELS[name]
    special = fbgemm.model_of(name)
    if special is not None:
        return "indexing", special
    if collectives.is_collective(name):
        return "collective", collectives.payload
    if triton.is_generated(name):
        return "pointwise", triton.kernel
    return structural(name) or "unknown", None


def _without_model(name: str, kind: Kind) -> Cost:
    """The cost of what has no model: nothing where it only calls others, else unknown."""
    if kind != "unknown":
        return nothing(kind)
    if name.startswith(("Memcpy", "Memset")):
        return unknown("the bytes of a copy stand in its own record", "copy")
    if name.startswith(collectives.KERNELS):
        return unknown("the payload of a collective stands in its own record", "collective")
    return unknown(f"no model for {name if len(name) < 80 else name[:79] + '…'}")


def _applied(model: Model, kind: Kind, call: Call) -> Cost:
    """The model's answer; its family stands in for the kind where there is none."""
    try:
        found = model(call)
    except UndeterminedError as undetermined:
        return unknown(undetermined.reason, kind, _dtype(call))
    return found


def _dtype(call: Call) -> str | None:
    """The type of the first tensor."""
    known = (ELEMENT_TYPES.get(call.dtype(i)) for i in range(len(call)))
    return next((element.name for element in known if element is not None), None)


def _told(told: Registered, name: str, signature: Signature | None) -> Cost:
    """What a user's model says; its exceptions become the reason."""
    flops, first = _quantity(told.flops, "flops", name, signature)
    moved, second = _quantity(told.bytes, "bytes", name, signature)
    dtype = _dtype(Call(name, signature)) if signature is not None else None
    return Cost(flops, moved, told.kind, dtype, first or second, moved)


def _quantity(told: Quantity, what: str, name: str, signature: Signature | None) -> tuple[float | None, str | None]:
    if told is None:
        return None, f"{what} of {name} not registered"
    if not callable(told):
        return float(told), None
    if signature is None:
        return None, _NO_SHAPES
    try:
        value = float(told(signature))
    except Exception as error:  # a user's function may raise anything; its words are the reason
        return None, f"registered {what} of {name}: {type(error).__name__}: {error}"
    if not math.isfinite(value) or value < 0:
        return None, f"registered {what} of {name} gave {value}"
    return value, None
