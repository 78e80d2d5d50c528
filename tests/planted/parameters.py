"""Loops over parameters and gradients (F24 to F27, H13, M06), and programs with what replaces them."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from planted.program import Step, clean, planted


def deep_net(layers: int = 12, width: int = 256) -> nn.Sequential:
    """A few rows through it cost less than an update of its parameters."""
    return nn.Sequential(*[m for _ in range(layers) for m in (nn.Linear(width, width), nn.GELU())])


def narrow_net(layers: int = 24, width: int = 64) -> nn.Sequential:
    """Many small parameters: an optimizer has more to do than the model."""
    blocks = [m for _ in range(layers) for m in (nn.Linear(width, width), nn.LayerNorm(width), nn.GELU())]
    return nn.Sequential(*blocks)


def training(model: nn.Module, optimizer: torch.optim.Optimizer, width: int = 64, rows: int = 8) -> Step:
    """One step of training on random numbers."""
    x = torch.randn(rows, width)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return step


def training_on_mse(model: nn.Module, optimizer: torch.optim.Optimizer, width: int, rows: int) -> Step:
    """The same with a loss of one operator: nothing is left to be fused."""
    x = torch.randn(rows, width)

    def step() -> None:
        optimizer.zero_grad()
        F.mse_loss(model(x), x).backward()
        optimizer.step()

    return step


def with_gradients(model: nn.Module) -> list[nn.Parameter]:
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return list(model.parameters())


# F24, F25: optimizers


@planted("F24")
def adamw_as_it_is_by_default() -> Step:
    model = deep_net()
    return training(model, torch.optim.AdamW(model.parameters(), lr=1e-3), 256)


@planted("F24")
def rmsprop_parameter_by_parameter() -> Step:
    model = deep_net()
    return training(model, torch.optim.RMSprop(model.parameters(), lr=1e-3, momentum=0.9), 256)


@planted("F24")
def adagrad_parameter_by_parameter() -> Step:
    model = deep_net()
    return training(model, torch.optim.Adagrad(model.parameters(), lr=1e-3), 256)


@planted("F24")
def radam_parameter_by_parameter() -> Step:
    model = deep_net()
    return training(model, torch.optim.RAdam(model.parameters(), lr=1e-3), 256)


@planted("F24")
def sgd_in_two_groups() -> Step:
    model = deep_net(8, 512)
    groups = [{"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
              {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}]  # fmt: skip
    return training(model, torch.optim.SGD(groups, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=0.1), 512, 4)


def by_hand(parameters: list[nn.Parameter], update: object) -> Step:
    @torch.no_grad()
    def step() -> None:
        update(parameters)  # type: ignore[operator]

    return step


@planted("F24")
def sgd_by_hand() -> Step:
    """The textbook's loop."""
    model = deep_net(12, 384)
    x = torch.randn(2, 384)

    def step() -> None:
        model(x).square().mean().backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.01 * p.grad
                p.grad = None

    return step


@planted("F24")
def momentum_by_hand() -> Step:
    parameters = with_gradients(narrow_net(64))
    velocity = [torch.zeros_like(p) for p in parameters]

    def update(parameters: Iterable[nn.Parameter]) -> None:
        for p, v in zip(parameters, velocity, strict=True):
            v.mul_(0.9).add_(p.grad)
            p.data.add_(v, alpha=-0.01)

    return by_hand(parameters, update)


@planted("F24")
def adam_by_hand_with_operators() -> Step:
    """Out of place, as a paper writes it."""
    parameters = with_gradients(narrow_net(24))
    state = [[torch.zeros_like(p), torch.zeros_like(p)] for p in parameters]

    def update(parameters: Iterable[nn.Parameter]) -> None:
        for p, s in zip(parameters, state, strict=True):
            s[0] = 0.9 * s[0] + 0.1 * p.grad
            s[1] = 0.99 * s[1] + 0.01 * p.grad**2
            p -= 1e-3 * (s[0] / 0.5) / (torch.sqrt(s[1] / 0.5) + 1e-8)

    return by_hand(parameters, update)


