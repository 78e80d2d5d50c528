"""F.linear_cross_entropy, whole and in chunks, and chunks made with torch's checkpointing (F09, F10)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from probe.verify.program import Program
from probe.verify.proposal import Proposal

CODES = frozenset({"F09", "F10"})
REDUCTIONS = {"0": "none", "1": "mean", "2": "sum"}
CHUNK_BYTES = 1 << 23  # of float32 logits at once


def propose(program: Program) -> Iterator[Proposal]:
    """Where the product, the softmax and the loss are in the chain."""
    product, loss = program.named("mm") or program.named("addmm"), program.named("nll_loss_forward")
    if program.site.code not in CODES or product is None or loss is None or len(program.returned) != 1:
        return
    left = product.arguments["self" if product.name == "mm" else "mat1"]
    bias = product.arguments["self"] if product.name == "addmm" else None
    roles = [left, product.arguments["mat2"], loss.arguments["target"], bias]
    numbers = [None if text is None else _number(text) for text in roles]
    reduction = REDUCTIONS.get(loss.arguments.get("reduction", "1"), "mean")
    if None in numbers[:3] or (bias is not None and numbers[3] is None) or reduction == "none":
        return
    x, weight, target, added = numbers
    ignored = int(loss.arguments.get("ignore_index", "-100"))
    yield from _torch_own(x, weight, target, added, reduction, ignored)
    yield _chunked(x, weight, target, added, reduction, ignored)


def _number(text: str) -> int | None:
    return int(text[1:]) if text[:1] == "x" and text[1:].isdecimal() else None


def _torch_own(x: Any, weight: Any, target: Any, bias: Any, reduction: str, ignored: int) -> Iterator[Proposal]:
    """torch ≥ 2.13 has it; with options it makes the logits in chunks."""
    import torch

    function = getattr(torch.nn.functional, "linear_cross_entropy", None)
    options = getattr(torch.nn, "LinearCrossEntropyOptions", None)
    if function is None or options is None:
        return
    for name, more in (("F.linear_cross_entropy, chunked", {"options": options()}), ("F.linear_cross_entropy", {})):

        def whole(*tensors: Any, more: dict[str, Any] = more) -> Any:
            added = {} if bias is None else {"linear_bias": tensors[bias]}
            return function(
                tensors[x], tensors[weight].t(), tensors[target], reduction=reduction, ignore_index=ignored,
                **added, **more,
            )  # fmt: skip

        said = "options=torch.nn.LinearCrossEntropyOptions()" if more else ""
        line = f"F.linear_cross_entropy(hidden, weight, targets{', ' + said if said else ''})"
        yield Proposal(name, line, whole)


def _chunked(x: Any, weight: Any, target: Any, bias: Any, reduction: str, ignored: int) -> Proposal:
    """The rows a few at a time, the logits of each made again in the backward pass."""

    def chunked(*tensors: Any) -> Any:
        import torch
        from torch.utils.checkpoint import checkpoint

        rows, targets, columns = tensors[x], tensors[target], tensors[weight].shape[-1]
        step = max(1, CHUNK_BYTES // (4 * columns))

        def part(some: Any, wanted: Any) -> Any:
            logits = some @ tensors[weight]
            logits = logits if bias is None else logits + tensors[bias]
            return torch.nn.functional.cross_entropy(logits, wanted, reduction="sum", ignore_index=ignored)

        pairs = zip(rows.split(step), targets.split(step), strict=True)
        total = sum(checkpoint(part, some, wanted, use_reentrant=False) for some, wanted in pairs)
        return total / (targets != ignored).sum() if reduction == "mean" else total

    return Proposal(
        "cross-entropy in chunks", "checkpoint(loss_of_rows, hidden_chunk, target_chunk) over chunks", chunked
    )
