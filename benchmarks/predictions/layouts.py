"""Copies, casts, orders and types that cost (F13, F14, F18, F19, E08 to E15), and programs without them."""

from __future__ import annotations

import copy

import torch
from pair import Step, inferred, loaded, pair, trained, without_grad
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint


class Projections(nn.Module):
    """Queries, keys and values of a decoder at work on a few tokens."""

    def __init__(self, size: int, layers: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.ModuleList(nn.Linear(size, size) for _ in range(3)) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for query, key, value in self.maps:
            x = x + attend(query(x), key(x), value(x))
        return x


class Packed(nn.Module):
    def __init__(self, apart: Projections, size: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(size, 3 * size) for _ in apart.maps)
        for packed, maps in zip(self.maps, apart.maps, strict=True):
            packed.weight = nn.Parameter(torch.cat([m.weight for m in maps]).detach())
            packed.bias = nn.Parameter(torch.cat([m.bias for m in maps]).detach())

    def forward(self, x: Tensor) -> Tensor:
        for packed in self.maps:
            x = x + attend(*packed(x).chunk(3, -1))
        return x


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@pair("F13", quick=True)
def projections_of_a_few_tokens() -> tuple[Step, Step]:
    model, x = Projections(64, 60), torch.randn(1, 8, 64)
    return inferred(model, x), inferred(Packed(model, 64), x)


@pair("F13")
def narrow_heads_of_a_wide_input() -> tuple[Step, Step]:
    heads, x = [nn.Linear(768, 4, bias=False) for _ in range(6)], torch.randn(4096, 768)
    packed = torch.cat([head.weight for head in heads]).detach()
    return (
        without_grad(lambda: torch.cat([head(x) for head in heads], -1)),
        without_grad(lambda: F.linear(x, packed)),
    )


@pair("F14", quick=True)
def bias_after_the_product() -> tuple[Step, Step]:
    x, w, b = torch.randn(8, 1024, 64), torch.randn(64, 512), torch.randn(512)
    return without_grad(lambda: x @ w + b), without_grad(lambda: F.linear(x, w.t(), b))


@pair("F14")
def bias_after_the_product_trained() -> tuple[Step, Step]:
    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(1024, 128)), nn.Parameter(torch.randn(1024))

        def forward(self, x: Tensor) -> Tensor:
            return torch.mm(x, self.weight.t()) + self.bias

    model, x = Apart(), torch.randn(2048, 128)
    return trained(model, x), trained(loaded(nn.Linear(128, 1024), model), x)


@pair("F18", quick=True)
def permuted_there_and_back() -> tuple[Step, Step]:
    norms, x = [nn.LayerNorm(64) for _ in range(4)], torch.randn(16, 64, 48, 48)

    def old() -> Tensor:
        y = x
        for norm in norms:
            y = norm(y.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2).contiguous()
        return y

    def new() -> Tensor:
        y = x.permute(0, 2, 3, 1).contiguous()
        for norm in norms:
            y = norm(y)
        return y.permute(0, 3, 1, 2).contiguous()

    return without_grad(old), without_grad(new)


@pair("F18")
def cloned_out_of_caution() -> tuple[Step, Step]:
    layers, x = [nn.Linear(64, 64) for _ in range(6)], torch.randn(16384, 64)

    def through(keep: bool) -> Tensor:
        y = x
        for layer in layers:
            y = torch.relu(layer(y.clone() if keep else y))
        return y

    return without_grad(lambda: through(True)), without_grad(lambda: through(False))


@pair("F19", tolerance=3e-2, quick=True)
def up_and_down_again() -> tuple[Step, Step]:
    x, scale = torch.randn(2048, 1024).bfloat16(), torch.randn(1024)

    def old() -> Tensor:
        y = x
        for _ in range(4):
            y = (y.float() * scale).to(torch.bfloat16)
        return y

    def new() -> Tensor:
        y = x.float()
        for _ in range(4):
            y = y * scale
        return y.to(torch.bfloat16)

    return without_grad(old), without_grad(new)


@pair("F19")
def a_table_cast_in_every_layer() -> tuple[Step, Step]:
    table, layers, x = torch.randn(2048, 512).half(), [nn.Linear(512, 512) for _ in range(6)], torch.randn(64, 512)

    def old() -> Tensor:
        y = x
        for layer in layers:
            y = layer(y) + table.float()[:64]
        return y

    def new() -> Tensor:
        y, wide = x, table.float()
        for layer in layers:
            y = layer(y) + wide[:64]
        return y

    return without_grad(old), without_grad(new)


@pair("E08", quick=True)
def added_across() -> tuple[Step, Step]:
    x, w = torch.randn(2048, 2048), torch.randn(2048, 2048)
    along = w.t().contiguous()
    return without_grad(lambda: torch.relu(x + w.t()).mean(1)), without_grad(lambda: torch.relu(x + along).mean(1))


def cnn(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10),
    )  # fmt: skip


def last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


@pair("E09", quick=True)
def cnn_with_channels_first() -> tuple[Step, Step]:
    model, x = cnn(32), torch.randn(8, 3, 64, 64)
    return inferred(model, x), inferred(copy.deepcopy(model).to(memory_format=torch.channels_last), last(x))


@pair("E09", tolerance=2e-2)  # gradients behind batch norms are small differences
def cnn_with_channels_first_trained() -> tuple[Step, Step]:
    model, x = cnn(16), torch.randn(8, 3, 64, 64)
    return trained(model, x), trained(copy.deepcopy(model).to(memory_format=torch.channels_last), last(x))


@pair("E12")
def convolution_in_many_groups() -> tuple[Step, Step]:
    model, x = (
        nn.Sequential(*(nn.Conv2d(64, 64, 3, padding=1, groups=32) for _ in range(2))),
        torch.randn(4, 64, 56, 56),
    )
    return inferred(model, x), inferred(copy.deepcopy(model).to(memory_format=torch.channels_last), last(x))


@pair("E14", quick=True)
def a_mask_in_double() -> tuple[Step, Step]:
    wide = (torch.arange(1024) % 3 > 0).double()
    x, w = torch.randn(2048, 1024), torch.randn(1024, 32)

    def through(mask: Tensor) -> Tensor:
        return (torch.sigmoid(x * mask) * mask).float() @ w

    narrow = wide.float()
    return without_grad(lambda: through(wide)), without_grad(lambda: through(narrow))


@pair("E14")
def a_head_in_double() -> tuple[Step, Step]:
    body, head, x = nn.Linear(512, 512), nn.Linear(512, 512), torch.randn(1024, 512)
    wide = copy.deepcopy(head).double()
    return (
        without_grad(lambda: wide(torch.relu(body(x)).double()).float()),
        without_grad(lambda: head(torch.relu(body(x)))),
    )


@pair("E14")
def targets_in_double_trained() -> tuple[Step, Step]:
    model, x, y = nn.Linear(128, 512), torch.randn(2048, 128), torch.randn(2048, 512).double()
    narrow = y.float()
    return (
        trained(model, x, loss=lambda out: ((out - y).abs() + 1).log().mean()),
        trained(model, x, loss=lambda out: ((out - narrow).abs() + 1).log().mean()),
    )


class Blocks(nn.Module):
    def __init__(self, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256)) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + (checkpoint(block, x, use_reentrant=False) if self.recompute else block(x))
        return x


@pair("E15", quick=True)
def checkpointed_blocks() -> tuple[Step, Step]:
    model, x = Blocks(True), torch.randn(512, 256)
    return trained(model, x), trained(loaded(Blocks(False), model), x)
