"""What a family of replacements proposes for a recorded chain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Prepared = tuple["torch.Tensor", ...]  # what a call is given, made of the outside tensors without being timed


@dataclass(frozen=True)
class Proposal:
    """A replacement for a chain: `function` takes the tensors from outside in order and returns the chain's results.

    Where weights are laid out anew once and for all (packed, folded), `prepare` makes what `function` is given, and
    `unpack` turns the gradients of that into those of the tensors from outside. Neither is timed.
    """

    name: str
    code_line: str
    function: Callable[..., Any]
    prepare: Callable[..., Prepared] | None = None
    unpack: Callable[[Prepared], Prepared] | None = None
    fixed: bool = False
    floor_dtype: str | None = None
    objection: str | None = None
    note: Callable[[], str] = str
    guard: Callable[..., str | None] | None = None  # why it does not take these tensors; then it is not offered
