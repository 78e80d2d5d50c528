"""Run alone: the adapter of Liger-Kernel against torch, outputs and gradients, with its real kernels interpreted.

Prints a line a kernel: its name and the largest difference. Triton 3.9's interpreter takes no floats as arguments and
knows no libdevice, which this provides.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton.language as tl
from torch.nn import functional
from triton.language.extra import libdevice
from triton.runtime import interpreter

_converted = interpreter._implicit_cvt


def _with_floats(argument: Any) -> Any:
    if not isinstance(argument, float):
        return _converted(argument)
    return tl.tensor(interpreter.TensorHandle(np.array([argument], np.float32), tl.float32), tl.float32)


def _tanh(x: Any, **_: Any) -> Any:
    grown = tl.exp(2 * x)
    return (grown - 1) / (grown + 1)


interpreter._implicit_cvt = _with_floats
libdevice.rsqrt = lambda x, **_: tl.rsqrt(x)
libdevice.tanh = _tanh


def main() -> None:
    """All kinds of the adapter."""
    from probe.verify.adapters.liger import ADAPTER

    torch.manual_seed(0)
    x, other, weight, bias = (torch.randn(*size) for size in ((8, 64), (8, 64), (64,), (64,)))
    hidden, words, targets = torch.randn(16, 32), torch.randn(50, 32), torch.randint(0, 50, (16,))
    cases: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "rms_norm": (lambda x, w, eps: functional.rms_norm(x, (64,), w, eps), (x, weight, 1e-6)),
        "layer_norm": (lambda x, w, b, eps: functional.layer_norm(x, (64,), w, b, eps), (x, weight, bias, 1e-5)),
        "swiglu": (lambda gate, up: functional.silu(gate) * up, (x, other)),
        "geglu_tanh": (lambda gate, up: functional.gelu(gate, approximate="tanh") * up, (x, other)),
        "linear_cross_entropy": (
            lambda h, w, t, ignore: functional.cross_entropy(h @ w.t(), t, ignore_index=ignore),
            (hidden, words, targets, -100),
        ),
    }
    assert set(cases) == set(ADAPTER.kernels)
    for kind, (reference, arguments) in cases.items():
        _, kernel = ADAPTER.kernels[kind]
        pairs = zip(_values(kernel, arguments), _values(reference, arguments), strict=True)
        print(kind, max((a - b).abs().max().item() for a, b in pairs))  # noqa: T201  # the test reads it


def _values(function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[torch.Tensor]:
    """The output, the inputs as they are afterwards, and their gradients."""
    own = [a.clone().requires_grad_() if torch.is_tensor(a) and a.is_floating_point() else a for a in arguments]
    output = function(*own)
    output = output[0] if isinstance(output, tuple) else output
    trained = [a for a in own if torch.is_tensor(a) and a.requires_grad]
    gradients = torch.autograd.grad((output * torch.linspace(0, 1, output.numel()).view_as(output)).sum(), trained)
    return [output.detach(), *(a.detach() for a in trained), *gradients]


if __name__ == "__main__":
    main()
