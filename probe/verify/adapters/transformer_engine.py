"""Transformer Engine: its norm modules, with the weights at hand put into them. Read: commit 0288e53."""

from __future__ import annotations

from typing import Any

from probe.verify.adapters.kinds import Adapter


def _rms_norm(x: Any, weight: Any, eps: float) -> Any:
    import torch
    from transformer_engine.pytorch import RMSNorm

    norm = RMSNorm(x.shape[-1], eps=eps, device=x.device, dtype=x.dtype)
    return torch.func.functional_call(norm, {"weight": weight}, (x,))


def _layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    import torch
    from transformer_engine.pytorch import LayerNorm

    norm = LayerNorm(x.shape[-1], eps=eps, device=x.device, dtype=x.dtype)
    return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))


ADAPTER = Adapter(
    "Transformer Engine",
    "transformer_engine",
    {
        "rms_norm": ("transformer_engine.pytorch.RMSNorm(x.shape[-1], eps=eps)", _rms_norm),
        "layer_norm": ("transformer_engine.pytorch.LayerNorm(x.shape[-1], eps=eps)", _layer_norm),
    },
)
