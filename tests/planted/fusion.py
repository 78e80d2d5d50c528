"""Norms, rotations and gates in several passes where one would do; and the same done right."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from planted.program import Step, clean, planted


def trained(model: nn.Module, *inputs: Tensor) -> Step:
    """Forward and backward of the model's mean square."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(*inputs).square().mean().backward()

    return step


def inferred(model: nn.Module, *inputs: Tensor) -> Step:
    """The model's forward pass, without gradients."""
    model.eval()

    def step() -> None:
        with torch.inference_mode():
            model(*inputs)

    return step


def images(make: Any, model: nn.Module, x: Tensor) -> Step:
    """`make`, of model and images with the channels last."""
    return make(model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last))  # type: ignore


class LlamaNorm(nn.Module):
    """As transformers has it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        x = x.to(torch.float32)
        variance = x.pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + 1e-6)).to(dtype)


class Annotated(nn.Module):
    """LayerNorm of the Annotated Transformer."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return self.a * (x - mean) / (std + 1e-6) + self.b


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of an image, as ConvNeXt and Segment Anything have it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        x = (x - u) / torch.sqrt(s + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class Stack(nn.Module):
    """Residual layers of one linear map each, with a norm before it."""

    def __init__(self, norm: Any, size: int, layers: int = 3) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(size) for _ in range(layers))
        self.maps = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for norm, layer in zip(self.norms, self.maps, strict=True):
            x = x + layer(norm(x))
        return x


@planted("F04")
def rms_norm_of_llama_trained() -> Step:
    return trained(Stack(LlamaNorm, 128), torch.randn(8, 256, 128))


@planted("F04")
def rms_norm_of_llama_in_bfloat16() -> Step:
    return inferred(Stack(LlamaNorm, 128).to(torch.bfloat16), torch.randn(4, 256, 128, dtype=torch.bfloat16))


@planted("F04")
def rms_norm_by_sum_and_division() -> Step:
    class Norm(LlamaNorm):
        def forward(self, x: Tensor) -> Tensor:
            return x / torch.sqrt((x * x).sum(-1, keepdim=True) / x.shape[-1] + 1e-6) * self.weight

    return inferred(Stack(Norm, 128), torch.randn(8, 256, 128))


@planted("F04")
def rms_norm_by_length() -> Step:
    class Norm(LlamaNorm):
        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(x, dim=-1) * x.shape[-1] ** 0.5 * self.weight

    return inferred(Stack(Norm, 128), torch.randn(8, 256, 128))


@planted("F05")
def layer_norm_by_hand_trained() -> Step:
    class Norm(Annotated):
        def forward(self, x: Tensor) -> Tensor:
            centred = x - x.mean(-1, keepdim=True)
            variance = centred.pow(2).mean(-1, keepdim=True)
            return centred * torch.rsqrt(variance + 1e-5) * self.a + self.b

    return trained(Stack(Norm, 128), torch.randn(8, 256, 128))


@planted("F05")
def layer_norm_of_the_annotated_transformer() -> Step:
    return inferred(Stack(Annotated, 128), torch.randn(8, 256, 128))


@planted("F05")
def layer_norm_by_variance() -> Step:
    class Norm(Annotated):
        def forward(self, x: Tensor) -> Tensor:
            variance, mean = torch.var_mean(x, -1, keepdim=True, correction=0)
            return (x - mean) / (variance + 1e-5).sqrt() * self.a + self.b

    return inferred(Stack(Norm, 128), torch.randn(8, 256, 128))


@planted("F05")
def layer_norm_with_mean_and_variance_apart() -> Step:
    class Norm(Annotated):
        def forward(self, x: Tensor) -> Tensor:
            mean, variance = x.mean(dim=-1, keepdim=True), x.var(dim=-1, keepdim=True, unbiased=False)
            return (x - mean) / torch.sqrt(variance + 1e-5) * self.a + self.b

    return inferred(Stack(Norm, 128), torch.randn(8, 256, 128))


