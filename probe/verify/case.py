"""What is compared? The original of a site, its candidates, and the inputs they are timed and checked on.

A case is data and plain functions: what verifies it knows neither attention nor optimizers, and a kernel of the
user's own is one more `Candidate` on the same inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Values:
    """What one side computed: its outputs, and the gradient of each input where the backward pass ran."""

    outputs: tuple[torch.Tensor, ...]
    gradients: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True)
class Side:
    """The original or a candidate, ready to run. `call` does the work once and is all that is timed."""

    call: Callable[[], Any]
    values: Callable[[Any], Values]  # of what `call` returned; not timed


class Inputs(Protocol):
    """Tensors that both sides read and neither changes."""

    def exact(self) -> Self:
        """The same values in float64; only a part of them where the whole is not affordable."""

    def covered(self, values: Values) -> Values:
        """The part of a run's values that a run on `exact()` gives."""


I = TypeVar("I", bound=Inputs)  # noqa: E741 (the one kind of inputs that a case has)


@dataclass(frozen=True)
class Candidate(Generic[I]):
    """A replacement: `code_line` is what the user would paste, `build` makes it ready to run on given inputs.

    fixed: made for the recorded sizes and layouts; hard inputs of others are left out. floor_dtype: where it computes
    in another type than the original, on purpose: that type's floor holds. objection: why it cannot be run here.
    note: what to say of it after it ran. guard: why it does not take the inputs; then it is not offered.
    """

    name: str
    code_line: str
    build: Callable[[I], Side]
    fixed: bool = False
    floor_dtype: str | None = None
    objection: str | None = None
    note: Callable[[], str] = str
    guard: Callable[[I], str | None] | None = None


@dataclass(frozen=True)
class Problem(Generic[I]):
    """Inputs by name; `make` draws them on the generator's device.

    `condition` is how far right implementations may differ more than on ordinary inputs: a logit of 120 is known to
    120 eps, and so is every weight that is computed from it. `reshaped`: sizes or layouts are not the recorded ones.
    """

    name: str
    make: Callable[[torch.Generator], I]
    condition: float = 1.0
    reshaped: bool = False


@dataclass(frozen=True)
class Case(Generic[I]):
    """An original, what could replace it, and what they run on.

    `checked[0]` has the recorded sizes and gives the reported errors; the others are hard inputs. `need_bytes`
    estimates the memory that judging takes; `objection` says why nothing can be run, if so.
    `assumed`: what the record does not say and was chosen.
    `optional`: hard inputs on which the original itself may raise; such ones are left out.
    """

    name: str
    original: Callable[[I], Side]
    candidates: tuple[Candidate[I], ...]
    timed: Problem[I]
    checked: tuple[Problem[I], ...]
    need_bytes: int
    calls: int = 1  # numbers are compared after so many calls in a row: an optimizer's errors build up in its state
    objection: str | None = None
    assumed: tuple[str, ...] = ()
    optional: bool = False
