"""What does a CPU's convolution hold beside its results while it runs? Copies in oneDNN's blocked layout, or columns.

As torch 2.13's allocator reports them: oneDNN copies inputs and weights into its own layout and its result back out of
it, unless they are channels-last already or have so few channels that they are read as they lie. Types that oneDNN does
not take on this processor are unfolded into columns, as many times the input as the kernel has places.
"""

from __future__ import annotations

from math import prod
from typing import Any

FEW = 4  # channels that oneDNN reads where they lie: those of pictures


def held_bytes(name: str, args: tuple[Any, ...], results: Any) -> int:
    """Bytes beyond the results at the worst moment of aten.convolution or its backward; 0 for all else."""
    if name == "aten::convolution":
        x, weight = args[0], args[1]
        if _plain(x):
            return _forward(_backend(x, weight, args[3:]), x, weight, results, args[3:])
    if name == "aten::convolution_backward":
        gradient, x, weight = args[:3]
        if _plain(x):
            return _backward(_backend(x, weight, args[4:10]), gradient, x, weight, args[4:10], args[10])
    return 0


def _forward(backend: str, x: Any, weight: Any, result: Any, how: tuple[Any, ...]) -> int:
    if backend.startswith("Mkldnn"):
        return max(_blocked(x) + int(weight.nbytes), _blocked(result))
    return _columns(backend, x, weight, result, how)


def _backward(backend: str, gradient: Any, x: Any, weight: Any, how: tuple[Any, ...], wanted: list[bool]) -> int:
    """First the input's gradient, then those of weights and bias, beside it."""
    if backend.startswith("Mkldnn"):
        if wanted[1]:
            return _blocked(x) + _blocked(gradient)
        return max(_blocked(gradient) + int(weight.nbytes), _blocked(x))
    return _columns(backend, x, weight, gradient, how)


def _columns(backend: str, x: Any, weight: Any, result: Any, how: tuple[Any, ...]) -> int:
    """The input unfolded: for each place of the result all that the kernel sees."""
    places = prod(weight.shape[2:])
    if not backend.startswith("Slow2d") or (places == 1 and set(how[0]) == {1} and set(how[1]) == {0}):
        return 0
    return int(x.shape[0] * weight.shape[1] * places * prod(result.shape[2:]) * x.element_size())


def _blocked(tensor: Any) -> int:
    return int(tensor.nbytes) if tensor.shape[1] > FEW else 0


def _plain(x: Any) -> bool:
    """Whether a tensor is a CPU's, of pictures, and laid out channel by channel."""
    import torch

    return bool(x.device.type == "cpu" and x.dim() == 4 and not x.is_contiguous(memory_format=torch.channels_last))


def _backend(x: Any, weight: Any, how: tuple[Any, ...]) -> str:
    """What torch would choose for tensors of these sizes: asked with tensors of one element, seen as large."""
    import torch
    from torch.utils._mode_utils import no_dispatch

    stride, padding, dilation, transposed, output_padding, groups = how
    with no_dispatch():
        pictures, kernels = (torch.empty(1, dtype=t.dtype).expand(tuple(t.shape)) for t in (x, weight))
        chosen = torch._C._select_conv_backend(
            pictures, kernels, None, list(stride), list(padding), list(dilation), transposed, list(output_padding),
            groups,
        )  # fmt: skip
    return str(chosen.name)
