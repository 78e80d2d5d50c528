"""A product that adds its bias itself, and one batched product for several small ones (F02, F14, F21)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from probe.verify.program import Program
from probe.verify.proposal import Proposal

ACTIVATIONS = {"relu": False, "gelu": True}


def propose(program: Program) -> Iterator[Proposal]:
    """By the operators of the chain."""
    names = [call.name for call in program.calls]
    if program.site.code in ("F02", "F14") and names == ["mm", "add"]:
        yield from _bias(program)
    if program.site.code in ("F02", "F14") and len(names) == 2 and names[0] == "addmm" and names[1] in ACTIVATIONS:
        yield from _activation(program, names[1])
    if program.site.code == "F21" and len(names) > 1 and set(names) == {"mm"} and _alike(program):
        yield Proposal("one bmm", "torch.bmm(torch.stack(xs), torch.stack(ws)).unbind()", _batched(program))


def _bias(program: Program) -> Iterator[Proposal]:
    """mm(a, b) + c as addmm(c, a, b); the order of a sum's terms does not matter."""
    if len(program.outside) != 3:
        return
    product = program.calls[0]
    first, second = (_direct(product.arguments[name]) for name in ("self", "mat2"))
    if first is None or second is None:
        return
    (bias,) = {0, 1, 2} - {first, second} if first != second else (None,)
    if bias is None or len(program.outside[bias].dims) != 1:
        return

    def addmm(*tensors: Any) -> Any:
        import torch

        return torch.addmm(tensors[bias], tensors[first], tensors[second])

    yield Proposal("addmm", "torch.addmm(bias, x, weight)  # F.linear does the same", addmm)


def _direct(text: str) -> int | None:
    """The number of the outside tensor that stands there as it is."""
    return int(text[1:]) if text[:1] == "x" and text[1:].isdecimal() else None


def _activation(program: Program, name: str) -> Iterator[Proposal]:
    """The epilogue of the product's kernel, on a GPU; GELU there is the approximation by tanh."""
    arguments = program.calls[0].arguments
    numbers = [_direct(arguments[key]) for key in ("self", "mat1", "mat2")]
    tanh = "tanh" in program.calls[1].line
    if None in numbers or (name == "gelu" and not tanh) or program.site.training:
        return

    def addmm_activation(*tensors: Any) -> Any:
        import torch

        bias, left, right = (tensors[number] for number in numbers if number is not None)
        return torch.ops.aten._addmm_activation.default(bias, left, right, use_gelu=ACTIVATIONS[name])

    yield Proposal("_addmm_activation", "torch._addmm_activation(bias, x, weight)", addmm_activation)


def _alike(program: Program) -> bool:
    """Whether all products have the sizes of the first, and read outside tensors as they are."""
    pairs = [(_direct(c.arguments["self"]), _direct(c.arguments["mat2"])) for c in program.calls]
    if any(left is None or right is None for left, right in pairs):
        return False
    sizes = {(program.outside[left or 0].dims, program.outside[right or 0].dims) for left, right in pairs}
    return len(sizes) == 1


def _batched(program: Program) -> Any:
    pairs = [(_direct(c.arguments["self"]) or 0, _direct(c.arguments["mat2"]) or 0) for c in program.calls]

    def bmm(*tensors: Any) -> Any:
        import torch

        left, right = (torch.stack([tensors[pair[side]] for pair in pairs]) for side in (0, 1))
        return torch.bmm(left, right).unbind()

    return bmm
