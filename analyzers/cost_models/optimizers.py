"""What does one step of a fused optimizer cost?

Arithmetic per parameter, by the update's formula: Adam 3 for the first moment, 4 for the second (with the square), 2
bias corrections, root, +ε, quotient, ·rate, difference; decoupled decay 1 more, L2 decay 2. Traffic per parameter, for
AdamW 7 times its size: parameter, gradient and two moments read, parameter and moments written.
"""

from __future__ import annotations

from probe.analyzers.cost_models.call import Call, at, is_nested
from probe.analyzers.cost_models.registry import Model
from probe.analyzers.cost_models.tensors import Tensor
from probe.analyzers.cost_models.terms import Cost, work


def _lists(call: Call, wanted: range) -> list[list[Tensor]]:
    """The lists of tensors among these arguments; an empty one is left out."""
    return [call.tensor_list(i) for i in wanted if is_nested(at(call.signature.dims, i, ()))]


def _update(call: Call, per_element: int, states: range) -> Cost:
    """Parameters (argument 0) and states are read and written, gradients (argument 1) read."""
    parameters, gradients = call.tensor_list(0), call.tensor_list(1)
    kept = [t for tensors in _lists(call, states) for t in tensors]
    flops = per_element * sum(t.elements for t in parameters)
    dtype = parameters[0].element.name if parameters else None
    source = call.hints.source or None
    return work("optimizer", dtype, flops, gradients, (), (*parameters, *kept), assumes=source)


def _adam(decay_flops: int) -> Model:
    """_fused_adam(w)_(parameters, gradients, m, v, largest v, steps, rate, beta1, beta2, weight_decay, …)."""

    def cost(call: Call) -> Cost:
        decayed = call.number(9, 1.0) != 0
        largest = is_nested(at(call.signature.dims, 4, ()))
        return _update(call, 14 + decay_flops * decayed + largest, range(2, 5))

    return cost


def _sgd(call: Call) -> Cost:
    """_fused_sgd_(parameters, gradients, momenta, weight_decay, momentum, …)."""
    decayed = call.number(3, 0.0) != 0
    momentum = is_nested(at(call.signature.dims, 2, ()))
    return _update(call, 2 + 2 * decayed + 3 * momentum, range(2, 3))


def _adagrad(call: Call) -> Cost:
    """_fused_adagrad_(parameters, gradients, sums, steps, …): square, sum, root, +ε, quotient, ·rate, difference."""
    return _update(call, 7, range(2, 3))


MODELS: dict[str, Model] = {
    "aten::_fused_adam_": _adam(2),
    "aten::_fused_adamw_": _adam(1),
    "aten::_fused_sgd_": _sgd,
    "aten::_fused_adagrad_": _adagrad,
}
