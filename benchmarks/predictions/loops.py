"""Loops over rows, products, experts and positions (F20, F21, F22, F23, F28, F30), and operators over all of them."""

from __future__ import annotations

import copy

import torch
from pair import Step, inferred, loaded, loss_only, mean_square, pair, trained, without_grad
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


@pair("F20", quick=True)
def rows_standardised_one_by_one() -> tuple[Step, Step]:
    x = torch.randn(512, 256)
    return (
        without_grad(lambda: torch.stack([(row - row.mean()) / (row.std() + 1e-5) for row in x])),
        without_grad(lambda: (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)),
    )


@pair("F20")
def rows_written_one_by_one() -> tuple[Step, Step]:
    model, x, w = nn.Linear(256, 256), torch.randn(512, 256), torch.randn(256)

    def old() -> Tensor:
        y = model(x)
        out = torch.empty_like(y)
        for i in range(len(y)):
            out[i] = torch.tanh(y[i] * w) + 1
        return model(out)

    return without_grad(old), without_grad(lambda: model(torch.tanh(model(x) * w) + 1))


@pair("F20")
def samples_pooled_one_by_one_trained() -> tuple[Step, Step]:
    """Each sample's own length."""
    model, x = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128)), torch.randn(128, 40, 64)
    lengths = torch.randint(1, 40, (128,))
    numbers, mask = lengths.tolist(), (torch.arange(40)[None] < lengths[:, None]).float()[:, :, None]

    def by_one(hidden: Tensor) -> Tensor:
        return mean_square(torch.stack([hidden[b, :n].sum(0) / n for b, n in enumerate(numbers)]))

    def at_once(hidden: Tensor) -> Tensor:
        return mean_square((hidden * mask).sum(1) / lengths[:, None])

    return trained(model, x, loss=by_one), trained(model, x, loss=at_once)


@pair("F21", quick=True)
def products_in_a_loop() -> tuple[Step, Step]:
    x, w = torch.randn(512, 16, 32), torch.randn(512, 32, 32)
    return (
        without_grad(lambda: torch.stack([x[i] @ w[i] for i in range(512)])),
        without_grad(lambda: torch.bmm(x, w)),
    )


class Heads(nn.Module):
    """One small head a target."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.body = nn.Linear(128, 64)
        self.heads = nn.ModuleList(nn.Linear(64, 16, bias=False) for _ in range(number))

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        return torch.cat([head(h) for head in self.heads], dim=-1)


class PackedHeads(nn.Module):
    def __init__(self, heads: Heads) -> None:
        super().__init__()
        self.body = copy.deepcopy(heads.body)
        self.weight = nn.Parameter(torch.cat([h.weight for h in heads.heads]).detach())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.body(x), self.weight)


@pair("F21")
def heads_in_a_list() -> tuple[Step, Step]:
    model, x = Heads(256), torch.randn(32, 128)
    return inferred(model, x), inferred(PackedHeads(model), x)


@pair("F21")
def heads_in_a_list_trained() -> tuple[Step, Step]:
    model, x = Heads(128), torch.randn(64, 128)
    return loss_only(trained(model, x)), loss_only(trained(PackedHeads(model), x))


class Lookup(nn.Module):
    def __init__(self, rows: int, sparse: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, 64, sparse=sparse)
        self.top = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 64))

    def forward(self, ids: Tensor) -> Tensor:
        return self.top(self.table(ids).mean(1))


@pair("F22", quick=True)
def dense_gradient_of_a_table() -> tuple[Step, Step]:
    model, ids = Lookup(200_000, False), torch.randint(0, 200_000, (512, 8))
    return trained(model, ids), trained(loaded(Lookup(200_000, True), model), ids)


@pair("F22")
def dense_gradient_of_a_smaller_table() -> tuple[Step, Step]:
    model, ids = Lookup(50_000, False), torch.randint(0, 50_000, (256, 4))
    return trained(model, ids), trained(loaded(Lookup(50_000, True), model), ids)


@pair("F23", quick=True)
def an_index_for_every_element() -> tuple[Step, Step]:
    x, target = torch.randn(40_000, 32), torch.randint(0, 2000, (40_000,))

    def old() -> Tensor:
        return torch.zeros(2000, 32).scatter_add_(0, target[:, None].repeat(1, 32), torch.relu(x))

    return without_grad(old), without_grad(lambda: torch.zeros(2000, 32).index_add_(0, target, torch.relu(x)))


class Experts(nn.Module):
    """A router and experts, as Hugging Face has Mixtral's."""

    def __init__(self, size: int, hidden: int, number: int) -> None:
        super().__init__()
        self.gate, self.number = nn.Linear(size, number, bias=False), number
        self.up = nn.Parameter(torch.randn(number, size, hidden) / size**0.5)
        self.down = nn.Parameter(torch.randn(number, hidden, size) / hidden**0.5)

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.gate(x).softmax(-1).topk(2, dim=-1)
        out, mask = torch.zeros_like(x), F.one_hot(chosen, self.number).permute(2, 1, 0)
        for expert in range(self.number):
            at, token = torch.where(mask[expert])
            y = F.silu(x[token] @ self.up[expert]) @ self.down[expert]
            out.index_add_(0, token, y * weights[token, at, None])
        return out


class SortedExperts(Experts):
    """Tokens sorted by expert, then one grouped product for all."""

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.gate(x).softmax(-1).topk(2, dim=-1)
        order = chosen.flatten().argsort(stable=True)
        ends = torch.bincount(chosen.flatten(), minlength=self.number).cumsum(0).int()
        rows = order // 2
        y = torch._grouped_mm(F.silu(torch._grouped_mm(x[rows], self.up, offs=ends)), self.down, offs=ends)
        return torch.zeros_like(x).index_add_(0, rows, y * weights.flatten()[order, None])


class EveryToken(Experts):
    """All tokens through all experts, weighted by zero for most."""

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.gate(x).softmax(-1).topk(2, dim=-1)
        out = torch.zeros_like(x)
        for expert in range(self.number):
            share = (weights * (chosen == expert)).sum(-1, keepdim=True)
            out = out + F.silu(x @ self.up[expert]) @ self.down[expert] * share
        return out


@pair("F28", quick=True)
def experts_in_turn() -> tuple[Step, Step]:
    model, x = Experts(128, 64, 32), torch.randn(512, 128)
    return inferred(model, x), inferred(loaded(SortedExperts(128, 64, 32), model), x)


@pair("F28")
def every_token_to_every_expert() -> tuple[Step, Step]:
    model, x = EveryToken(256, 512, 8), torch.randn(512, 256)
    return inferred(model, x), inferred(loaded(SortedExperts(256, 512, 8), model), x)


class Model(nn.Module):
    """A small language model; `last`: only the last position's logits."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.embedding, self.last = nn.Embedding(16_000, 256), last
        self.block = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256))
        self.lm_head = nn.Linear(256, 16_000, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for _ in range(4):
            x = x + self.block(x)
        return self.lm_head(x[:, -1]) if self.last else self.lm_head(x)[:, -1, :]


@pair("F30", quick=True)
def logits_of_all_positions() -> tuple[Step, Step]:
    model, ids = Model(False), torch.randint(0, 16_000, (2, 128))
    return inferred(model, ids), inferred(loaded(Model(True), model), ids)
