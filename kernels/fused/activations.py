"""Activation functions and their derivatives in Triton, in float32, and the same functions of torch.

The tanh form of gelu needs no tanh: (1 + tanh u) / 2 = sigmoid(2 u).
"""

from collections.abc import Callable
from functools import partial

import torch
import triton
import triton.language as tl
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda x: x,
    "relu": functional.relu,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "sigmoid": torch.sigmoid,
}
# Of one element, forward and derivative; exponentials and divisions count one.
FLOPS = {"none": (0, 0), "relu": (1, 1), "silu": (4, 8), "gelu": (5, 10), "gelu_tanh": (10, 18), "sigmoid": (3, 5)}


@triton.jit
def activated(x, kind: tl.constexpr):
    """The function at x, float32."""
    if kind == "relu":
        x = tl.where(x < 0.0, 0.0, x)  # NaN stays
    elif kind == "silu":
        x = x * tl.sigmoid(x)
    elif kind == "sigmoid":
        x = tl.sigmoid(x)
    elif kind == "gelu":
        x = x * 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
    elif kind == "gelu_tanh":
        x = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    return x


@triton.jit
def slope(x, kind: tl.constexpr):
    """The derivative at x, float32."""
    if kind == "relu":
        x = tl.where(x > 0.0, 1.0, 0.0)
    elif kind == "silu":
        share = tl.sigmoid(x)
        x = share * (1.0 + x * (1.0 - share))
    elif kind == "sigmoid":
        share = tl.sigmoid(x)
        x = share * (1.0 - share)
    elif kind == "gelu":
        x = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    elif kind == "gelu_tanh":
        share = tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
        x = share + x * share * (1.0 - share) * 1.5957691216057308 * (1.0 + 0.134145 * x * x)
    else:
        x = x * 0.0 + 1.0
    return x


@triton.jit
def tanh(x):
    """To float32 accuracy: by sigmoid, and near 0, where that cancels, by its series."""
    square = x * x
    series = x * (1.0 - square * (1.0 / 3 - square * (2.0 / 15 - square * (17.0 / 315 - square * 62.0 / 2835))))
    return tl.where(tl.abs(x) < 0.3, series, 2.0 * tl.sigmoid(2.0 * x) - 1.0)


def unknown(activation: str) -> str | None:
    """Whether there is no such function here."""
    known = activation in ACTIVATIONS
    return None if known else f"the activation is {activation!r}; known are {', '.join(ACTIVATIONS)}"
