"""The fused kernels of probe.kernels.fused, called by the roles of tensors; on a CPU those that run there."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

from probe.verify.adapters.installed import proposals_of
from probe.verify.adapters.kinds import Adapter
from probe.verify.program import Program
from probe.verify.proposal import Proposal

ON_CPU = ("linear_cross_entropy",)


def propose(program: Program) -> Iterator[Proposal]:
    """Each kernel that is for this rule; it raises with the reason where tensors are outside its guard."""
    on_gpu = there_is_triton_and_gpu()
    kernels = {name: kernel for name, kernel in KERNELS.items() if on_gpu or name in ON_CPU}
    yield from proposals_of(program, Adapter("probe", "probe.kernels.fused", kernels))


def there_is_triton_and_gpu() -> bool:
    """Whether kernels in Triton can run here."""
    import torch

    return bool(torch.cuda.is_available()) and importlib.util.find_spec("triton") is not None


def _rms_norm(x: Any, weight: Any, eps: float) -> Any:
    from probe.kernels.fused.residual_norm import norm

    return norm(x, weight, kind="rms", eps=eps)


def _layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    from probe.kernels.fused.residual_norm import norm

    return norm(x, weight, bias, kind="layer", eps=eps)


def _swiglu(gate: Any, up: Any) -> Any:
    from probe.kernels.fused.gated_activation import gated_activation

    return gated_activation(gate, up, activation="silu")


def _linear_cross_entropy(hidden: Any, weight: Any, targets: Any, ignore_index: int) -> Any:
    from probe.kernels.fused.linear_cross_entropy import linear_cross_entropy

    return linear_cross_entropy(hidden, weight, targets, ignore_index=ignore_index)


KERNELS: dict[str, tuple[str, Callable[..., Any]]] = {
    "rms_norm": ('probe.kernels.fused.residual_norm.norm(x, weight, kind="rms", eps=eps)', _rms_norm),
    "layer_norm": ('probe.kernels.fused.residual_norm.norm(x, weight, bias, kind="layer", eps=eps)', _layer_norm),
    "swiglu": ('probe.kernels.fused.gated_activation.gated_activation(gate, up, activation="silu")', _swiglu),
    "linear_cross_entropy": (
        "probe.kernels.fused.linear_cross_entropy.linear_cross_entropy(hidden, weight, targets)",
        _linear_cross_entropy,
    ),
}
