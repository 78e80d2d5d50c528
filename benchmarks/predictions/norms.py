"""Norms and residuals in several passes (F03, F04, F05, F15, F16), and in one."""

from __future__ import annotations

import copy

import torch
from pair import Step, compiled, inferred, loaded, loss_only, pair, trained, twin
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import fusion


class Rms(nn.Module):
    """As transformers has it for Llama."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        variance = x.pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + 1e-6))


class LayerNorm(nn.Module):
    """Mean and variance, operator by operator."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(size) + 0.5), nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return self.weight * (x - mean) / torch.sqrt(variance + 1e-5) + self.bias


class Layers(nn.Module):
    """Residual layers of two products each, `narrow` of the width between them, with a norm before."""

    def __init__(self, norm: type[nn.Module], size: int, narrow: int, layers: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(size) for _ in range(layers))
        self.down = nn.ModuleList(nn.Linear(size, narrow, bias=False) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(narrow, size, bias=False) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for norm, down, up in zip(self.norms, self.down, self.up, strict=True):
            x = x + up(down(norm(x)))
        return x


def _layer_norm(made: nn.Module) -> nn.Module:
    return loaded(nn.LayerNorm(made.weight.shape), made)


@pair("F04", quick=True)
def rms_norm_trained() -> tuple[Step, Step]:
    model, x = Layers(Rms, 512, 128, 3), torch.randn(4, 256, 512)
    return trained(model, x), trained(twin(model, compiled, Rms), x)


@pair("F04")
def rms_norm_inference() -> tuple[Step, Step]:
    model, x = Layers(Rms, 1024, 64, 4), torch.randn(2, 256, 1024)
    return inferred(model, x), inferred(twin(model, compiled, Rms), x)


@pair("F04")
def rms_norm_long_sequences() -> tuple[Step, Step]:
    model, x = Layers(Rms, 256, 64, 2), torch.randn(4, 4096, 256)
    return inferred(model, x), inferred(twin(model, compiled, Rms), x)


@pair("F04")
def rms_norm_of_a_wide_layer_trained() -> tuple[Step, Step]:
    model, x = Layers(Rms, 2048, 256, 2), torch.randn(2, 256, 2048)
    return trained(model, x), trained(twin(model, compiled, Rms), x)


@pair("F05", quick=True)
def layer_norm_trained() -> tuple[Step, Step]:
    model, x = Layers(LayerNorm, 512, 128, 3), torch.randn(4, 256, 512)
    return trained(model, x), trained(twin(model, _layer_norm, LayerNorm), x)


@pair("F05")
def layer_norm_inference() -> tuple[Step, Step]:
    model, x = Layers(LayerNorm, 1024, 64, 4), torch.randn(2, 256, 1024)
    return inferred(model, x), inferred(twin(model, _layer_norm, LayerNorm), x)


@pair("F05")
def layer_norm_long_sequences() -> tuple[Step, Step]:
    model, x = Layers(LayerNorm, 256, 64, 2), torch.randn(4, 4096, 256)
    return inferred(model, x), inferred(twin(model, _layer_norm, LayerNorm), x)


class PostNorm(nn.Module):
    """A sum, then a norm of it: one block."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return self.norm(x + h)


class PostNorms(nn.Module):
    """Layers in the order of the first Transformer, with a narrow product each."""

    def __init__(self, size: int, narrow: int, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(PostNorm(size) for _ in range(layers))
        self.down = nn.ModuleList(nn.Linear(size, narrow) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(narrow, size) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for block, down, up in zip(self.blocks, self.down, self.up, strict=True):
            x = block(x, up(down(x)))
        return x


@pair("F03", quick=True)
def residual_then_norm() -> tuple[Step, Step]:
    model, x = PostNorms(1024, 16, 4), torch.randn(4, 256, 1024)
    return inferred(model, x), inferred(twin(model, compiled, PostNorm), x)


def convolutions(bias: bool, width: int = 64) -> nn.Sequential:
    """A stem and bottlenecks of 1 x 1, as a ResNet has them, channels last."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=bias), nn.BatchNorm2d(width), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Conv2d(width, width, 1, bias=bias), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def images(*sizes: int) -> Tensor:
    return torch.randn(*sizes).to(memory_format=torch.channels_last)


@pair("F15", quick=True)
def batch_norm_folded() -> tuple[Step, Step]:
    model, x = convolutions(bias=False).eval(), images(4, 3, 96, 96)
    folded = [fusion.fuse_conv_bn_eval(model[i], model[i + 1]) for i in range(0, len(model), 3)]
    return inferred(model, x), inferred(nn.Sequential(*(m for f in folded for m in (f, nn.ReLU()))), x)


@pair("F15")
def batch_norm_of_features_folded() -> tuple[Step, Step]:
    layers = [m for _ in range(3) for m in (nn.Linear(256, 256), nn.BatchNorm1d(256), nn.ReLU())]
    model, x = nn.Sequential(*layers).eval(), torch.randn(4096, 256)
    folded = [fusion.fuse_linear_bn_eval(model[i], model[i + 1]) for i in range(0, 9, 3)]
    return inferred(model, x), inferred(nn.Sequential(*(m for f in folded for m in (f, nn.ReLU()))), x)


@pair("F16")
def bias_before_batch_norm() -> tuple[Step, Step]:
    layers = [nn.Linear(64, 1024), nn.BatchNorm1d(1024), nn.ReLU(), nn.Linear(1024, 64), nn.BatchNorm1d(64)]
    model, x = nn.Sequential(*layers), torch.randn(4096, 64)
    without = copy.deepcopy(model)
    without[0].bias = without[3].bias = None
    return loss_only(trained(model, x, loss=_target)), loss_only(trained(without, x, loss=_target))


def _target(out: Tensor) -> Tensor:
    """A loss that is not the same for all normalised outputs."""
    return F.smooth_l1_loss(out, torch.ones_like(out))
