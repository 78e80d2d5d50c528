"""Programs whose data lies wrong, or in the wrong type (F18, F19, F23, E08, E09, E12, E14), and such as do it right."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from planted.program import Step, clean, planted

# F18: copies


@planted("F18")
def permuted_there_and_back() -> Step:
    """A norm over channels, written with two copies a layer."""
    norms = [nn.LayerNorm(64) for _ in range(4)]
    x = torch.randn(8, 64, 32, 32)

    @torch.no_grad()
    def step() -> Tensor:
        y = x
        for norm in norms:
            y = norm(y.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2).contiguous()
        return y

    return step


@planted("F18")
def cloned_out_of_caution() -> Step:
    layers = [nn.Linear(256, 256) for _ in range(4)]
    x = torch.randn(64, 256)
    history = torch.randn(512, 2048)

    @torch.no_grad()
    def step() -> Tensor:
        y = x
        for layer in layers:
            kept = history.clone()
            y = torch.relu(layer(y.clone())) + kept[:64, :256]
        return y

    return step


@planted("F18")
def keys_repeated_for_grouped_queries() -> Step:
    """Heads repeated in memory where broadcasting serves."""
    k, q = torch.randn(4, 2, 1024, 64), torch.randn(4, 16, 1, 64)

    @torch.no_grad()
    def step() -> Tensor:
        keys = k[:, :, None].expand(4, 2, 8, 1024, 64).reshape(4, 16, 1024, 64)
        return F.scaled_dot_product_attention(q, keys, keys)

    return step


@planted("F18")
def transposed_for_every_layer_in_training() -> Step:
    norms = nn.ModuleList([nn.LayerNorm(512) for _ in range(3)])
    x = torch.randn(4, 512, 128, requires_grad=True)

    def step() -> None:
        y = x
        for norm in norms:
            y = torch.relu(norm(y.transpose(1, 2).contiguous())).transpose(1, 2).contiguous()
        y.sum().backward()

    return step


@clean
def attention_with_the_copies_it_needs() -> Step:
    """Heads split off as views, and joined by the one copy that takes."""
    qkv, out = nn.Linear(256, 768), nn.Linear(256, 256)
    x = torch.randn(4, 256, 256)

    @torch.inference_mode()
    def step() -> Tensor:
        q, k, v = (t.view(4, 256, 4, 64).transpose(1, 2) for t in qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return out(y.transpose(1, 2).reshape(4, 256, 256))

    return step


@clean
def views_only() -> Step:
    w = torch.randn(512, 512)
    x = torch.randn(8, 512, 512)
    return lambda: torch.einsum("bij,jk->bik", x.transpose(1, 2), w)


# F19: casts


@planted("F19")
def up_and_down_again() -> Step:
    x, scale = torch.randn(1024, 1024).bfloat16(), torch.randn(1024)

    @torch.no_grad()
    def step() -> Tensor:
        y = x
        for _ in range(4):
            y = (y.float() * scale).to(torch.bfloat16)
        return y

    return step


@planted("F19")
def a_table_cast_in_every_layer() -> Step:
    table = torch.randn(1024, 512).half()
    layers = [nn.Linear(512, 512) for _ in range(6)]
    x = torch.randn(16, 512)

    @torch.no_grad()
    def step() -> Tensor:
        y = x
        for layer in layers:
            y = layer(y) + table.float()[:16]
        return y

    return step


@planted("E14")
def through_double_for_a_sine() -> Step:
    x = torch.randn(512, 1024)

    @torch.no_grad()
    def step() -> Tensor:
        return x.to(torch.float64).mul(2).add(1).to(torch.float32) @ x.t()[:, :16]

    return step


@clean
def cast_once() -> Step:
    x = torch.randn(1024, 512)
    w = torch.randn(512, 512)
    return lambda: (x @ w).to(torch.bfloat16)


# F23: sums by index


@clean  # on a CPU index_add_ takes as long
def messages_put_one_by_one() -> Step:
    edges, x = torch.randint(0, 400, (20000,)), torch.randn(400, 32)
    target, w = torch.randint(0, 400, (20000,)), torch.randn(32, 32)

    @torch.no_grad()
    def step() -> Tensor:
        out = torch.zeros(400, 32)
        out.index_put_((target,), (x @ w)[edges], accumulate=True)
        return out

    return step


@planted("F23")
def an_index_for_every_element() -> Step:
    x, target = torch.randn(20000, 32), torch.randint(0, 400, (20000,))

    @torch.no_grad()
    def step() -> Tensor:
        index = target[:, None].repeat(1, 32)
        return torch.zeros(400, 32).scatter_add_(0, index, torch.relu(x))

    return step


@clean
def a_histogram_with_weights() -> Step:
    values, bins = torch.rand(200_000), torch.randint(0, 256, (200_000,))

    @torch.no_grad()
    def step() -> Tensor:
        return torch.zeros(256).index_put((bins,), values, accumulate=True)

    return step


@clean
def rows_summed_in_segments() -> Step:
    x, lengths = torch.randn(400, 50, 32), torch.full((400,), 50)
    w = torch.randn(32, 256)
    return lambda: (x.sum(1) / lengths[:, None]) @ w @ w.t() @ w


# E08: strides


@planted("E08")
def added_across() -> Step:
    x, w = torch.randn(1500, 1500), torch.randn(1500, 1500)
    return lambda: torch.sigmoid(x + w.t()) @ x[:, :8]


@planted("E08")
def a_symmetric_loss() -> Step:
    """‖A − Aᵀ‖ in training."""
    a = torch.randn(1500, 1500, requires_grad=True)
    return lambda: (a - a.t()).abs().sum().backward()


@planted("E08")
def images_of_two_layouts() -> Step:
    x = torch.randn(8, 64, 64, 64)
    skip = torch.randn(8, 64, 64, 64).to(memory_format=torch.channels_last)
    return lambda: torch.relu(x + skip)


@clean
def added_along() -> Step:
    x, w = torch.randn(1000, 1000), torch.randn(1000, 1000).t()
    return lambda: torch.mm(x, w)


@clean
def transposed_together() -> Step:
    x, w = torch.randn(800, 800).t(), torch.randn(800, 800).t()
    return lambda: torch.mm(torch.add(x, w), w)


# E09, E12: convolutions


def small_cnn(width: int = 32) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10),
    )  # fmt: skip


@planted("E09")
def a_cnn_with_channels_first() -> Step:
    model = small_cnn().eval()
    x = torch.randn(4, 3, 64, 64)
    return torch.inference_mode()(lambda: model(x))


@planted("E09")
def a_cnn_in_training() -> Step:
    model = small_cnn(16)
    x, y = torch.randn(8, 3, 48, 48), torch.randint(0, 10, (8,))
    return lambda: F.cross_entropy(model(x), y).backward()


@planted("E09")
def upsampling_between_convolutions() -> Step:
    convolutions = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Upsample(scale_factor=2), nn.Conv2d(16, 8, 1))
    x = torch.randn(4, 16, 64, 64)
    return torch.inference_mode()(lambda: convolutions(x))


@clean
def a_cnn_with_channels_last() -> Step:
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers).eval().to(memory_format=torch.channels_last)
    x = torch.randn(4, 3, 64, 64).to(memory_format=torch.channels_last)
    return torch.inference_mode()(lambda: model(x))


@planted("E12", also=("E09",))
def a_convolution_in_many_groups() -> Step:
    model = nn.Sequential(*[nn.Conv2d(64, 64, 3, padding=1, groups=32) for _ in range(2)]).eval()
    x = torch.randn(4, 64, 56, 56)
    return torch.inference_mode()(lambda: model(x))


@planted("E12")
def grouped_in_one_dimension() -> Step:
    model = nn.Conv1d(256, 256, 9, padding=4, groups=64).eval()
    x = torch.randn(8, 256, 512)
    return torch.inference_mode()(lambda: model(x))


# E14: float64


@planted("E14")
def a_mask_from_numpy() -> Step:
    mask = torch.from_numpy((np.arange(512) % 3 > 0) / 1.0)
    x, w = torch.randn(1024, 512), torch.randn(512, 32)

    @torch.no_grad()
    def step() -> Tensor:
        hidden = torch.sigmoid(x * mask) * mask
        return hidden.float() @ w

    return step


@planted("E14")
def targets_in_double() -> Step:
    model = nn.Linear(64, 512)
    x, y = torch.randn(512, 64), torch.from_numpy(np.random.default_rng(0).normal(size=(512, 512)))

    def step() -> None:
        ((model(x) - y).abs() + 1).log().mean().backward()

    return step


@planted("E14")
def a_head_left_in_double() -> Step:
    body, head = nn.Linear(256, 512), nn.Linear(512, 512).double()
    x = torch.randn(256, 256)

    @torch.no_grad()
    def step() -> Tensor:
        return head(torch.relu(body(x)).double()).float()

    return step


@clean
def a_scalar_in_double() -> Step:
    """A learning rate or a count as a float64 scalar harms nobody."""
    x, w, rate = torch.randn(512, 512), torch.randn(512, 512), torch.tensor(0.5, dtype=torch.float64)
    return lambda: torch.mm(x, w).mul(rate)
