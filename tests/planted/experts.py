"""Experts and small products in loops, embeddings with dense gradients, recomputation; and each as it should be."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from planted.program import Step, clean, planted

TOKENS, MODEL, EXPERTS = 256, 128, 8


class Mixture(nn.Module):
    """A router and experts."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.gate = nn.Linear(MODEL, EXPERTS, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(MODEL, hidden), nn.SiLU(), nn.Linear(hidden, MODEL)) for _ in range(EXPERTS)
        )

    def route(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights, chosen = self.gate(x).softmax(-1).topk(2, dim=-1)
        return weights / weights.sum(-1, keepdim=True), chosen


class Mixtral(Mixture):
    """one_hot, where, index, index_add_: Hugging Face's Mixtral."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, chosen = self.route(x)
        out = torch.zeros_like(x)
        mask = F.one_hot(chosen, EXPERTS).permute(2, 1, 0)
        for number, expert in enumerate(self.experts):
            at, token = torch.where(mask[number])
            out.index_add_(0, token, expert(x[None, token].reshape(-1, MODEL)) * weights[token, at, None])
        return out


class Boolean(Mixture):
    """A boolean index read and written for each expert, one expert a token."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = self.gate(x).argmax(-1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            mine = chosen == number
            if mine.any():
                out[mine] = expert(x[mine])
        return out


class EveryToken(Mixture):
    """All tokens through all experts, weighted by zero for most."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, chosen = self.route(x)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            share = (weights * (chosen == number)).sum(-1, keepdim=True)
            out = out + expert(x) * share
        return out


def inferring(module: nn.Module, *inputs: torch.Tensor) -> Step:
    module.eval()

    @torch.inference_mode()
    def step() -> object:
        return module(*inputs)

    return step


def training(module: nn.Module, *inputs: torch.Tensor) -> Step:
    def step() -> None:
        for parameter in module.parameters():
            parameter.grad = None
        module(*inputs).square().mean().backward()

    return step


@planted("F28")
def mixtral_inference() -> Step:
    return inferring(Mixtral(), torch.randn(TOKENS, MODEL))


@planted("F28")
def mixtral_training() -> Step:
    return training(Mixtral(), torch.randn(TOKENS, MODEL))


@planted("F28")
def experts_by_boolean_index() -> Step:
    return inferring(Boolean(), torch.randn(TOKENS, MODEL))


@planted("F28")
def every_token_to_every_expert() -> Step:
    return inferring(EveryToken(), torch.randn(TOKENS, MODEL))


@planted("F28")
def every_token_to_every_expert_training() -> Step:
    return training(EveryToken(), torch.randn(TOKENS, MODEL))


@clean
def experts_in_one_product() -> Step:
    """Tokens in equal numbers for each expert, one batched product."""
    up, down = torch.randn(EXPERTS, MODEL, 256), torch.randn(EXPERTS, 256, MODEL)
    x = torch.randn(EXPERTS, 64, MODEL)

    @torch.inference_mode()
    def step() -> object:
        return torch.bmm(torch.bmm(x, up), down)

    return step


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(256), nn.Linear(256, 512), nn.Linear(512, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.relu(self.up(self.norm(x))))


@clean
def layers_of_a_model() -> Step:
    """The same sizes again and again, each layer reading the one before."""
    return inferring(nn.Sequential(*(Layer() for _ in range(6))), torch.randn(256, 256))


@planted("F21")
def products_in_a_loop() -> Step:
    x, w = torch.randn(64, 16, 32), torch.randn(64, 32, 32)

    @torch.inference_mode()
    def step() -> object:
        return torch.stack([x[i] @ w[i] for i in range(64)])

    return step


@planted("F21")
def heads_in_a_list() -> Step:
    heads = nn.ModuleList(nn.Linear(64, 16) for _ in range(48))
    x = torch.randn(32, 64)

    @torch.inference_mode()
    def step() -> object:
        return torch.cat([head(x) for head in heads], dim=-1)

    return step


@planted("F21")
def heads_in_a_list_training() -> Step:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleList(nn.Linear(64, 16, bias=False) for _ in range(48))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([head(x) for head in self.heads], dim=-1)

    return training(Heads(), torch.randn(32, 64))


@clean
def products_in_one() -> Step:
    x, w = torch.randn(64, 64, 64), torch.randn(64, 64, 64)

    @torch.inference_mode()
    def step() -> object:
        return torch.bmm(x, w)

    return step


@clean
def large_products_in_a_loop() -> Step:
    x, w = torch.randn(8, 512, 512), torch.randn(8, 512, 512)

    @torch.inference_mode()
    def step() -> object:
        return [x[i] @ w[i] for i in range(8)]

    return step


class Lookup(nn.Module):
    def __init__(self, rows: int, **options: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, 64, **options)
        self.top = nn.Sequential(nn.Linear(64, 2048), nn.ReLU(), nn.Linear(2048, 64))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.top(self.table(ids).mean(1))


@planted("F22")
def dense_gradient_of_a_table() -> Step:
    return training(Lookup(200_000), torch.randint(0, 200_000, (64, 8)))


@planted("F22")
def dense_gradient_of_a_functional_embedding() -> Step:
    table = nn.Parameter(torch.randn(150_000, 64))
    ids = torch.randint(0, 150_000, (32, 16))

    def step() -> None:
        table.grad = None
        F.embedding(ids, table).square().sum().backward()

    return step


@clean
def sparse_gradient_of_a_table() -> Step:
    return training(Lookup(200_000, sparse=True), torch.randint(0, 200_000, (512, 8)))


@clean
def small_table() -> Step:
    return training(Lookup(1000), torch.randint(0, 1000, (512, 8)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(256, 1024), nn.Linear(1024, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.relu(self.up(x)))


class Recomputing(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.blocks, self.reentrant = nn.ModuleList(Block() for _ in range(4)), reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return x


@planted("E15")
def checkpointed_blocks() -> Step:
    return training(Recomputing(reentrant=False), torch.randn(256, 256))


@planted("E15")
def reentrant_checkpoints() -> Step:
    return training(Recomputing(reentrant=True), torch.randn(256, 256, requires_grad=True))


@clean
def blocks_that_keep_activations() -> Step:
    return training(nn.Sequential(*(Block() for _ in range(4))), torch.randn(256, 256))


@clean
def gradient_of_a_gradient() -> Step:
    """A penalty on the gradient differentiates the backward pass: nothing is recomputed."""
    model = nn.Sequential(nn.Linear(256, 512), nn.Tanh(), nn.Linear(512, 1))
    x = torch.randn(256, 256, requires_grad=True)

    def step() -> None:
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        slope.square().sum().backward()

    return step
