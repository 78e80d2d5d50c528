"""Liger-Kernel: Triton kernels for norms, gated activations and the loss of a language model. Read: 0.8.5."""

from __future__ import annotations

from typing import Any

from probe.verify.adapters.kinds import Adapter


def _rms_norm(x: Any, weight: Any, eps: float) -> Any:
    from liger_kernel.transformers.functional import liger_rms_norm

    return liger_rms_norm(x, weight, eps, in_place=False)  # in place, it overwrites the gradient that it is given


def _layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    from liger_kernel.transformers.functional import liger_layer_norm

    return liger_layer_norm(x, weight, bias, eps)


def _swiglu(gate: Any, up: Any) -> Any:
    from liger_kernel.transformers.functional import liger_swiglu

    return liger_swiglu(*_spared(gate, up))


def _geglu(gate: Any, up: Any) -> Any:
    from liger_kernel.transformers.functional import liger_geglu

    return liger_geglu(*_spared(gate, up))


def _spared(gate: Any, up: Any) -> tuple[Any, Any]:
    """Copies, where there will be gradients: the backward pass writes them over gate and up, which are read again here.

    A model whose gate and up nobody else reads saves these copies, and is a little faster than the verdict says.
    """
    return (gate.clone(), up.clone()) if gate.requires_grad or up.requires_grad else (gate, up)


def _linear_cross_entropy(hidden: Any, weight: Any, targets: Any, ignore_index: int) -> Any:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return liger_fused_linear_cross_entropy(hidden, weight, targets, ignore_index=ignore_index)


ADAPTER = Adapter(
    "Liger-Kernel",
    "liger_kernel",
    {
        "rms_norm": ("liger_rms_norm(x, weight, eps, in_place=False)", _rms_norm),
        "layer_norm": ("liger_layer_norm(x, weight, bias, eps)", _layer_norm),
        "swiglu": ("liger_swiglu(gate, up)", _swiglu),
        "geglu_tanh": ("liger_geglu(gate, up)", _geglu),
        "linear_cross_entropy": ("liger_fused_linear_cross_entropy(hidden, weight, targets)", _linear_cross_entropy),
    },
)
