"""Attention written out in the spellings that real models have, and attention as it should be."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from planted.program import Step, clean, planted

BATCH, HEADS, LENGTH, WIDTH = 2, 4, 128, 32
MODEL = HEADS * WIDTH


def heads(x: torch.Tensor) -> torch.Tensor:
    """[B, T, C] as [B, heads, T, D]."""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


class Attention(nn.Module):
    """Projections around `attend`, which subclasses write in their own way."""

    def __init__(self, length: int = LENGTH) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(MODEL, 3 * MODEL), nn.Linear(MODEL, MODEL)
        self.register_buffer("bias", torch.ones(length, length).tril().view(1, 1, length, length))

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = map(heads, self.qkv(x).chunk(3, -1))
        return self.out(self.attend(q, k, v).transpose(1, 2).flatten(2))


def tokens(length: int = LENGTH) -> torch.Tensor:
    return torch.randn(BATCH, length, MODEL)


def inferring(module: nn.Module, *inputs: torch.Tensor) -> Step:
    module.eval()

    @torch.no_grad()
    def step() -> object:
        return module(*inputs)

    return step


def training(module: nn.Module, *inputs: torch.Tensor) -> Step:
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        module(*inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


class NanoGpt(Attention):
    def attend(self, q, k, v):
        weights = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        weights = weights.masked_fill(self.bias[:, :, : q.size(2), : q.size(2)] == 0, float("-inf"))
        weights = F.dropout(F.softmax(weights, dim=-1), 0.1, self.training)
        return weights @ v


@planted("F06")
def nanogpt_inference() -> Step:
    return inferring(nn.Sequential(NanoGpt(256), NanoGpt(256)), tokens(256))


@planted("F06")
def nanogpt_training() -> Step:
    return training(NanoGpt(256), tokens(256))


class Llama(Attention):
    """Grouped keys repeated, an additive mask made in the step, softmax in float32."""

    def attend(self, q, k, v):
        k, v = (t[:, :2].repeat_interleave(2, dim=1) for t in (k, v))
        length = q.shape[2]
        mask = torch.full((length, length), torch.finfo(q.dtype).min).triu(1)
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(q.shape[-1])
        scores = scores + mask[None, None]
        weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        return torch.matmul(weights, v)


@planted("F06")
def llama_in_bfloat16() -> Step:
    return inferring(Llama().bfloat16(), tokens().bfloat16())


@planted("F06")
def llama_training() -> Step:
    return training(Llama(256), tokens(256))


class Einsum(Attention):
    def attend(self, q, k, v):
        sim = torch.einsum("b h i d, b h j d -> b h i j", q * q.shape[-1] ** -0.5, k)
        sim = sim - sim.amax(dim=-1, keepdim=True).detach()
        return torch.einsum("b h i j, b h j d -> b h i d", sim.softmax(dim=-1), v)


@planted("F06")
def einsum_inference() -> Step:
    return inferring(Einsum(), tokens(256))


@planted("F06")
def einsum_training() -> Step:
    return training(Einsum(), tokens(256))


class HeadsLast(nn.Module):
    """einsum on [B, T, heads, D], softmax over a dimension that is not the last: [B, i, j, heads]."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(torch.einsum("bihd,bjhd->bijh", q, k) / 5.6, dim=2)
        return torch.einsum("bijh,bjhd->bihd", weights, v)


@planted("F06")
def heads_last() -> Step:
    return inferring(HeadsLast(), *(torch.randn(2, 128, 4, 32) for _ in range(3)))


class Baddbmm(Attention):
    """ALiBi as BLOOM adds it, heads folded into the batch."""

    def attend(self, q, k, v):
        b, h, t, d = q.shape
        slopes = torch.tensor([2.0**-i for i in range(1, h + 1)])
        alibi = (slopes[:, None, None] * torch.arange(t)).repeat(b, 1, 1)
        q, k, v = (x.reshape(b * h, t, d) for x in (q, k, v))
        scores = torch.baddbmm(alibi, q, k.transpose(1, 2), beta=1.0, alpha=d**-0.5)
        scores = scores.masked_fill(self.bias[0, :, :t, :t] == 0, torch.finfo(scores.dtype).min)
        return torch.bmm(F.softmax(scores, dim=-1), v).view(b, h, t, d)


@planted("F06")
def bloom_alibi() -> Step:
    return inferring(Baddbmm(256), tokens(256))


