"""apex: norms as one CUDA kernel. Read: commit 014f30f."""

from __future__ import annotations

from typing import Any

from probe.verify.adapters.kinds import Adapter


def _rms_norm(x: Any, weight: Any, eps: float) -> Any:
    from apex.normalization.fused_layer_norm import fused_rms_norm_affine

    return fused_rms_norm_affine(x, weight, tuple(weight.shape), eps)


def _layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    from apex.normalization.fused_layer_norm import fused_layer_norm_affine

    return fused_layer_norm_affine(x, weight, bias, tuple(weight.shape), eps)


ADAPTER = Adapter(
    "apex",
    "apex",
    {
        "rms_norm": ("fused_rms_norm_affine(x, weight, weight.shape, eps)", _rms_norm),
        "layer_norm": ("fused_layer_norm_affine(x, weight, bias, weight.shape, eps)", _layer_norm),
    },
)
