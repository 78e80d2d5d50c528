"""Inference that copies its cache, computes logits nobody reads or records a graph; and inference that does not."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from planted.program import Step, clean, planted

HEADS, WIDTH = 8, 64
MODEL = HEADS * WIDTH


class Decoder(nn.Module):
    """Layers that attend to a cache, which subclasses keep in their own way."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.qkv = nn.ModuleList(nn.Linear(MODEL, 3 * MODEL, bias=False) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(MODEL, MODEL, bias=False) for _ in range(layers))

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, (qkv, out) in enumerate(zip(self.qkv, self.out, strict=True)):
            q, k, v = (t.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for t in qkv(x).chunk(3, -1))
            x = x + out(self.attend(layer, q, k, v).transpose(1, 2).flatten(2))
        return x


class Growing(Decoder):
    """past_key_values as Hugging Face's DynamicCache has them."""

    def __init__(self, batch: int, start: int) -> None:
        super().__init__()
        self.past = [[torch.randn(batch, HEADS, start, WIDTH) for _ in range(2)] for _ in self.qkv]

    def attend(self, layer, q, k, v):
        self.past[layer] = [torch.cat([old, new], dim=-2) for old, new in zip(self.past[layer], (k, v), strict=True)]
        return F.scaled_dot_product_attention(q, *self.past[layer])


def one_token(model: nn.Module, batch: int) -> Step:
    x = torch.randn(batch, 1, MODEL)

    @torch.inference_mode()
    def step() -> object:
        return model(x)

    return step


@planted("F29")
def cache_grown_by_cat() -> Step:
    return one_token(Growing(8, 512), 8)


@planted("F29")
def cache_grown_within_a_step() -> Step:
    """A whole generation is one step; [B, T, heads, D] is grown."""
    weights = nn.Linear(MODEL, 3 * MODEL, bias=False)
    x = torch.randn(4, 1, MODEL)

    @torch.inference_mode()
    def step() -> object:
        keys = values = torch.zeros(4, 256, HEADS, WIDTH)
        new = x
        for _ in range(8):
            q, k, v = (t.view(4, 1, HEADS, WIDTH) for t in weights(new).chunk(3, -1))
            keys, values = torch.cat((keys, k), 1), torch.cat((values, v), 1)
            new = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, keys, values)))
            new = new.transpose(1, 2).reshape(4, 1, MODEL)
        return new

    return step


@planted("F29")
def cache_with_keys_transposed() -> Step:
    """BLOOM's: keys as [B · heads, D, T], values as [B · heads, T, D]."""
    cache = [torch.randn(64, WIDTH, 512), torch.randn(64, 512, WIDTH)]
    new = torch.randn(64, 1, WIDTH)

    @torch.no_grad()
    def step() -> object:
        cache[0] = torch.cat((cache[0], new.mT), dim=2)
        cache[1] = torch.cat((cache[1], new), dim=1)
        return torch.bmm(torch.bmm(new, cache[0]).softmax(-1), cache[1])

    return step


class Static(Decoder):
    def __init__(self, batch: int, start: int) -> None:
        super().__init__()
        self.past = [[torch.randn(batch, HEADS, 1024, WIDTH) for _ in range(2)] for _ in self.qkv]
        self.at = start

    def attend(self, layer, q, k, v):
        at = self.at + 1
        for cache, new in zip(self.past[layer], (k, v), strict=True):
            cache[:, :, self.at : at] = new
        self.at = at if layer + 1 == len(self.past) else self.at
        return F.scaled_dot_product_attention(q, *(cache[:, :, :at] for cache in self.past[layer]))


@clean
def cache_written_in_place() -> Step:
    return one_token(Static(8, 512), 8)


