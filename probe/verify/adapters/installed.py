"""Which libraries with fused kernels are here, and for which recorded chains have they one? GPU only."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

from probe.verify.adapters import apex, flash_attention, liger, quack, transformer_engine, xformers
from probe.verify.adapters.kinds import Adapter
from probe.verify.program import Program
from probe.verify.proposal import Proposal

ADAPTERS: tuple[Adapter, ...] = tuple(
    one.ADAPTER for one in (liger, flash_attention, quack, transformer_engine, xformers, apex)
)
KINDS_OF: dict[str, tuple[str, ...]] = {
    "F04": ("rms_norm",), "F05": ("layer_norm",), "F12": ("swiglu", "geglu_tanh"),
    "F09": ("linear_cross_entropy",), "F10": ("linear_cross_entropy",),
}  # fmt: skip


def libraries() -> tuple[Adapter, ...]:
    """Those that can be imported; none is, before one of its kernels runs."""
    return tuple(adapter for adapter in ADAPTERS if _is_there(adapter.module))


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # something broken of that name
        return False


def propose(program: Program) -> Iterator[Proposal]:
    """A kernel of each library that has the kind."""
    import torch

    if torch.cuda.is_available():
        yield from proposals(program)


def proposals(program: Program) -> Iterator[Proposal]:
    """The same, wherever it is to run."""
    if program.site.code in KINDS_OF:
        for adapter in libraries():
            yield from proposals_of(program, adapter)


def proposals_of(program: Program, adapter: Adapter) -> Iterator[Proposal]:
    """The kernels of one library that are of the rule's kind, where the roles of the tensors can be told."""
    for kind in KINDS_OF.get(program.site.code, ()):
        line, kernel = adapter.kernels.get(kind, ("", None))
        called = _called(program, kind, kernel) if kernel is not None else None
        if called is not None:
            yield Proposal(f"{adapter.library} {kind}", line, called)


def _called(program: Program, kind: str, kernel: Callable[..., Any]) -> Callable[..., Any] | None:
    """The kernel on the outside tensors by their roles; None where those cannot be told."""
    if kind in ("rms_norm", "layer_norm"):
        return _norm(program, kind, kernel)
    if kind in ("swiglu", "geglu_tanh"):
        return _gated(program, kind, kernel)
    return _loss(program, kernel)


def _norm(program: Program, kind: str, kernel: Callable[..., Any]) -> Callable[..., Any] | None:
    from probe.verify.replacements.norms import roles_of

    roles = roles_of(program)
    wanted = 1 if kind == "rms_norm" else 2
    if roles is None or roles.last != 1 or len(roles.vectors) != wanted or len(roles.arrays) != 1:
        return None
    order = (*roles.arrays, *roles.vectors)
    return lambda *tensors: kernel(*(tensors[i] for i in order), roles.eps)


def _gated(program: Program, kind: str, kernel: Callable[..., Any]) -> Callable[..., Any] | None:
    """The activation of one outside tensor times another; with the products before it, those are made first."""
    activation = program.named("silu" if kind == "swiglu" else "gelu")
    gated = program.calls[-1]
    if activation is None or gated.name != "mul" or (kind == "geglu_tanh" and "tanh" not in activation.line):
        return None
    gate, up = activation.arguments["self"], gated.arguments["other"]
    made = [call.line for call in program.calls if call not in (activation, gated)]
    names = ", ".join(f"x{i}" for i in range(len(program.outside)))
    body = "\n    ".join([*made, f"return kernel({gate}, {up})"])
    import torch

    space: dict[str, Any] = {"torch": torch, "kernel": kernel}
    exec(compile(f"def gated({names}):\n    {body}", "<gated activation>", "exec"), space)
    found: Callable[..., Any] = space["gated"]
    return found


def _loss(program: Program, kernel: Callable[..., Any]) -> Callable[..., Any] | None:
    product, loss = program.named("mm"), program.named("nll_loss_forward")
    if product is None or loss is None or loss.arguments.get("reduction") != "1":
        return None
    texts = (product.arguments["self"], product.arguments["mat2"], loss.arguments["target"])
    if not all(text[1:].isdecimal() for text in texts):
        return None
    x, weight, target = (int(text[1:]) for text in texts)
    ignored = int(loss.arguments.get("ignore_index", "-100"))
    return lambda *tensors: kernel(tensors[x], tensors[weight].t(), tensors[target], ignored)
