"""Which model tells the cost of an operator? What a user registered, then the tables of the families."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, get_args

from probe.analyzers.cost_models.call import Call
from probe.analyzers.cost_models.terms import Cost, Kind
from probe.trace import Signature

Model: TypeAlias = Callable[[Call], Cost]
Quantity: TypeAlias = float | Callable[[Signature], float] | None


@dataclass(frozen=True)
class Registered:
    """A user's own model: numbers, or functions of the recorded arguments."""

    flops: Quantity
    bytes: Quantity
    kind: Kind


_registered: dict[str, Registered] = {}


def register(name: str, flops: Quantity = None, bytes: Quantity = None, kind: Kind = "pointwise") -> None:
    """Tell what operator `name` ("ns::op", or a kernel's name) costs per call; replaces any model for it.

    Each quantity is a number, a function of the recorded Signature, or None for unknown. Of a "matmul", "convolution"
    or "attention" the flops decide whether operators below it did the work, of all others the bytes.
    """
    if not name or not isinstance(name, str):
        raise ValueError(f"the name of an operator is text such as 'ns::op', not {name!r}")
    for what, quantity in (("flops", flops), ("bytes", bytes)):
        if quantity is not None and not callable(quantity) and not 0 <= quantity < float("inf"):
            raise ValueError(f"{what} of {name} must be a finite number of at least 0, not {quantity!r}")
    if kind not in get_args(Kind):
        raise ValueError(f"{kind!r} is not one of the kinds {', '.join(get_args(Kind))}")
    _registered[name] = Registered(flops, bytes, kind)


def unregister(name: str) -> None:
    """Forget what was registered for `name`."""
    _registered.pop(name, None)


def registered(name: str) -> Registered | None:
    """What a user told about `name`."""
    return _registered.get(name)