@planted("F24")
def lion_by_hand() -> Step:
    parameters = with_gradients(narrow_net(32))
    moments = [torch.zeros_like(p) for p in parameters]

    def update(parameters: Iterable[nn.Parameter]) -> None:
        for p, m in zip(parameters, moments, strict=True):
            p.data.mul_(1 - 1e-4)
            p.data.add_((m * 0.9 + p.grad * 0.1).sign(), alpha=-1e-4)
            m.mul_(0.99).add_(p.grad, alpha=0.01)

    return by_hand(parameters, update)


@planted("F25")
def adamw_foreach() -> Step:
    model = nn.Sequential(*[nn.Linear(512, 512) for _ in range(4)])
    return training(model, torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=True), 512, 4)


@planted("F25")
def sgd_momentum_foreach() -> Step:
    model = nn.Sequential(*[nn.Linear(768, 768) for _ in range(4)])
    return training(model, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, foreach=True), 768, 2)


@clean
def adamw_fused() -> Step:
    model = nn.Sequential(*[nn.Linear(256, 256) for _ in range(6)])
    return training_on_mse(model, torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True), 256, 512)


@clean
def sgd_fused() -> Step:
    model = nn.Sequential(*[nn.Linear(256, 256) for _ in range(6)])
    return training_on_mse(model, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True), 256, 512)


@clean
def a_loop_over_few_parameters() -> Step:
    """Two parameters in a large model's step: nothing to gain."""
    model = nn.Linear(512, 512)
    return training_on_mse(model, torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False), 512, 2048)


# F26: gradient clipping


@planted("F26")
def norm_clipped_parameter_by_parameter() -> Step:
    parameters = with_gradients(narrow_net(48))
    return lambda: nn.utils.clip_grad_norm_(parameters, 1.0, foreach=False)


@planted("F26", also=("H02",))
def clipped_by_hand_with_items() -> Step:
    parameters = with_gradients(narrow_net(48))

    def step() -> None:
        total = 0.0
        for p in parameters:
            total += p.grad.data.norm(2).item() ** 2
        factor = 0.9999 / (total**0.5 + 1e-6) * total**0.5
        if factor < 1:
            for p in parameters:
                p.grad.data.mul_(factor)

    return step


@planted("F26")
def values_clamped_in_a_loop() -> Step:
    """Clipping by value, within a step of training."""
    tables = nn.ModuleList([nn.Embedding(500, 16) for _ in range(200)])  # one a feature, as recommenders have them
    optimizer = torch.optim.SGD(tables.parameters(), lr=1e-3, fused=True)
    gradients = [torch.randn_like(p) for p in tables.parameters()]

    def step() -> None:
        for p, g in zip(tables.parameters(), gradients, strict=True):
            p.grad = g
        for p in tables.parameters():
            p.grad.clamp_(-1.0, 1.0)
        optimizer.step()

    return step


@planted("F26")
def squares_summed_by_hand() -> Step:
    parameters = with_gradients(narrow_net(48))

    def step() -> None:
        total = torch.sqrt(sum((p.grad**2).sum() for p in parameters))
        factor = torch.clamp(1.0 / (total + 1e-6), max=1.0)
        for p in parameters:
            p.grad *= factor

    return step


