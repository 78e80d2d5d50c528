"""A batch norm in evaluation folded into the convolution before it (F15)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from probe.verify.program import Program
from probe.verify.proposal import Proposal

NORMS = ("native_batch_norm", "cudnn_batch_norm", "batch_norm")


def propose(program: Program) -> Iterator[Proposal]:
    """Where the chain is a convolution and its batch norm, and no gradients are wanted."""
    names = [call.name for call in program.calls]
    if program.site.code != "F15" or program.site.training or names[:1] != ["convolution"] or len(names) != 2:
        return
    if names[1] not in NORMS:
        return
    conv, norm = (call.arguments for call in program.calls)
    of_norm = (norm[k] for k in ("weight", "bias", "running_mean", "running_var"))
    roles = [conv["input"], conv["weight"], conv["bias"], *of_norm]
    numbers = [_number(text) for text in roles]
    if None in (numbers[0], numbers[1], numbers[5], numbers[6]):
        return
    eps = float(norm.get("eps", norm.get("epsilon", "1e-5")))
    x, weight, bias, gain, shift, mean, variance = numbers
    assert x is not None and weight is not None and mean is not None and variance is not None  # as was asked above

    def prepare(*t: Any) -> Any:
        factor = (t[variance] + eps).rsqrt()
        if gain is not None:
            factor = factor * t[gain]
        old = t[bias] if bias is not None else 0.0
        moved = (old - t[mean]) * factor + (t[shift] if shift is not None else 0.0)
        return t[x], t[weight] * factor.reshape(-1, *[1] * (t[weight].dim() - 1)), moved

    tail = [conv[k] for k in ("stride", "padding", "dilation", "transposed", "output_padding", "groups")]
    options = [eval(text, {}) for text in tail]
    if options[3]:
        return

    def folded(image: Any, kernel: Any, offset: Any) -> Any:
        import torch

        return torch.convolution(image, kernel, offset, *options)

    yield Proposal(
        "folded into the convolution", "torch.nn.utils.fusion.fuse_conv_bn_eval(conv, norm)", folded, prepare
    )


def _number(text: str) -> int | None:
    return int(text[1:]) if text[:1] == "x" and text[1:].isdecimal() else None
