"""Attention written out, or called so that no fused kernel takes it (F06, F07, F08, F29), and as it should be."""

from __future__ import annotations

import math

import torch
from pair import Step, inferred, loaded, pair, trained, without_grad
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Attention(nn.Module):
    """Projections around `attend`; this one is as it should be."""

    def __init__(self, size: int, heads: int, length: int) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(size, 3 * size), nn.Linear(size, size), heads
        self.register_buffer("mask", torch.ones(length, length).tril().view(1, 1, length, length))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        return self.out(self.attend(q, k, v).transpose(1, 2).flatten(2))


class Masked(Attention):
    """The mask is made outside: what the finding names is the call with a mask."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask == 1)


class NanoGpt(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        weights = weights.masked_fill(self.mask == 0, float("-inf"))
        return F.softmax(weights, dim=-1) @ v


class Open(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class Vit(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v


class Triangle(Attention):
    """The mask is made in each step."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        length = q.shape[2]
        mask = torch.full((length, length), float("-inf")).triu(1)
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(q.shape[-1]) + mask
        return torch.matmul(F.softmax(scores, dim=-1), v)


class DenseMask(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        length = q.shape[2]
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class Folded(Attention):
    """Heads folded into the batch."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*(t.reshape(-1, *t.shape[-2:]) for t in (q, k, v))).view(q.shape)


def _two(old: type[Attention], new: type[Attention], sizes: tuple[int, int, int]) -> tuple[Attention, Attention]:
    model = old(*sizes)
    return model, loaded(new(*sizes), model)


@pair("F06", quick=True)
def nanogpt_inference() -> tuple[Step, Step]:
    old, new = _two(NanoGpt, Masked, (512, 8, 512))
    x = torch.randn(2, 512, 512)
    return inferred(old, x), inferred(new, x)


@pair("F06")
def nanogpt_trained() -> tuple[Step, Step]:
    old, new = _two(NanoGpt, Masked, (256, 8, 256))
    x = torch.randn(4, 256, 256)
    return trained(old, x), trained(new, x)


@pair("F06")
def vit_inference() -> tuple[Step, Step]:
    old, new = _two(Vit, Open, (384, 6, 1))
    x = torch.randn(8, 197, 384)
    return inferred(old, x), inferred(new, x)


@pair("F06")
def vit_trained() -> tuple[Step, Step]:
    old, new = _two(Vit, Open, (384, 6, 1))
    x = torch.randn(4, 197, 384)
    return trained(old, x), trained(new, x)


@pair("F06")
def long_sequence() -> tuple[Step, Step]:
    old, new = _two(Vit, Open, (256, 4, 1))
    x = torch.randn(1, 1536, 256)
    return inferred(old, x), inferred(new, x)


@pair("F06")
def causal_mask_of_the_step() -> tuple[Step, Step]:
    old, new = _two(Triangle, Attention, (512, 8, 1))
    x = torch.randn(2, 512, 512)
    return inferred(old, x), inferred(new, x)


@pair("F07")
def heads_folded_into_the_batch() -> tuple[Step, Step]:
    old, new = _two(Folded, Open, (256, 4, 1))
    x = torch.randn(4, 512, 256)
    return inferred(old, x), inferred(new, x)


@pair("F08", quick=True)
def dense_causal_mask() -> tuple[Step, Step]:
    old, new = _two(DenseMask, Attention, (256, 4, 1))
    x = torch.randn(1, 1024, 256)
    return inferred(old, x), inferred(new, x)


@pair("F08")
def dense_causal_mask_trained() -> tuple[Step, Step]:
    old, new = _two(DenseMask, Attention, (256, 4, 1))
    x = torch.randn(2, 512, 256)
    return trained(old, x), trained(new, x)


@pair("F29", tolerance=None)  # the caches grow apart from the first step on
def cache_grown_by_cat() -> tuple[Step, Step]:
    """One token of eight sequences, keys and values of 1024 before it."""
    layers, weights, x = 4, [nn.Linear(512, 1536, bias=False) for _ in range(4)], torch.randn(8, 1, 512)
    grown = [[torch.randn(8, 8, 1024, 64) for _ in range(2)] for _ in range(layers)]
    fixed = [[torch.zeros(8, 8, 4096, 64) for _ in range(2)] for _ in range(layers)]
    at = [1024]

    def heads(layer: int, x: Tensor) -> list[Tensor]:
        return [t.unflatten(-1, (8, 64)).transpose(1, 2) for t in weights[layer](x).chunk(3, -1)]

    def old() -> Tensor:
        y = x
        for layer in range(layers):
            q, k, v = heads(layer, y)
            grown[layer] = [torch.cat([a, b], dim=2) for a, b in zip(grown[layer], (k, v), strict=True)]
            y = y + F.scaled_dot_product_attention(q, *grown[layer]).transpose(1, 2).flatten(2)
            grown[layer] = [t[:, :, :1024] for t in grown[layer]] if grown[layer][0].shape[2] > 1088 else grown[layer]
        return y

    def new() -> Tensor:
        y, end = x, at[0] + 1
        for layer in range(layers):
            q, k, v = heads(layer, y)
            for cache, made in zip(fixed[layer], (k, v), strict=True):
                cache[:, :, at[0] : end] = made
            y = y + F.scaled_dot_product_attention(q, *(c[:, :, :end] for c in fixed[layer])).transpose(1, 2).flatten(2)
        at[0] = 1024 if end > 1088 else end
        return y

    return without_grad(old), without_grad(new)