@planted("F05")
def layer_norm_over_channels() -> Step:
    model = nn.Sequential(nn.Conv2d(3, 32, 4, 4), ChannelNorm(32), nn.Conv2d(32, 32, 1), ChannelNorm(32))
    return images(inferred, model, torch.randn(4, 3, 128, 128))


@clean
def rms_norm_of_torch() -> Step:
    return inferred(Stack(nn.RMSNorm, 256, 2), torch.randn(2, 256, 256))


@clean
def layer_norm_of_torch_trained() -> Step:
    return trained(Stack(nn.LayerNorm, 256), torch.randn(4, 256, 256))


@clean
def unit_vectors() -> Step:
    """Cosine similarities: a norm without a weight is no RMSNorm."""
    a, b = torch.randn(1024, 256), torch.randn(1024, 256)
    return lambda: F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


@clean
def standardised_features() -> Step:
    """Once over the batch, beside a product: nothing to fuse into F.layer_norm."""
    x, w = torch.randn(512, 512), torch.randn(512, 2048)
    return lambda: ((x - x.mean(0)) / x.std(0)) @ w


@planted("F03")
def post_norm_residuals() -> Step:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.LayerNorm(512) for _ in range(4))

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            for norm in self.norms:
                x = norm(x + h)
            return x

    return inferred(Block(), torch.randn(4, 256, 512), torch.randn(4, 256, 512))


@planted("F03", also=("F04",))
def pre_norm_residuals_with_a_hand_written_norm() -> Step:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(LlamaNorm(512) for _ in range(3))

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            for norm in self.norms:
                x = x + h
                h = norm(x)
            return h

    return inferred(Block(), torch.randn(4, 256, 512), torch.randn(4, 256, 512))


def rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def angles(length: int, size: int) -> tuple[Tensor, Tensor]:
    at = torch.outer(torch.arange(length), 10000 ** -(torch.arange(0, size, 2) / size))
    return at.cos(), at.sin()


@planted("F11")
def rope_by_halves() -> Step:
    """As transformers has it for Llama."""
    q, k = torch.randn(2, 8, 256, 64), torch.randn(2, 8, 256, 64)
    cos, sin = (torch.cat((a, a), -1)[None, None] for a in angles(256, 64))

    def step() -> Tensor:
        with torch.no_grad():
            turned_q, turned_k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
            return F.scaled_dot_product_attention(turned_q[:, :, :32], turned_k[:, :, :32], k[:, :, :32])

    return step


@planted("F11")
def rope_by_halves_trained() -> Step:
    q = torch.randn(2, 256, 8, 64, requires_grad=True)
    cos, sin = (torch.cat((a, a), -1)[:, None] for a in angles(256, 64))
    wo = torch.randn(512, 64)

    def step() -> None:
        ((q * cos + rotate_half(q) * sin).reshape(2, 256, 512) @ wo).sum().backward()

    return step


@planted("F11")
def rope_partial_of_neox() -> Step:
    q = torch.randn(4, 8, 256, 64)
    cos, sin = (torch.cat((a, a), -1) for a in angles(256, 32))

    def step() -> Tensor:
        turned, kept = q[..., :32], q[..., 32:]
        return torch.cat((turned * cos + rotate_half(turned) * sin, kept), dim=-1)

    return step


@planted("F11")
def rope_by_pairs() -> Step:
    """As gpt-fast has it: real pairs, stacked again."""
    q = torch.randn(2, 256, 8, 64)
    cos, sin = (a[:, None] for a in angles(256, 64))

    def step() -> Tensor:
        x = q.float().reshape(2, 256, 8, 32, 2)
        pairs = [x[..., 0] * cos - x[..., 1] * sin, x[..., 1] * cos + x[..., 0] * sin]
        return torch.stack(pairs, -1).flatten(3).type_as(q)

    return step


@planted("F11")
def rope_by_chunks_trained() -> Step:
    """As the fast trainers of GPT-2 have it: a negative sine."""
    q = torch.randn(2, 256, 8, 64, requires_grad=True)
    cos, sin = (a[:, None] for a in angles(256, 64))

    def step() -> None:
        x1, x2 = q.chunk(2, dim=-1)
        torch.cat((x1 * cos + x2 * sin, x1 * (-sin) + x2 * cos), 3).sum().backward()

    return step