@clean
def features_joined_by_a_dense_network() -> Step:
    """Ever more channels, each number of them once."""
    layers = nn.ModuleList(nn.Conv2d(16 + 8 * n, 8, 3, padding=1) for n in range(4)).to(
        memory_format=torch.channels_last
    )
    x = torch.randn(4, 16, 32, 32).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def step() -> object:
        y = x
        for layer in layers:
            y = torch.cat([y, F.relu(layer(y))], 1)
        return y

    return step


@clean
def class_token_in_front() -> Step:
    token, x, layer = torch.randn(8, 1, 256), torch.randn(8, 196, 256), nn.Linear(256, 256)

    @torch.inference_mode()
    def step() -> object:
        return layer(torch.cat([token, x], dim=1))

    return step


class Model(nn.Module):
    def __init__(self, vocabulary: int = 16_000, width: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.block = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.lm_head = nn.Linear(width, vocabulary, bias=False)

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        return x + self.block(x)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.lm_head(self.hidden(ids))


def prompt() -> torch.Tensor:
    return torch.randint(0, 16_000, (2, 48))


@planted("F30")
def logits_of_all_positions() -> Step:
    model, ids = Model(), prompt()

    @torch.no_grad()
    def step() -> object:
        logits = model(ids)[:, -1, :] / 0.8
        return torch.multinomial(F.softmax(logits, dim=-1), 1)

    return step


@planted("F30")
def logits_of_all_positions_in_float() -> Step:
    """As older models of Hugging Face: all logits cast, then the last taken."""
    model, ids = Model().bfloat16(), prompt()

    @torch.inference_mode()
    def step() -> object:
        return model(ids).float()[:, -1:].argmax(-1)

    return step


@planted("F30")
def logits_with_a_bias() -> Step:
    model, ids = Model(), prompt()
    model.lm_head = nn.Linear(128, 16_000)

    @torch.inference_mode()
    def step() -> object:
        return model(ids).select(1, -1).topk(40)

    return step


@clean
def logits_of_the_last_position() -> Step:
    model, ids = Model(), prompt()

    @torch.inference_mode()
    def step() -> object:
        return model.lm_head(model.hidden(ids)[:, -1]).argmax(-1)

    return step


@clean
def logits_that_are_all_scored() -> Step:
    """Perplexity reads every position; the last is looked at besides."""
    layer, x = nn.Linear(256, 512), torch.randn(2, 64, 256)
    targets = torch.randint(0, 512, (2, 64))

    @torch.inference_mode()
    def step() -> object:
        logits = layer(x)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), logits[:, -1].argmax(-1)

    return step


@planted("E13")
def one_row_at_a_time() -> Step:
    layers = nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(4)))
    x = torch.randn(1, 2048)

    @torch.inference_mode()
    def step() -> object:
        return layers(x)

    return step


@planted("E13")
def decoding_by_hand() -> Step:
    """Matrices times a vector, four sequences in turn."""
    up, down = torch.randn(6144, 1536), torch.randn(1536, 6144)
    tokens = torch.randn(4, 1536)

    @torch.inference_mode()
    def step() -> object:
        return [down @ F.relu(up @ token) for token in tokens[:2]], F.linear(F.linear(tokens, up).relu(), down)

    return step


@clean
def many_rows_at_a_time() -> Step:
    layers = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(2)))
    x = torch.randn(128, 1024)

    @torch.inference_mode()
    def step() -> object:
        return layers(x)

    return step


@planted("H14")
def inference_that_records_a_graph() -> Step:
    model, ids = Model(1000), torch.randint(0, 1000, (8, 64))
    return lambda: model.eval()(ids).argmax(-1)


@planted("H14")
def evaluation_without_no_grad() -> Step:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten())
    x = torch.randn(4, 3, 32, 32)
    return lambda: model(x).sum().item()


@clean
def inference_without_a_graph() -> Step:
    model, ids = Model(1000).eval(), torch.randint(0, 1000, (8, 64))

    @torch.no_grad()
    def step() -> object:
        return model(ids).argmax(-1)

    return step
