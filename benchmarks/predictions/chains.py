"""Pointwise operators in rows (F01, F02, F10, F11, F12), and in one pass."""

from __future__ import annotations

import math

import torch
from pair import Step, compiled, inferred, loaded, pair, trained, without_grad
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Mlp(nn.Module):
    """Two products with a function between them."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(size, hidden), nn.Linear(hidden, size)

    def act(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


class NewGelu(Mlp):
    """As GPT-2 has it, by hand."""

    def act(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


class TorchGelu(Mlp):
    def act(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


@pair("F01", quick=True)
def gelu_by_hand_trained() -> tuple[Step, Step]:
    model, x = NewGelu(256, 1024), torch.randn(4, 256, 256)
    return trained(model, x), trained(loaded(TorchGelu(256, 1024), model), x)


@pair("F01")
def gelu_by_hand() -> tuple[Step, Step]:
    model, x = NewGelu(128, 1024), torch.randn(8, 256, 128)
    return inferred(model, x), inferred(loaded(TorchGelu(128, 1024), model), x)


@pair("F01")
def squared_relu_with_scale_trained() -> tuple[Step, Step]:
    class Scaled(Mlp):
        def act(self, x: Tensor) -> Tensor:
            return ((F.relu(x).square() * 0.5 + 0.1).clamp(max=6.0) - 0.2) * 1.5

    class Compiled(Scaled):
        act = compiled(Scaled.act)

    model, x = Scaled(128, 1024), torch.randn(8, 256, 128)
    return trained(model, x), trained(loaded(Compiled(128, 1024), model), x)


@pair("F01")
def colours_augmented() -> tuple[Step, Step]:
    """A batch of images normalised, brightened and clipped."""
    x, mean, scale = torch.rand(32, 3, 160, 160), torch.rand(1, 3, 1, 1), torch.rand(1, 3, 1, 1) + 0.5

    def augmented(x: Tensor) -> Tensor:
        y = (x - mean) / scale
        return ((y * 1.1 + 0.05).clamp(-2, 2) - 0.1).abs() * 0.9

    quick = compiled(augmented)
    return without_grad(lambda: augmented(x)), without_grad(lambda: quick(x))


@pair("F01")
def focal_loss_trained() -> tuple[Step, Step]:
    def focal(logits: Tensor, target: Tensor) -> Tensor:
        p = torch.sigmoid(logits)
        weight = (1 - p * target - (1 - p) * (1 - target)).square()
        return (weight * (logits.clamp(min=0) - logits * target + torch.log1p(torch.exp(-logits.abs())))).mean()

    head, x, target = nn.Linear(32, 512), torch.randn(4096, 32), (torch.rand(4096, 512) > 0.9).float()
    quick = compiled(focal)
    return trained(head, x, loss=lambda y: focal(y, target)), trained(head, x, loss=lambda y: quick(y, target))


class Feed(nn.Module):
    """A product, its bias, an activation and dropout, apart."""

    def __init__(self, size: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(size, hidden) / size), nn.Parameter(torch.zeros(hidden))
        self.dropout = dropout

    def act(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.act(x @ self.weight), self.dropout, self.training)


class CompiledFeed(Feed):
    """Bias and activation compiled; dropout stays outside, as the finding says on a CPU."""

    act = compiled(Feed.act)


@pair("F02", quick=True)
def bias_gelu_dropout_trained() -> tuple[Step, Step]:
    model, x = Feed(128, 1024, 0.1), torch.randn(4, 512, 128)
    return trained(model, x), trained(loaded(CompiledFeed(128, 1024, 0.1), model), x)


@pair("F02")
def bias_then_gelu() -> tuple[Step, Step]:
    model, x = Feed(128, 1024, 0.0), torch.randn(8, 512, 128)
    return inferred(model, x), inferred(loaded(CompiledFeed(128, 1024, 0.0), model), x)


@pair("F10", tolerance=3e-2)
def logits_of_a_head_cast_for_the_loss() -> tuple[Step, Step]:
    hidden = torch.randn(64, 64).bfloat16().requires_grad_()
    head, targets = nn.Linear(64, 32000, bias=False).bfloat16(), torch.randint(32000, (64,))

    def loss(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), targets)

    quick = compiled(loss)
    return _gradient_of(hidden, lambda h: loss(head(h))), _gradient_of(hidden, lambda h: quick(head(h)))


def _gradient_of(x: Tensor, loss: object) -> Step:
    def step() -> list[Tensor]:
        x.grad = None
        loss(x).backward()
        assert x.grad is not None
        return [x.grad]

    return step


def rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """As transformers has it for Llama."""
    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


class Rotated(nn.Module):
    """Attention with rotary embeddings."""

    def __init__(self, turn: object, length: int, heads: int = 8, width: int = 64) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(heads * width, 3 * heads * width), nn.Linear(heads * width, heads * width)
        at = torch.outer(torch.arange(length), 10000 ** -(torch.arange(0, width, 2) / width))
        self.register_buffer("cos", torch.cat((at, at), -1).cos()[None, None])
        self.register_buffer("sin", torch.cat((at, at), -1).sin()[None, None])
        self.turn, self.heads = turn, heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        q, k = self.turn(q, k, self.cos, self.sin)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


@pair("F11", quick=True)
def rope_inference() -> tuple[Step, Step]:
    model, x = Rotated(rope, 256), torch.randn(4, 256, 512)
    return inferred(model, x), inferred(loaded(Rotated(compiled(rope), 256), model), x)


@pair("F11")
def rope_trained() -> tuple[Step, Step]:
    model, x = Rotated(rope, 128), torch.randn(8, 128, 512)
    return trained(model, x), trained(loaded(Rotated(compiled(rope), 128), model), x)


@pair("F11")
def rope_alone() -> tuple[Step, Step]:
    q, k = torch.randn(2, 16, 1024, 64), torch.randn(2, 16, 1024, 64)
    cos, sin = torch.rand(1, 1, 1024, 64), torch.rand(1, 1, 1024, 64)
    quick = compiled(rope)
    return without_grad(lambda: torch.stack(rope(q, k, cos, sin)).sum(-1)), without_grad(
        lambda: torch.stack(quick(q, k, cos, sin)).sum(-1)
    )


def gate(g: Tensor, u: Tensor) -> Tensor:
    return F.silu(g) * u


class Swiglu(nn.Module):
    def __init__(self, fused: object, size: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(size, hidden, bias=False), nn.Linear(size, hidden, bias=False)
        self.down, self.fused = nn.Linear(hidden, size, bias=False), fused

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.fused(self.gate(x), self.up(x)))


@pair("F12", quick=True)
def swiglu_trained() -> tuple[Step, Step]:
    model, x = Swiglu(gate, 64, 1024), torch.randn(8, 256, 64)
    return trained(model, x), trained(loaded(Swiglu(compiled(gate), 64, 1024), model), x)


@pair("F12")
def swiglu_inference() -> tuple[Step, Step]:
    model, x = Swiglu(gate, 128, 1024), torch.randn(8, 512, 128)
    return inferred(model, x), inferred(loaded(Swiglu(compiled(gate), 128, 1024), model), x)


@pair("F12")
def geglu_trained() -> tuple[Step, Step]:
    def geglu(g: Tensor, u: Tensor) -> Tensor:
        return F.gelu(g) * u

    model, x = Swiglu(geglu, 128, 1024), torch.randn(4, 256, 128)
    return trained(model, x), trained(loaded(Swiglu(compiled(geglu), 128, 1024), model), x)
