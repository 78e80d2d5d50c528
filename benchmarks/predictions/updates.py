"""Optimizers, clipping, averages, casts, zeros for each parameter apart (F24 to F27, H13, M06), and together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from pair import Step, mean_square, optimised, pair
from torch import Tensor, nn

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def small_layers(layers: int = 48, width: int = 96) -> nn.Sequential:
    """Many small parameters."""
    return nn.Sequential(*(m for _ in range(layers) for m in (nn.Linear(width, width), nn.LayerNorm(width))))


def large_layers(layers: int = 6, width: int = 512) -> nn.Sequential:
    return nn.Sequential(*(m for _ in range(layers) for m in (nn.Linear(width, width), nn.ReLU())))


def _both(model: nn.Module, x: Tensor, old: Optimizer, new: Optimizer) -> tuple[Step, Step]:
    return optimised(copy.deepcopy(model), x, old), optimised(copy.deepcopy(model), x, new)


def adamw(**options: bool) -> Optimizer:
    return lambda parameters: torch.optim.AdamW(parameters, lr=1e-4, **options)


def sgd(**options: bool) -> Optimizer:
    return lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, **options)


@pair("F24", quick=True)
def adamw_of_small_layers() -> tuple[Step, Step]:
    return _both(small_layers(), torch.randn(64, 96), adamw(foreach=False), adamw(fused=True))


@pair("F24")
def adamw_of_large_layers() -> tuple[Step, Step]:
    return _both(large_layers(), torch.randn(64, 512), adamw(foreach=False), adamw(fused=True))


@pair("F24")
def sgd_of_large_layers() -> tuple[Step, Step]:
    return _both(large_layers(8, 768), torch.randn(32, 768), sgd(foreach=False), sgd(fused=True))


@pair("F24")
def sgd_by_hand() -> tuple[Step, Step]:
    model, x = small_layers(64), torch.randn(16, 96)
    by_hand = copy.deepcopy(model)

    def step() -> list[Tensor]:
        mean_square(by_hand(x)).backward()
        with torch.no_grad():
            for p in by_hand.parameters():
                p -= 1e-3 * p.grad
                p.grad = None
        return [p.detach() for p in by_hand.parameters()]

    return step, optimised(model, x, lambda p: torch.optim.SGD(p, lr=1e-3, fused=True))


@pair("F25", quick=True)
def adamw_foreach() -> tuple[Step, Step]:
    return _both(large_layers(), torch.randn(64, 512), adamw(foreach=True), adamw(fused=True))


@pair("F25")
def sgd_foreach() -> tuple[Step, Step]:
    return _both(large_layers(6, 768), torch.randn(16, 768), sgd(foreach=True), sgd(fused=True))


@pair("F26", quick=True)
def norms_clipped_one_by_one() -> tuple[Step, Step]:
    return _clipped(lambda p: nn.utils.clip_grad_norm_(p, 1e-3, foreach=False))


@pair("F26")
def squares_summed_by_hand() -> tuple[Step, Step]:
    def clip(parameters: list[nn.Parameter]) -> None:
        total = torch.sqrt(sum(p.grad.square().sum() for p in parameters))
        factor = torch.clamp(1e-3 / (total + 1e-6), max=1.0)
        for p in parameters:
            p.grad.mul_(factor)

    return _clipped(clip)


def _clipped(old: Callable[[list[nn.Parameter]], object]) -> tuple[Step, Step]:
    model, x = small_layers(64, 128), torch.randn(8, 128)
    return _clipping(model, x, old), _clipping(copy.deepcopy(model), x, lambda p: nn.utils.clip_grad_norm_(p, 1e-3))


def _clipping(model: nn.Module, x: Tensor, clip: Callable[[list[nn.Parameter]], object]) -> Step:
    parameters = list(model.parameters())

    def step() -> list[Tensor]:
        model.zero_grad()
        mean_square(model(x)).backward()
        clip(parameters)
        return [p.grad for p in parameters if p.grad is not None]

    return step


@pair("F27", quick=True)
def average_with_mul_and_add() -> tuple[Step, Step]:
    model = small_layers(96)
    averages = [copy.deepcopy(model).requires_grad_(False) for _ in range(2)]
    for p in model.parameters():
        p.detach().add_(1.0)
    target, weights = list(averages[1].parameters()), [p.detach() for p in model.parameters()]

    def old() -> list[Tensor]:
        for e, p in zip(averages[0].parameters(), model.parameters(), strict=True):
            e.mul_(0.999).add_(p.detach(), alpha=0.001)
        return list(averages[0].parameters())

    def new() -> list[Tensor]:
        torch._foreach_lerp_(target, weights, 0.001)
        return list(target)

    return old, new


@pair("F27")
def average_after_training() -> tuple[Step, Step]:
    """Out of place, as diffusion code has it."""
    models = [small_layers(32, 256)]
    models.append(copy.deepcopy(models[0]))
    averages = [copy.deepcopy(m).requires_grad_(False) for m in models]
    x = torch.randn(16, 256)
    train = [optimised(m, x, lambda p: torch.optim.SGD(p, lr=1e-3, fused=True)) for m in models]
    target, weights = list(averages[1].parameters()), [p.detach() for p in models[1].parameters()]

    def old() -> list[Tensor]:
        train[0]()
        for p, e in zip(models[0].parameters(), averages[0].parameters(), strict=True):
            e.data = e.data * 0.99 + (1 - 0.99) * p.data
        return list(averages[0].parameters())

    def new() -> list[Tensor]:
        train[1]()
        torch._foreach_lerp_(target, weights, 0.01)
        return list(target)

    return old, new


@pair("H13", quick=True)
def gradients_filled_with_zeros() -> tuple[Step, Step]:
    model, x = large_layers(8, 768), torch.randn(8, 768)
    return _zeroing(copy.deepcopy(model), x, to_none=False), _zeroing(model, x, to_none=True)


def _zeroing(model: nn.Module, x: Tensor, *, to_none: bool) -> Step:
    optimizer, parameters = torch.optim.SGD(model.parameters(), lr=1e-3, fused=True), list(model.parameters())

    def step() -> list[Tensor]:
        optimizer.zero_grad(set_to_none=to_none)
        mean_square(model(x)).backward()
        optimizer.step()
        return [p.detach() for p in parameters]

    return step


@pair("M06", tolerance=3e-2)
def master_weights_by_hand() -> tuple[Step, Step]:
    """The model in bfloat16 and its optimizer in float32; then an optimizer that works on bfloat16."""
    model = large_layers(12, 512).bfloat16()
    own = copy.deepcopy(model)
    for p, o in zip(model.parameters(), own.parameters(), strict=True):
        p.grad = torch.randn_like(p)
        o.grad = p.grad.clone()
    masters = [p.detach().float().requires_grad_() for p in model.parameters()]
    with_masters = torch.optim.SGD(masters, lr=1e-3, foreach=True)
    alone = torch.optim.SGD(own.parameters(), lr=1e-3, foreach=True)

    @torch.no_grad()
    def old() -> list[Tensor]:
        for p, m in zip(model.parameters(), masters, strict=True):
            m.grad = p.grad.float()
        with_masters.step()
        for p, m in zip(model.parameters(), masters, strict=True):
            p.copy_(m)
        return list(model.parameters())

    def new() -> list[Tensor]:
        alone.step()
        return list(own.parameters())

    return old, new