@clean
def clipped_with_foreach() -> Step:
    model = nn.Sequential(*[nn.Linear(256, 256) for _ in range(4)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    x = torch.randn(512, 256)

    def step() -> None:
        optimizer.zero_grad()
        F.mse_loss(model(x), x).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


# F27: averages of the weights


@planted("F27")
def ema_with_mul_and_add() -> Step:
    model = narrow_net(48)
    average = copy.deepcopy(model).requires_grad_(False)

    def step() -> None:
        for e, p in zip(average.parameters(), model.parameters(), strict=True):
            e.mul_(0.999).add_(p.detach(), alpha=0.001)

    return step


@planted("F27")
def ema_with_lerp_over_a_state_dict() -> Step:
    model = narrow_net(48)
    weights = model.state_dict()
    average = {k: v.clone() for k, v in weights.items()}

    @torch.no_grad()
    def step() -> None:
        for name, value in weights.items():
            average[name].lerp_(value, 0.001)

    return step


@planted("F27")
def ema_out_of_place_after_training() -> Step:
    """As diffusion code has it: data = old * beta + (1 - beta) * new."""
    model = deep_net(8, 384)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, fused=True)
    average = copy.deepcopy(model)
    train = training(model, optimizer, 384, 2)

    def step() -> None:
        train()
        for current, kept in zip(model.parameters(), average.parameters(), strict=True):
            old, new = kept.data, current.data
            kept.data = old * 0.995 + (1 - 0.995) * new

    return step


@planted("F27")
def ema_copied_back() -> Step:
    """A target network in reinforcement learning."""
    model, target = narrow_net(48), narrow_net(48)

    def step() -> None:
        for p, t in zip(model.parameters(), target.parameters(), strict=True):
            t.data.copy_(0.005 * p.data + 0.995 * t.data)

    return step


@planted("F27")
def averaged_model_with_a_function() -> Step:
    model = narrow_net(48)
    average = AveragedModel(model, avg_fn=lambda old, new, n: old * 0.99 + new * 0.01)
    average.update_parameters(model)
    return lambda: average.update_parameters(model)


@clean
def ema_of_lists() -> Step:
    model = nn.Sequential(*[nn.Linear(256, 256) for _ in range(4)])
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    train = training_on_mse(model, optimizer, 256, 1024)

    def step() -> None:
        train()
        average.update_parameters(model)

    return step


# H13: gradients set to zero


@planted("H13")
def zero_grad_that_keeps() -> Step:
    model = narrow_net(2, 64)
    model.append(nn.Linear(64, 20000))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, fused=True)
    x = torch.randn(2, 64)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        model(x).square().mean().backward()
        optimizer.step()

    return step


@planted("H13")
def gradients_zeroed_by_hand() -> Step:
    model = nn.Sequential(*[nn.Linear(512, 512) for _ in range(6)])
    x = torch.randn(2, 512)

    def step() -> None:
        model(x).square().mean().backward()
        torch._foreach_add_([p.detach() for p in model.parameters()], [p.grad for p in model.parameters()], alpha=-0.01)
        for p in model.parameters():
            p.grad.zero_()

    return step


@clean
def gradients_accumulated() -> Step:
    """Micro-batches add to gradients that were set to None."""
    model = nn.Sequential(*[nn.Linear(256, 256) for _ in range(4)])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, fused=True)
    batches = torch.randn(2, 1024, 256)

    def step() -> None:
        optimizer.zero_grad()
        for x in batches:
            F.mse_loss(model(x), x).backward()
        optimizer.step()

    return step


# M06: a second copy of the parameters, made in each step


@planted("M06")
def master_weights_by_hand() -> Step:
    """The model in bfloat16, the optimizer in float32, and a loop that carries gradients and weights across."""
    model = nn.Sequential(*[nn.Linear(320, 320) for _ in range(12)]).bfloat16()
    masters = [p.detach().float().requires_grad_() for p in model.parameters()]
    optimizer = torch.optim.SGD(masters, lr=1e-3, fused=True)
    for p in model.parameters():
        p.grad = torch.randn_like(p)

    def step() -> None:
        for p, m in zip(model.parameters(), masters, strict=True):
            m.grad = p.grad.float()
        optimizer.step()
        with torch.no_grad():
            for p, m in zip(model.parameters(), masters, strict=True):
                p.copy_(m)

    return step


@planted("M06")
def weights_cast_in_every_forward() -> Step:
    model = nn.Sequential(*[nn.Linear(384, 384) for _ in range(12)]).half()
    x = torch.randn(2, 384)

    @torch.no_grad()
    def step() -> Tensor:
        y = x
        weights = [(layer.weight.float(), layer.bias.float()) for layer in model]
        for weight, bias in weights:
            y = F.linear(y, weight, bias)
        return y

    return step
