"""probe's fused kernels on recorded chains: residual + norm, bias + activation, rotation, pointwise chains.

(F03, F02, F11, F01.) Which tensor is what is told by the chain; where that cannot be told nothing is proposed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from probe.errors import UsageError
from probe.verify.program import Call, Program
from probe.verify.proposal import Proposal

ACTIVATIONS = ("relu", "silu", "gelu", "sigmoid")
PRODUCTS = ("mm", "addmm")
OPTIONS = frozenset({"alpha", "approximate", "dtype", "min", "max"})
DROPPED = frozenset({"layout", "device", "pin_memory", "non_blocking", "copy", "memory_format", "rounding_mode"})
VALUE = re.compile(r"[xt]\d+")
Arranged = tuple[tuple[Any, ...], dict[str, Any]]  # what a kernel is called with


def propose(program: Program) -> Iterator[Proposal]:
    """Where there is a GPU for them."""
    from probe.verify.replacements.fused_kernels import there_is_triton_and_gpu

    if there_is_triton_and_gpu():
        yield from proposals(program)


def proposals(program: Program, by: str = "function") -> Iterator[Proposal]:
    """The kernels that are for this rule. by: "reference" for the same in torch's operators."""
    found = {"F01": _pointwise, "F02": _bias_activation, "F03": _residual_norm, "F11": _rope}.get(program.site.code)
    proposal = found(program, by) if found is not None else None
    if proposal is not None:
        yield proposal


def _proposal(
    name: str, line: str, kernel: Any, by: str, arrange: Callable[..., Arranged], finish: Callable[[Any], Any]
) -> Proposal:
    """arrange: what the kernel is given, of the tensors from outside; finish: the chain's results of its own."""
    function = getattr(kernel, by)

    def called(*tensors: Any) -> Any:
        given, options = arrange(*tensors)
        return finish(function(*given, **options))

    def guard(*tensors: Any) -> str | None:
        given, options = arrange(*tensors)
        why: str | None = kernel.why_not(*given, **options)
        return why

    return Proposal(f"probe {name}", line, called, guard=guard if by == "function" else None)


def _residual_norm(program: Program, by: str) -> Proposal | None:
    """The sum of two tensors, and its norm."""
    from probe.kernels.fused.residual_norm import RESIDUAL_NORM
    from probe.verify.replacements.norms import roles_of

    roles = roles_of(program)
    if roles is None or roles.last != 1 or len(roles.arrays) != 2:
        return None
    kind = "layer" if program.named("native_layer_norm") or program.named("sub") else "rms"

    def arrange(*tensors: Any) -> Arranged:
        return tuple(tensors[i] for i in (*roles.arrays, *roles.vectors)), {"kind": kind, "eps": roles.eps}

    def finish(made: Any) -> Any:
        normed, stream = made
        return (stream, normed) if roles.sums else normed

    line = f'probe.kernels.fused.residual_norm.residual_norm(x, residual, weight, kind="{kind}", eps=eps)'
    return _proposal("residual_norm", line, RESIDUAL_NORM, by, arrange, finish)


def _bias_activation(program: Program, by: str) -> Proposal | None:
    """The activation of x + bias, with the product that makes x before it."""
    from probe.kernels.fused.bias_activation import KERNEL

    roles = _biased(program)
    if roles is None:
        return None
    kind, bias, x = roles

    def arrange(*tensors: Any) -> Arranged:
        made = x(*tensors)
        return (made, tensors[bias].reshape(-1)), {"activation": kind}

    line = f'probe.kernels.fused.bias_activation.bias_activation(x, bias, activation="{kind}")'
    return _proposal("bias_activation", line, KERNEL, by, arrange, lambda made: made)


def _biased(program: Program) -> tuple[str, int, Callable[..., Any]] | None:
    """The activation, the number of the bias, and x of the tensors from outside."""
    names, last = [call.name for call in program.calls], program.calls[-1]
    if len(names) < 2 or names[-1] not in ACTIVATIONS or len(program.returned) != 1:
        return None
    kind = "gelu_tanh" if "tanh" in last.line else names[-1]
    before = program.calls[-2]
    if names[:-1] == ["addmm"] and _plain(before):
        bias, left, right = (_outside(before.arguments[key]) for key in ("self", "mat1", "mat2"))
        if bias is None or left is None or right is None:
            return None
        return kind, bias, lambda *tensors: tensors[left] @ tensors[right]
    if before.name != "add" or not _plain(before) or names[:-2] not in ([], ["mm"]):
        return None
    return _added(program, kind, before)


def _added(program: Program, kind: str, add: Call) -> tuple[str, int, Callable[..., Any]] | None:
    """Of x + bias, in either order."""
    texts = (add.arguments["self"], add.arguments["other"])
    for value, other in (texts, texts[::-1]):
        bias = _outside(other)
        if bias is None or len(program.outside[bias].dims) != 1:
            continue
        x = _outside(value)
        if x is not None:
            return kind, bias, lambda *tensors, x=x: tensors[x]
        left, right = (_outside(program.calls[0].arguments[key]) for key in ("self", "mat2"))
        if value == "t0" and left is not None and right is not None:
            return kind, bias, lambda *tensors, a=left, b=right: tensors[a] @ tensors[b]
    return None


