"""What does a loss cost, forward and backward?

Arithmetic per element by the textbook formula, and one addition more where the elements are reduced to their mean or
sum. Traffic: prediction, target and weight in, the loss out; the gradient is as large as the prediction.
"""

from __future__ import annotations

from collections.abc import Callable

from probe.analyzers.cost_models.call import Call
from probe.analyzers.cost_models.registry import Model
from probe.analyzers.cost_models.tensors import Tensor, broadcast, dense
from probe.analyzers.cost_models.terms import Cost, work


def _elementwise(per_element: int, reduction: int) -> Model:
    """A loss of argument 0 against argument 1; `reduction` is the argument that says 0 none, 1 mean, 2 sum."""

    def cost(call: Call) -> Cost:
        operands = call.tensors(0, reduction)
        x = call.tensor(0)
        each = dense(broadcast(t.sizes for t in operands), x.element)
        reduced = call.integer(reduction, "reduction") != 0
        out = dense((), x.element) if reduced else each
        flops = (per_element + reduced) * each.elements
        return work("pointwise", x.element.name, flops, operands, (out,))

    return cost


def _elementwise_backward(per_element: int, operands: int) -> Model:
    """Its gradient, from the loss's gradient in argument 0 and the prediction in argument 1."""

    def cost(call: Call) -> Cost:
        x = call.tensor(1)
        reads = call.tensors(0, operands)
        return work("pointwise", x.element.name, per_element * x.elements, reads, (dense(x.sizes, x.element),))

    return cost


def _likelihood(call: Call) -> Cost:
    """nll_loss_forward(log-probabilities, target, weight, …): one element per target, and their sum."""
    x, target = call.tensor(0), call.tensor(1)
    picked = float(min(target.elements, x.distinct) * x.element.itemsize)
    reads = (picked, target, call.maybe(2))
    return work("reduction", x.element.name, target.elements, reads, (dense((2,), x.element),))


def _likelihood_backward(call: Call) -> Cost:
    """nll_loss_backward(grad, log-probabilities, target, weight, …): zeros, and one element per target."""
    grad, x, target = (call.tensor(i) for i in range(3))
    out: Tensor = dense(x.sizes, x.element)
    return work("indexing", x.element.name, target.elements, (grad, target, call.maybe(3)), (out,))


_LOSSES: dict[str, Callable[[Call], Cost]] = {
    "mse_loss": _elementwise(2, 2), "smooth_l1_loss": _elementwise(5, 2), "huber_loss": _elementwise(5, 2),
    "l1_loss": _elementwise(2, 2), "soft_margin_loss": _elementwise(4, 2), "binary_cross_entropy": _elementwise(7, 3),
    "mse_loss_backward": _elementwise_backward(3, 3), "smooth_l1_loss_backward": _elementwise_backward(5, 3),
    "huber_loss_backward": _elementwise_backward(5, 3), "soft_margin_loss_backward": _elementwise_backward(5, 3),
    "binary_cross_entropy_backward": _elementwise_backward(5, 4),
    "nll_loss_forward": _likelihood, "nll_loss2d_forward": _likelihood, "nll_loss": _likelihood,
    "nll_loss_backward": _likelihood_backward, "nll_loss2d_backward": _likelihood_backward,
}  # fmt: skip

MODELS: dict[str, Model] = {f"aten::{name}": model for name, model in _LOSSES.items()}