@planted("F11")
def rope_in_place() -> Step:
    q, out = torch.randn(2, 256, 8, 64), torch.empty(2, 256, 8, 64)
    cos, sin = (a[:, None] for a in angles(256, 64))

    def step() -> Tensor:
        x1, x2 = q[..., ::2], q[..., 1::2]
        out[..., ::2] = x1 * cos - x2 * sin
        out[..., 1::2] = x1 * sin + x2 * cos
        return out

    return step


@planted("F11")
def rope_of_complex_numbers() -> Step:
    q = torch.randn(2, 256, 8, 64, dtype=torch.bfloat16)
    turn = torch.polar(torch.ones(256, 32), torch.rand(256, 32))[None, :, None]

    def step() -> Tensor:
        pairs = torch.view_as_complex(q.float().reshape(2, 256, 8, 32, 2))
        return torch.view_as_real(pairs * turn).flatten(3).type_as(q)

    return step


@clean
def attention_without_rope() -> Step:
    x, w = torch.randn(2, 128, 256), torch.randn(256, 768)

    def step() -> Tensor:
        q, k, v = (t.view(2, 128, 4, 64).transpose(1, 2) for t in (x @ w).chunk(3, dim=-1))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return step


class SwiGLU(nn.Module):
    def __init__(self, size: int, hidden: int, act: Any = F.silu) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(size, hidden, bias=False), nn.Linear(size, hidden, bias=False)
        self.down, self.act = nn.Linear(hidden, size, bias=False), act

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.gate(x)) * self.up(x))


class Packed(nn.Module):
    def __init__(self, size: int, hidden: int, act: Any = F.silu, bias: bool = True) -> None:
        super().__init__()
        self.gate_up, self.down, self.act = nn.Linear(size, 2 * hidden, bias), nn.Linear(hidden, size), act

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(self.act(gate) * up)


@planted("F12")
def swiglu_of_two_products() -> Step:
    return inferred(SwiGLU(16, 512), torch.randn(4, 256, 16))


@planted("F12")
def swiglu_packed_trained() -> Step:
    return trained(Packed(16, 512), torch.randn(2, 256, 16))


@planted("F12")
def swiglu_with_a_sigmoid() -> Step:
    return inferred(SwiGLU(16, 512, lambda g: g * torch.sigmoid(g)), torch.randn(4, 256, 16))


@planted("F12")
def geglu_packed() -> Step:
    return inferred(Packed(16, 512, lambda g: F.gelu(g, approximate="tanh")), torch.randn(4, 256, 16))


@planted("F12")
def reglu_trained() -> Step:
    return trained(SwiGLU(16, 512, F.relu), torch.randn(2, 256, 16))


@planted("F12")
def glu_by_hand() -> Step:
    return inferred(Packed(16, 512, torch.sigmoid, bias=False), torch.randn(4, 256, 16))


@clean
def mlp_with_silu() -> Step:
    return trained(nn.Sequential(nn.Linear(256, 512), nn.SiLU(), nn.Linear(512, 256)), torch.randn(512, 256))


@clean
def squeeze_and_excite() -> Step:
    """A gate of one value per channel: nothing that a SwiGLU kernel could do."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return x * torch.sigmoid(self.fc(x.mean((2, 3), keepdim=True)))

    return images(inferred, Gated(), torch.randn(2, 32, 48, 48))


@clean
def glu_of_torch() -> Step:
    model = nn.Sequential(nn.Linear(256, 512), nn.GLU(), nn.Linear(256, 256))
    return inferred(model, torch.randn(512, 256))


@planted("F12")
def geglu_with_a_gelu_by_hand() -> Step:
    """As T5 has it."""

    def gelu_new(x: Tensor) -> Tensor:
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))

    return inferred(SwiGLU(16, 512, gelu_new), torch.randn(4, 256, 16))


@planted("F11")
def rope_of_one_head() -> Step:
    q = torch.randn(4096, 64)
    cos, sin = (torch.cat((a, a), -1) for a in angles(4096, 64))
    return lambda: q * cos + rotate_half(q) * sin
