"""The same scaled_dot_product_attention on each of torch's backends (F07, F08)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from probe.verify.program import Call, Program
from probe.verify.proposal import Proposal

OPERATORS = ("scaled_dot_product_attention", "_scaled_dot_product_attention_math")
BACKENDS = {"FLASH_ATTENTION": "flash", "EFFICIENT_ATTENTION": "memory-efficient", "CUDNN_ATTENTION": "cuDNN"}


def propose(program: Program) -> Iterator[Proposal]:
    """For a chain of that one operator."""
    if program.site.code not in ("F07", "F08") or program.calls[-1].name not in OPERATORS:
        return
    if len(program.calls) != 1 and program.site.code != "F08":  # there the mask may be made in the chain
        return
    call = program.calls[-1]
    if program.site.code == "F08":
        yield Proposal("is_causal", "F.scaled_dot_product_attention(q, k, v, is_causal=True)", _causal(call))
        return
    yield Proposal("scaled_dot_product_attention", "F.scaled_dot_product_attention(q, k, v)", _attend(call, None))
    import torch

    for name, said in BACKENDS.items() if torch.cuda.is_available() else ():
        line = f"with torch.nn.attention.sdpa_kernel(SDPBackend.{name}): ..."
        yield Proposal(f"SDPA, {said}", line, _attend(call, name))


def _causal(call: Call) -> Any:
    """Without the mask, which is one for a causal order."""
    return _attend(replace(call, arguments=call.arguments | {"attn_mask": "None", "is_causal": "True"}), None)


def _attend(call: Call, backend: str | None) -> Any:
    """The call by its recorded arguments, on that backend."""
    given = {key: call.arguments.get(key, "None") for key in ("query", "key", "value", "attn_mask")}
    causal, scale = call.arguments.get("is_causal", "False") == "True", call.arguments.get("scale", "None")

    def attend(*tensors: Any) -> Any:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        space = {f"x{i}": tensor for i, tensor in enumerate(tensors)}
        q, k, v, mask = (eval(text, {}, space) for text in given.values())
        factor = None if scale == "None" else float(scale)
        run = torch.nn.functional.scaled_dot_product_attention
        if backend is None:
            return run(q, k, v, mask, is_causal=causal, scale=factor)
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return run(q, k, v, mask, is_causal=causal, scale=factor)

    return attend