class RelativeBias(Attention):
    """A learned table of biases by distance, as in T5 and Swin."""

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.table = nn.Embedding(2 * length, HEADS)
        at = torch.arange(length)
        self.register_buffer("distance", at[None] - at[:, None] + length)

    def attend(self, q, k, v):
        bias = self.table(self.distance).permute(2, 0, 1).unsqueeze(0)
        scores = q @ k.mT
        scores += bias
        return F.dropout(scores.float().softmax(-1).type_as(scores), 0.0, self.training) @ v


@planted("F06")
def relative_bias() -> Step:
    return inferring(RelativeBias(128), tokens(128))


class ByHand(Attention):
    """A softmax spelled out, its mask a where, its scale on the query."""

    def attend(self, q, k, v):
        length = torch.arange(q.shape[2])
        keep = length[:, None] >= length[None]
        scores = torch.where(keep, (q * 0.17) @ k.transpose(-1, -2), torch.tensor(-1e9))
        weights = torch.exp(scores - scores.max(dim=-1, keepdim=True).values)
        return (weights / weights.sum(dim=-1, keepdim=True)) @ v


@planted("F06")
def softmax_by_hand() -> Step:
    return inferring(ByHand(), tokens(256))


@planted("F06")
def softmax_by_hand_training() -> Step:
    return training(ByHand(), tokens(256))


class LogSumExp(Attention):
    def attend(self, q, k, v):
        scores = torch.matmul(q, k.mT).div_(5.66)
        return torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True)) @ v


@planted("F06")
def softmax_by_logsumexp() -> Step:
    return inferring(LogSumExp(), tokens(256))


class Capped(Attention):
    """Gemma's cap on the logits: flex_attention, not SDPA."""

    def attend(self, q, k, v):
        scores = 50.0 * torch.tanh(q @ k.mT / 5.6 / 50.0)
        return scores.masked_fill(self.bias == 0, -1e9).softmax(-1) @ v


@planted("F06")
def capped_logits() -> Step:
    return inferring(Capped(), tokens())


class CrossAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(MODEL, MODEL, bias=False), nn.Linear(MODEL, 2 * MODEL, bias=False)

    def forward(self, x: torch.Tensor, memory: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        q, (k, v) = heads(self.q(x)), map(heads, self.kv(memory).chunk(2, -1))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(WIDTH)
        scores = scores.masked_fill(padding[:, None, None, :], float("-inf"))
        return torch.matmul(nn.functional.dropout(scores.softmax(-1), 0.1), v).transpose(1, 2).flatten(2)


@planted("F06")
def cross_attention() -> Step:
    padding = torch.zeros(BATCH, 192, dtype=torch.bool)
    padding[:, 160:] = True
    return inferring(CrossAttention(), tokens(96), tokens(192), padding)


@planted("F06")
def cross_attention_training() -> Step:
    padding = torch.zeros(BATCH, 192, dtype=torch.bool)
    return training(CrossAttention(), tokens(128), tokens(192), padding)


class Vae(nn.Module):
    """Attention over the pixels of an image, as autoencoders have it: values on the left."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Conv2d(channels, channels, 1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        q = self.q(x).reshape(b, c, h * w).permute(0, 2, 1)
        k = self.k(x).reshape(b, c, h * w)
        weights = F.softmax(torch.bmm(q, k) * (int(c) ** -0.5), dim=2).permute(0, 2, 1)
        return x + torch.bmm(self.v(x).reshape(b, c, h * w), weights).reshape(b, c, h, w)


@planted("F06")
def pixels_of_an_image() -> Step:
    return inferring(Vae(), torch.randn(1, 64, 20, 20))


class Vit(nn.Module):
    """timm's spelling: one projection, permuted and unbound, dropout modules."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(MODEL, 3 * MODEL), nn.Linear(MODEL, MODEL)
        self.drop, self.norm, self.scale = nn.Dropout(0.1), nn.LayerNorm(MODEL), WIDTH**-0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        weights = self.drop(((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1))
        return x + self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


@planted("F06")
def vit_block() -> Step:
    return inferring(nn.Sequential(Vit(), Vit()), tokens(197))


@planted("F06")
def vit_training() -> Step:
    return training(nn.Sequential(Vit(), Vit()), tokens(197))


@planted("F06")
def one_head_of_two_dimensions() -> Step:
    q, k, v = (nn.Linear(64, 64, bias=False) for _ in range(3))
    x = torch.randn(384, 64)

    @torch.inference_mode()
    def step() -> object:
        return torch.softmax(q(x) @ k(x).T / 8.0, dim=1) @ v(x)

    return step


@planted("F06")
def weights_that_nobody_needs() -> Step:
    """nn.MultiheadAttention returns its weights unless told not to."""
    module = nn.MultiheadAttention(MODEL, HEADS, batch_first=True)
    x = tokens(256)

    def step() -> None:
        module(x, x, x)[0].sum().backward()

    return step


class Fused(Attention):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@clean
def sdpa_inference() -> Step:
    return inferring(nn.Sequential(Fused(), Fused()), tokens(256))


@clean
def sdpa_training() -> Step:
    return training(Fused(), tokens(256))


@clean
def sdpa_with_padding() -> Step:
    padding = torch.ones(BATCH, 1, 1, 128, dtype=torch.bool)
    padding[..., 100:] = False

    class Padded(Attention):
        def attend(self, q, k, v):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=padding)

    return inferring(Padded(), tokens(128))


@clean
def multihead_module_in_inference() -> Step:
    module = nn.MultiheadAttention(MODEL, HEADS, batch_first=True).eval()
    x = tokens(128)

    @torch.inference_mode()
    def step() -> object:
        return module(x, x, x, need_weights=False)[0]

    return step


@clean
def router_between_two_linear_layers() -> Step:
    gate, mix = nn.Linear(512, 64, bias=False), nn.Linear(64, 512, bias=False)
    return inferring(nn.Sequential(gate, nn.Softmax(-1), mix), torch.randn(64, 512))


@clean
def router_with_plain_products() -> Step:
    x, gate, mix = torch.randn(96, 512), torch.randn(512, 64), torch.randn(64, 512)

    @torch.inference_mode()
    def step() -> object:
        return torch.softmax(x @ gate, -1) @ mix

    return step


@clean
def classifier() -> Step:
    layers = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    return inferring(nn.Sequential(layers, nn.Softmax(-1)), torch.randn(256, 256))


@clean
def interleaved_unrelated_products() -> Step:
    """A softmax and products of fitting sizes that have nothing to do with one another."""
    a, b, c, d = (torch.randn(4, 192, 192) for _ in range(4))

    @torch.inference_mode()
    def step() -> object:
        torch.bmm(a, b)
        return torch.softmax(c[:, :8], -1), torch.bmm(d, a)

    return step


@planted("F08")
def causal_mask_made_in_the_step() -> Step:
    class Dense(Attention):
        def attend(self, q, k, v):
            length = q.shape[2]
            mask = torch.ones(length, length, dtype=torch.bool).tril()
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return inferring(Dense(), tokens(512))


@planted("F08")
def causal_mask_of_transformer() -> Step:
    class Dense(Attention):
        def attend(self, q, k, v):
            mask = nn.Transformer.generate_square_subsequent_mask(q.shape[2])
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return inferring(Dense(), tokens(512))


@planted("F08")
def causal_mask_by_positions() -> Step:
    class Dense(Attention):
        def attend(self, q, k, v):
            at = torch.arange(q.shape[2])
            return F.scaled_dot_product_attention(q, k, v, attn_mask=at[None, :] <= at[:, None])

    return inferring(Dense(), tokens(512))


@planted("F08")
def causal_mask_of_a_buffer() -> Step:
    class Dense(Attention):
        def attend(self, q, k, v):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias.bool())

    return inferring(Dense(512), tokens(512))


@clean
def window_of_a_mask() -> Step:
    """A band is no triangle."""
    at = torch.arange(256)
    band = (at[None] <= at[:, None]) & (at[None] > at[:, None] - 64)

    class Window(Attention):
        def attend(self, q, k, v):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=band)

    return inferring(Window(), tokens(256))


@planted("F07")
def sdpa_of_three_dimensions() -> Step:
    class Folded(Attention):
        def attend(self, q, k, v):
            folded = (t.reshape(-1, *t.shape[-2:]) for t in (q, k, v))
            return F.scaled_dot_product_attention(*folded).view(q.shape)

    return inferring(Folded(), tokens(256))


@planted("F07")
def sdpa_of_narrow_values() -> Step:
    q, k, v = torch.randn(2, 4, 256, 64), torch.randn(2, 4, 256, 64), torch.randn(2, 4, 256, 32)

    @torch.inference_mode()
    def step() -> object:
        return F.scaled_dot_product_attention(q, k, v)

    return step
