"""Several weights as one, laid side by side once: QKV (F13), gate and up projection of a SwiGLU (F12)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from probe.verify.program import Call, Program
from probe.verify.proposal import Prepared, Proposal

LEFT = {"mm": "self", "addmm": "mat1"}


def propose(program: Program) -> Iterator[Proposal]:
    """Where all products read one outside tensor, each with a weight of its own."""
    products = [call for call in program.calls if call.name in LEFT]
    if program.site.code not in ("F12", "F13") or len(products) < 2 or not _of_one_input(program, products):
        return
    packing = _Packing(program, products)
    yield Proposal(
        f"{len(products)} products as one", "one nn.Linear with the weights side by side, then .chunk()",
        packing.function, packing.prepare, packing.unpack, fixed=True,
    )  # fmt: skip


def _of_one_input(program: Program, products: Sequence[Call]) -> bool:
    """Whether left sides are equal, and weights (and biases) distinct outside tensors used as they are."""
    kinds = {call.name for call in products}
    rights = [call.arguments["mat2"] for call in products]
    biases = [call.arguments["self"] for call in products] if kinds == {"addmm"} else []
    named = [*rights, *biases]
    plain = all(text[:1] == "x" and text[1:].isdecimal() for text in named)
    same = len({call.arguments[LEFT[call.name]] for call in products}) == 1
    return plain and same and len(kinds) == 1 and len(set(named)) == len(named)


class _Packing:
    """The chain with its products replaced by one; packed tensors take the place of the weights they hold."""

    def __init__(self, program: Program, products: Sequence[Call]) -> None:
        self.with_bias = products[0].name == "addmm"
        self.weights = [int(call.arguments["mat2"][1:]) for call in products]
        self.biases = [int(call.arguments["self"][1:]) for call in products] if self.with_bias else []
        gone = {*self.weights, *self.biases}
        self.rest = [i for i in range(len(program.outside)) if i not in gone]
        self.widths = [program.outside[i].dims[-1] for i in self.weights]
        self.count = len(program.outside)
        self.program, self.products = program, {id(call): n for n, call in enumerate(products)}
        self.left = products[0].arguments[LEFT[products[0].name]]
        self._made: Any = None

    def prepare(self, *tensors: Any) -> Prepared:
        """The other tensors as they are, then all weights side by side, then all biases."""
        import torch

        packed = [torch.cat([tensors[i].t() for i in self.weights]).t()]  # rows of a Linear's weight in a row
        if self.with_bias:
            packed.append(torch.cat([tensors[i] for i in self.biases]))
        return (*(tensors[i] for i in self.rest), *packed)

    def unpack(self, gradients: tuple[Any, ...]) -> Prepared:
        """The gradients in the order of the tensors from outside; integers among those have none."""
        learning = [i for i in self.rest if self.program.outside[i].floating and self.program.outside[i].dims]
        found: dict[int, Any] = dict(zip(learning, gradients, strict=False))
        behind = gradients[len(learning) :]
        found |= dict(zip(self.weights, behind[0].split(self.widths, -1), strict=True))
        if self.with_bias:
            found |= dict(zip(self.biases, behind[1].split(self.widths), strict=True))
        return tuple(found[i] for i in sorted(found))

    def function(self, *given: Any) -> Any:
        """One product, split, and the rest of the chain."""
        if self._made is None:
            self._made = self._compiled()
        return self._made(*given)

    def _compiled(self) -> Any:
        """The chain's text with its products taken out and one put in front."""
        import torch

        names = [*(f"x{i}" for i in self.rest), "packed", *(["bias"] if self.with_bias else [])]
        product = f"torch.addmm(bias, {self.left}, packed)" if self.with_bias else f"torch.mm({self.left}, packed)"
        lines = [f"parts = {product}.split({self.widths}, -1)"]
        for call in self.program.calls:
            number = self.products.get(id(call))
            lines.append(call.line if number is None else f"{call.line.partition(' = ')[0]} = parts[{number}]")
        body = "\n    ".join([*lines, f"return ({', '.join(self.program.returned)},)"]).replace(".view(", ".reshape(")
        space: dict[str, Any] = {"torch": torch}
        exec(compile(f"def packed_chain({', '.join(names)}):\n    {body}", "<packed chain>", "exec"), space)
        return space["packed_chain"]