def _plain(call: Call) -> bool:
    """Whether nothing is scaled by alpha or beta."""
    return all(call.arguments.get(key, "1") in ("1", "1.0", "None") for key in ("alpha", "beta"))


def _outside(text: str) -> int | None:
    """The number of the outside tensor that stands there as it is."""
    return int(text[1:]) if re.fullmatch(r"x\d+", text) else None


def _rope(program: Program, by: str) -> Proposal | None:
    """x · cos + rotated(x) · sin of [batch, heads, positions, head_dim], halves rotated; one tensor at a time."""
    from probe.kernels.fused.rope import KERNEL

    roles = _angles(program)
    if roles is None:
        return None
    x, cos, sin = roles

    def arrange(*tensors: Any) -> Arranged:
        rows = (_of_positions(tensors[i]) for i in (cos, sin))
        return (tensors[x], tensors[x][:, :0], *rows), {"layout": "halves"}

    line = "q, k = probe.kernels.fused.rope.rope(q, k, cos, sin)"
    return _proposal("rope", line, KERNEL, by, arrange, lambda made: made[0])


def _angles(program: Program) -> tuple[int, int, int] | None:
    """Numbers of x, cos and sin: what x itself is multiplied with is cos."""
    if sorted(call.name for call in program.calls) != ["add", "cat", "mul", "mul", "neg"] or len(program.outside) != 3:
        return None
    x = max(range(3), key=lambda i: (len(program.outside[i].dims), _elements(program.outside[i].dims)))
    if len(program.outside[x].dims) != 4 or len(program.returned) != 1:
        return None
    joined = next(i for i, call in enumerate(program.calls) if call.name == "cat")
    cos = _factor(program, f"x{x}")
    sin = _factor(program, f"t{joined}")
    return (x, cos, sin) if cos is not None and sin is not None and cos != sin else None


def _factor(program: Program, value: str) -> int | None:
    """The outside tensor that a value is multiplied with; views of one dimension more or less are looked through."""
    for call in program.calls:
        texts = (call.arguments.get("self", ""), call.arguments.get("other", "")) if call.name == "mul" else ()
        for one, other in (texts, texts[::-1]) if texts else ():
            if one == value and (found := re.match(r"x(\d+)", other)):
                return int(found.group(1))
    return None


def _of_positions(angles: Any) -> Any:
    """[positions, head_dim], or a batch of them, of what was broadcast over heads."""
    return angles.squeeze(1) if angles.dim() == 4 and angles.shape[1] == 1 else angles


def _elements(dims: tuple[int, ...]) -> int:
    from math import prod

    return prod(dims)


def _pointwise(program: Program, by: str) -> Proposal | None:
    """The chain as one generated kernel."""
    from probe.kernels.fused.chain_recording import Recorded, of_operators
    from probe.kernels.fused.pointwise_chain import KERNEL

    recorded = [_recorded(program, call) for call in program.calls]
    outputs = [_number(program, name) for name in program.returned]
    if None in recorded or None in outputs:
        return None
    operators = [Recorded(name, arguments, options) for name, arguments, options in filter(None, recorded)]
    try:
        chain = of_operators(len(program.outside), operators, [n for n in outputs if n is not None])
    except UsageError:  # an operator that the generator does not know
        return None
    line = f"pointwise_chain(of_function(f, {', '.join('x' for _ in program.outside)}), …)  # probe.kernels.fused"
    return _proposal("pointwise_chain", line, KERNEL, by, lambda *tensors: ((chain, *tensors), {}), lambda made: made)


def _recorded(program: Program, call: Call) -> tuple[str, tuple[Any, ...], dict[str, Any]] | None:
    """A step as the generator takes it; None where an argument is neither a value as it is nor a number."""
    arguments: list[Any] = []
    options: dict[str, Any] = {}
    for name, text in call.arguments.items():
        known, value = _argument(program, text)
        if not known and name not in DROPPED:
            return None
        if name in DROPPED:
            if name == "rounding_mode" and text != "None":
                return None
        elif name in OPTIONS:
            options[name] = value
        else:
            arguments.append(value)
    return call.name, tuple(arguments), {key: value for key, value in options.items() if value is not None}


def _argument(program: Program, text: str) -> tuple[bool, Any]:
    """Whether it is known, and what it is."""
    import ast

    import torch

    from probe.kernels.fused.chain_recording import Value

    number = _number(program, text)
    if number is not None:
        return True, Value(number)
    if re.fullmatch(r"torch\.\w+", text):
        return True, getattr(torch, text.removeprefix("torch."))
    try:
        return True, ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False, None


def _number(program: Program, text: str) -> int | None:
    """Values are numbered: what comes from outside first."""
    if not VALUE.fullmatch(text):
        return None
    return int(text[1:]) + (len(program.outside) if text[0] == "t" else 0)
