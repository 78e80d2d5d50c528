"""What an adapter may offer, and with which arguments each kind is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# rms_norm(x, weight, eps) · layer_norm(x, weight, bias, eps) · swiglu(gate, up) · geglu_tanh(gate, up)
# linear_cross_entropy(hidden, weight [V, H], targets, ignore_index)
# attention(q, k, v, causal, scale), of [batch, heads, T, D]
KINDS = ("rms_norm", "layer_norm", "swiglu", "geglu_tanh", "linear_cross_entropy", "attention")


@dataclass(frozen=True)
class Adapter:
    """A library: the module that has to be importable, and by kind how a kernel of it is called, and as what line."""

    library: str
    module: str
    kernels: Mapping[str, tuple[str, Callable[..., Any]]]
