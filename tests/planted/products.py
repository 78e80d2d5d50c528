"""What stands around products: projections apart, biases, batch norms, losses, chains; and the same done right."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from planted.fusion import images, inferred, trained
from planted.program import Step, clean, planted


@planted("F13", also=("H01", "H09"))
def queries_keys_and_values_apart() -> Step:
    """Small products: a decoder at work on a few tokens."""
    x = torch.randn(16, 64)
    layers = [nn.ModuleList(nn.Linear(64, 64) for _ in range(3)) for _ in range(30)]

    def step() -> Tensor:
        h = x
        with torch.inference_mode():
            for query, key, value in layers:
                q, k, v = (f(h).view(1, 16, 2, 32).transpose(1, 2) for f in (query, key, value))
                h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(16, 64)
        return h

    return step


@planted("F13")
def narrow_heads_of_a_wide_input() -> Step:
    """The input is what costs."""
    heads = nn.ModuleList(nn.Linear(512, 4, bias=False) for _ in range(4))
    x = torch.randn(4096, 512)
    return inferred(_Heads(heads), x)


class _Heads(nn.Module):
    def __init__(self, heads: nn.ModuleList) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([head(x) for head in self.heads]).sum(0)


@clean
def packed_projection() -> Step:
    x, qkv = torch.randn(64, 256), nn.Linear(256, 768)

    def step() -> Tensor:
        with torch.inference_mode():
            q, k, v = (t.view(1, 64, 4, 64).transpose(1, 2) for t in qkv(x).chunk(3, -1))
            return F.scaled_dot_product_attention(q, k, v)

    return step


@clean
def deep_linear() -> Step:
    """Square products in a row, each reading the one before."""
    return trained(nn.Sequential(*(nn.Linear(256, 256, bias=False) for _ in range(6))), torch.randn(256, 256))


@planted("F14")
def bias_after_the_product() -> Step:
    x, w, b = torch.randn(8, 512, 32), torch.randn(32, 512), torch.randn(512)
    return lambda: x @ w + b


@planted("F14")
def bias_then_relu() -> Step:
    x, out = torch.randn(2048, 64), torch.randn(512, 16)
    w, b = torch.randn(512, 64), torch.randn(512)

    def step() -> Tensor:
        with torch.no_grad():
            return torch.relu(torch.mm(x, w.t()).add_(b)) @ out

    return step


@planted("F02")
def bias_gelu_dropout_trained() -> Step:
    x, w = torch.randn(1024, 32), torch.randn(32, 512, requires_grad=True)
    b = torch.zeros(512, requires_grad=True)

    def step() -> None:
        w.grad = b.grad = None
        F.dropout(F.gelu(x @ w + b), 0.1).sum().backward()

    return step


@planted("F02")
def bias_then_activation_of_a_batched_product() -> Step:
    x, w, b = torch.randn(8, 256, 16), torch.randn(8, 16, 512), torch.randn(512)
    return lambda: F.relu(torch.bmm(x, w) + b)


@planted("F02")
def bias_then_gelu() -> Step:
    x, w, b = torch.randn(4, 512, 32), torch.randn(32, 512), torch.randn(512)
    return lambda: F.gelu(x @ w + b)


@clean
def mlp_with_dropout_trained() -> Step:
    model = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256))
    return trained(model, torch.randn(512, 256))


@clean
def linear_then_relu() -> Step:
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU())
    return inferred(model, torch.randn(512, 256))


def small_resnet(norm: Any = nn.BatchNorm2d, bias: bool = False) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=bias), norm(32), nn.ReLU(),
        nn.Conv2d(32, 32, 1, bias=bias), norm(32), nn.ReLU(),
        nn.Conv2d(32, 32, 1, bias=bias), norm(32), nn.ReLU(),
    )  # fmt: skip


@planted("F15")
def batch_norm_in_evaluation() -> Step:
    return images(inferred, small_resnet(), torch.randn(2, 3, 64, 64))


@planted("F15")
def batch_norm_of_features_in_evaluation() -> Step:
    layers = [nn.Linear(64, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True), nn.Linear(512, 64), nn.BatchNorm1d(64)]
    return inferred(nn.Sequential(*layers), torch.randn(1024, 64))


class FrozenBatchNorm(nn.Module):
    """As torchvision's detection models have it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        for name, made in (("weight", torch.ones), ("bias", torch.zeros), ("mean", torch.zeros), ("var", torch.ones)):
            self.register_buffer(name, made(size))

    def forward(self, x: Tensor) -> Tensor:
        w, b = self.weight.reshape(1, -1, 1, 1), self.bias.reshape(1, -1, 1, 1)
        scale = w * (self.var.reshape(1, -1, 1, 1) + 1e-5).rsqrt()
        return x * scale + (b - self.mean.reshape(1, -1, 1, 1) * scale)


@planted("F15")
def frozen_batch_norm() -> Step:
    return images(inferred, small_resnet(FrozenBatchNorm), torch.randn(2, 3, 64, 64))


@planted("F16")
def conv_bias_before_batch_norm() -> Step:
    return images(trained, small_resnet(bias=True), torch.randn(2, 3, 48, 48))


