"""What is a pair: a program, and the same program after the advice of one rule was followed?

A maker prepares everything from one seed and returns two steps, functions without arguments; what they return is
compared. Both begin from equal weights and inputs. Sizes are such that a step takes some 5 to 200 ms on one thread.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Result = Tensor | Sequence[Tensor] | None  # None: nothing to compare
Step = Callable[[], Result]
Make = Callable[[], tuple[Step, Step]]
Loss = Callable[[Any], Tensor]

FRAME = ("pair", "measure", "ledger", "table")


@dataclass(frozen=True)
class Pair:
    """code: the rule whose advice the second program follows. tolerance: of the values; None: not comparable.

    told_by: the rule that has the seconds, where two speak of the same time.
    """

    code: str
    name: str
    make: Make
    tolerance: float | None
    quick: bool  # also measured with --quick
    told_by: str | None = None


PAIRS: list[Pair] = []


def pair(
    code: str, *, tolerance: float | None = 1e-3, quick: bool = False, told_by: str | None = None
) -> Callable[[Make], Make]:
    """Register the function that makes a pair."""

    def register(make: Make) -> Make:
        PAIRS.append(Pair(code, make.__name__, make, tolerance, quick, told_by))
        return make

    return register


def all_pairs() -> list[Pair]:
    """The pairs of all files beside this one, by code."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in FRAME:
            importlib.import_module(path.stem)
    return sorted(PAIRS, key=lambda p: p.code)


def mean_square(out: Tensor) -> Tensor:
    return out.float().square().mean()


def trained(model: nn.Module, *inputs: Tensor, loss: Loss = mean_square) -> Step:
    """Forward and backward of the model; gives the loss and the gradients."""
    parameters = list(model.parameters())

    def step() -> list[Tensor]:
        model.zero_grad(set_to_none=True)
        value = loss(model(*inputs))
        value.backward()
        return [value.detach(), *(p.grad for p in parameters if p.grad is not None)]

    return step


def inferred(model: nn.Module, *inputs: Tensor) -> Step:
    """The model's forward pass without gradients."""
    model.eval()

    def step() -> Any:
        with torch.inference_mode():
            return model(*inputs)

    return step


def optimised(model: nn.Module, x: Tensor, make: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]) -> Step:
    """A step of training with an optimizer; gives the new weights."""
    optimizer, parameters = make(model.parameters()), list(model.parameters())

    def step() -> list[Tensor]:
        optimizer.zero_grad()
        mean_square(model(x)).backward()
        optimizer.step()
        return [p.detach() for p in parameters]

    return step


def loss_only(step: Step) -> Step:
    """The step with nothing but its loss, where the gradients are not one to one."""

    def run() -> Result:
        result = step()
        assert result is not None
        return result[0]

    return run


def twin(model: nn.Module, change: Callable[[nn.Module], nn.Module], kind: type[nn.Module]) -> nn.Module:
    """A copy of the model with equal weights, `change` made of each of its modules of that kind."""
    copied = copy.deepcopy(model)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, change(child))
    return copied


def loaded(model: nn.Module, source: nn.Module) -> nn.Module:
    """`model` with the weights of `source`, which has them under the same names."""
    model.load_state_dict(source.state_dict())
    return model


def compiled(function: Any, **options: Any) -> Any:
    """`function` under torch.compile, for fixed sizes."""
    return torch.compile(function, dynamic=False, **options)


def without_grad(call: Callable[[], Any]) -> Step:
    """The call without gradients."""

    def step() -> Any:
        with torch.no_grad():
            return call()

    return step