@planted("F16")
def linear_bias_before_batch_norm() -> Step:
    layers = [nn.Linear(32, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True), nn.Linear(512, 32)]
    return trained(nn.Sequential(*layers), torch.randn(1024, 32))


@clean
def batch_norm_trained_without_bias() -> Step:
    model = nn.Sequential(small_resnet(), nn.Conv2d(32, 64, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return images(trained, model, torch.randn(2, 3, 48, 48))


@clean
def folded_convolutions() -> Step:
    return images(inferred, small_resnet(lambda size: nn.Identity(), bias=True), torch.randn(2, 3, 64, 64))


@clean
def batch_norm_before_convolution() -> Step:
    """Pre-activation: a batch norm before the layer cannot be folded backwards over the ReLU."""
    layers = [nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 256, 3, padding=1)]
    return images(inferred, nn.Sequential(*layers), torch.randn(2, 8, 48, 48))


@planted("F09")
def large_vocabulary() -> Step:
    hidden, head = torch.randn(64, 32, requires_grad=True), nn.Linear(32, 32000, bias=False)
    targets = torch.randint(32000, (64,))
    return lambda: F.cross_entropy(head(hidden), targets).backward()


@planted("F09")
def large_vocabulary_shifted() -> Step:
    """As older transformers have it: the logits of all positions but the last, copied."""
    hidden, head = torch.randn(2, 33, 32), nn.Linear(32, 32000, bias=False)
    targets = torch.randint(32000, (2, 33))

    def step() -> Tensor:
        with torch.no_grad():
            shifted = head(hidden)[..., :-1, :].contiguous()
            return F.cross_entropy(shifted.view(-1, 32000), targets[:, 1:].reshape(-1))

    return step


@planted("F09")
def large_vocabulary_gathered() -> Step:
    hidden, head = torch.randn(64, 32, requires_grad=True), nn.Linear(32, 32000, bias=False)
    targets = torch.randint(32000, (64, 1))

    def step() -> None:
        logits = head(hidden)
        (-logits.log_softmax(-1).gather(-1, targets)).mean().backward()

    return step


@planted("F10")
def logits_upcast() -> Step:
    hidden = torch.randn(64, 32, dtype=torch.bfloat16, requires_grad=True)
    head = nn.Linear(32, 32000, bias=False, dtype=torch.bfloat16)
    targets = torch.randint(32000, (64,))
    return lambda: F.cross_entropy(head(hidden).float(), targets).backward()


@planted("F10")
def logits_upcast_and_shifted() -> Step:
    hidden = torch.randn(2, 33, 32, dtype=torch.bfloat16)
    head, targets = nn.Linear(32, 32000, bias=False, dtype=torch.bfloat16), torch.randint(32000, (64,))

    def step() -> Tensor:
        with torch.no_grad():
            logits = head(hidden).float()[..., :-1, :].contiguous()
            return F.cross_entropy(logits.view(-1, 32000), targets)

    return step


@clean
def classifier() -> Step:
    model = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 1000))
    x, targets = torch.randn(256, 256), torch.randint(1000, (256,))

    def step() -> None:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), targets).backward()

    return step


@planted("F01")
def pointwise_tail() -> Step:
    x, scale = torch.randn(512, 512), torch.randn(512, 512)
    return lambda: ((x * 2 + 1).clamp(-1, 1) * scale - x).abs()


@planted("F01")
def gelu_by_hand_trained() -> Step:
    x = torch.randn(512, 512, requires_grad=True)

    def step() -> None:
        (0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))).sum().backward()

    return step


@planted("F01")
def gelu_by_erf_in_an_mlp() -> Step:
    first, second = nn.Linear(16, 512), nn.Linear(512, 16)
    x = torch.randn(1024, 16)

    def step() -> Tensor:
        with torch.no_grad():
            h = first(x)
            return second(h * 0.5 * (1.0 + torch.erf(h / math.sqrt(2.0))))

    return step


@planted("F01")
def two_branches_that_meet() -> Step:
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    return lambda: torch.sqrt((a * 0.5 + 1).abs() * (b - 1).square() + 1e-3)


@clean
def independent_neighbours() -> Step:
    """One operator each on tensors of one size: neighbours in time, but nothing flows."""
    tensors = [torch.randn(512, 512) for _ in range(6)]
    outs = [torch.empty(512, 512) for _ in range(6)]

    def step() -> None:
        for x, out in zip(tensors, outs, strict=True):
            torch.abs(x, out=out)

    return step


@clean
def few_parameters_by_hand() -> Step:
    """An update of two parameters beside the work of the step: no chain of the model's."""
    model = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 256))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)
    x = torch.randn(512, 256)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(x).square().mean().backward()
        optimizer.step()

    return step


@planted("F13")
def projections_under_autocast() -> Step:
    """Autocast casts the input for each product anew."""
    x, maps = torch.randn(2048, 512), [nn.Linear(512, 8) for _ in range(3)]

    def step() -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            q, k, v = (layer(x) for layer in maps)
            return (q * k).sum(-1, keepdim=True) + v

    return step


@planted("F14")
def bias_after_an_einsum() -> Step:
    x, w, b = torch.randn(4096, 32), torch.randn(512, 32), torch.randn(512)
    return lambda: torch.einsum("ti,oi->to", x, w) + b
