"""Our fused kernels in Triton's interpreter: what tests run as a process of its own, to read what it says.

TRITON_INTERPRET must be set before the kernels are defined, and then holds for the whole process.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import fused_cases
import torch
from triton_interpreted import NO_LOOPS, loops_run

EXAMPLES = 10  # of sizes that hypothesis chooses, a family


def found(family: str) -> dict[str, Any]:
    """What is wrong of the cases of a family, of sizes that hypothesis chooses, and of its registration with torch."""
    return {
        "cases": {case.name: _judged(case) for case in fused_cases.cases(family)},
        "sizes": _over_sizes(family),
        "registered": _registered(family),
    }


def _judged(case: fused_cases.Case) -> list[str]:
    """What is wrong, an error included."""
    try:
        return fused_cases.failures(case)
    except Exception:
        return [traceback.format_exc(limit=-3)]


def _over_sizes(family: str) -> str | None:
    """The smallest sizes at which something is wrong."""
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    quiet = settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )

    @quiet
    @given(st.integers(1, 40), st.integers(1, 300), st.sampled_from(("float32", "float16")))
    def right(rows: int, columns: int, dtype: str) -> None:
        wrong = fused_cases.failures(SIZED[family](rows, columns, dtype))
        assert not wrong, (rows, columns, dtype, wrong)

    try:
        right()
    except Exception:
        return traceback.format_exc(limit=-2)
    return None


def _sized(family: str, label: str, *inputs: Callable[[int, int], tuple[int, ...]]) -> Any:
    """Cases of a family with inputs of the sizes that follow from rows and columns."""

    def case(rows: int, columns: int, dtype: str) -> fused_cases.Case:
        like = next(c for c in fused_cases.cases(family) if c.label == label)

        def make(generator: torch.Generator) -> list[Any]:
            return [fused_cases.normal(*sizes(rows, columns))(generator) for sizes in inputs]

        return fused_cases.Case(label, like.function, like.reference, make, dtype, like.options, like.only_function)

    return case


def _rope(rows: int, columns: int, dtype: str) -> fused_cases.Case:
    from probe.kernels.fused.rope import reference, rope

    half = columns % 70 + 1
    angles = torch.rand(rows, half) * 100

    def run(way: Any) -> Any:
        def turned(q: torch.Tensor, k: torch.Tensor) -> Any:
            at = angles.double() if q.dtype == torch.float64 else angles
            return way(q, k, at.cos(), at.sin(), layout="pairs" if columns % 2 else "halves")

        return turned

    def make(generator: torch.Generator) -> list[Any]:
        return [fused_cases.normal(1, heads, rows, 2 * half)(generator) for heads in (2, 1)]

    return fused_cases.Case("sized", run(rope), run(reference), make, dtype)


def _linear_cross_entropy(rows: int, columns: int, dtype: str) -> fused_cases.Case:
    [like] = [c for c in fused_cases.cases("linear_cross_entropy") if c.name == "plain-float32"]

    def make(generator: torch.Generator) -> list[Any]:
        target = torch.randint(-1, columns, (rows,), generator=generator)
        return [fused_cases.normal(n, 8)(generator) for n in (rows, columns)] + [target]

    options = {"ignore_index": -1, "reduction": "sum"}
    return fused_cases.Case("sized", like.function, like.reference, make, dtype, options, {"chunk_rows": 9})


def _pointwise_chain(rows: int, columns: int, dtype: str) -> fused_cases.Case:
    """A chain that follows from the sizes: operators, and which values they take."""
    from probe.kernels.fused.chain import Chain, Operation

    draw = random.Random(rows * 1000 + columns)
    operations: list[Operation] = []
    for i in range(draw.randint(1, 8)):
        name = draw.choice([*(n for n in fused_cases.SMOOTH if n != "exp"), "add", "sub", "mul", "maximum"])
        values = [draw.randrange(4 + i) for _ in range(2 if name in fused_cases.TWO else 1)]
        operations.append(Operation(name, tuple(values)))
    operations.append(Operation("add", (0, 3 + len(operations))))  # so that the full size is reached
    chain = Chain(4, tuple(operations), (3 + len(operations),))
    sizes = ((rows, columns), (columns,), (rows, 1), ())
    return fused_cases.chain_case("random", chain, *sizes, dtype=dtype, condition=4.0)


def _scored_attention(rows: int, columns: int, dtype: str) -> fused_cases.Case:
    [like] = [c for c in fused_cases.cases("scored_attention") if c.name == "both-float32"]
    keys = columns % 70 + 1

    def make(generator: torch.Generator) -> list[Any]:
        q, k, v = (fused_cases.normal(1, 2, n, 16)(generator) for n in (rows, keys, keys))
        return [q, k, v, fused_cases.normal(rows, keys)(generator)]

    options = {"softcap": 4.0, "causal": bool(columns % 2)}
    return fused_cases.Case("sized", like.function, like.reference, make, dtype, options, gradients=False)


SIZED: dict[str, Any] = {
    "bias_activation": _sized("bias_activation", "gelu_tanh", lambda r, c: (r, c), lambda r, c: (c,)),
    "residual_norm": _sized(
        "residual_norm", "layer-residual", lambda r, c: (r, c + 3), lambda r, c: (r, c + 3), lambda r, c: (c + 3,)
    ),
    "gated_activation": _sized("gated_activation", "silu", lambda r, c: (r, c), lambda r, c: (r, c)),
    "rope": _rope,
    "linear_cross_entropy": _linear_cross_entropy,
    "pointwise_chain": _pointwise_chain,
    "scored_attention": _scored_attention,
}


def _registered(family: str) -> list[str]:
    """What torch finds wrong with the operators: schema, fake tensors, autograd, tracing."""
    wrong = []
    for operator, arguments in CALLS[family]():
        checks = torch.library.opcheck(operator, arguments, raise_exception=False)
        wrong += [f"{operator}: {name}: {said}" for name, said in checks.items() if said != "SUCCESS"]
    return wrong


def _leaf(*sizes: int) -> torch.Tensor:
    return torch.randn(sizes).requires_grad_()


def _bias_activation_calls() -> Any:
    seed, operators = torch.tensor([3]), torch.ops.probe
    yield operators.bias_activation, (_leaf(3, 20), _leaf(20), seed, "gelu", 0.5)
    yield operators.bias_activation, (_leaf(3, 20), None, None, "silu", 0.0)
    yield operators.bias_activation_backward, (torch.ones(3, 20), torch.ones(20), seed, torch.ones(3, 20), "gelu", 0.5)


def _residual_norm_calls() -> Any:
    operator = torch.ops.probe.residual_norm
    yield operator, (_leaf(3, 20), _leaf(3, 20), _leaf(20), _leaf(20), torch.tensor([3]), "layer", 1e-5, 0.5)
    yield operator, (_leaf(3, 20), None, None, None, None, "rms", 1e-5, 0.0)


def _gated_activation_calls() -> Any:
    operator = torch.ops.probe.gated_activation
    yield operator, (_leaf(3, 20), _leaf(3, 20), "silu")
    yield operator, (_leaf(3, 20), None, "gelu")


def _rope_calls() -> Any:
    angles = torch.rand(5, 4)
    yield torch.ops.probe.rope, (_leaf(1, 2, 5, 8), _leaf(1, 1, 5, 8), angles.cos(), angles.sin(), "pairs", False)


def _linear_cross_entropy_calls() -> Any:
    inputs = (_leaf(5, 8), _leaf(7, 8), _leaf(7), torch.tensor([1, 2, -100, 0, 6]))
    yield torch.ops.probe.linear_cross_entropy, (*inputs, -100, 0.1, True, 0.0, 2, True, True, True)
    yield torch.ops.probe.linear_cross_entropy, (*inputs, -100, 0.0, False, 3.0, 2, True, False, False)


def _pointwise_chain_calls() -> Any:
    chain = '[3, [["mul", 0, 1], ["tanh", 3], ["gt", 4, 0.0], ["where", 5, 4, 2]], [6, 3]]'
    inputs = [_leaf(4, 5), _leaf(5), torch.randn(4, 1)]
    yield torch.ops.probe.pointwise_chain, (inputs, chain)


def _scored_attention_calls() -> Any:
    q, k = torch.randn(1, 2, 5, 16), torch.randn(1, 2, 7, 16)
    yield torch.ops.probe.scored_attention, (q, k, k, torch.randn(5, 7), 3.0, True, 0.25)


CALLS: dict[str, Callable[[], Any]] = {
    "bias_activation": _bias_activation_calls,
    "residual_norm": _residual_norm_calls,
    "gated_activation": _gated_activation_calls,
    "rope": _rope_calls,
    "linear_cross_entropy": _linear_cross_entropy_calls,
    "pointwise_chain": _pointwise_chain_calls,
    "scored_attention": _scored_attention_calls,
}


def seen_by_torch() -> dict[str, Any]:
    """Which of our operators torch.compile, torch.export and the profiler see, and what dropout draws."""
    from probe.kernels.fused.bias_activation import bias_activation

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            return bias_activation(x, bias, activation="silu") * 2

    x, bias = _leaf(4, 20), _leaf(20)
    compiled: list[str] = []

    def backend(graph: Any, _: Any) -> Any:
        compiled.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    torch.compile(Model(), backend=backend, fullgraph=True)(x, bias)
    exported = [str(node.target) for node in torch.export.export(Model(), (x, bias)).graph.nodes]
    with torch.profiler.profile() as profile:
        Model()(x, bias).sum().backward()
    named = [event.name for event in profile.events()]
    return {
        name: [target for target in targets if "probe" in target]
        for name, targets in (("compiled", compiled), ("exported", exported), ("profiled", named))
    } | {"dropout": _dropout(), "traced": _traced()}


def _traced() -> dict[str, Any]:
    """What is wrong of each kernel in a function that torch.compile takes whole: outputs and gradients."""
    from probe.kernels.fused.examples import examples
    from probe.kernels.fused.resources import run

    found: dict[str, Any] = {}
    for example in examples(torch.float32, "cpu", 8, 128):
        torch.compiler.reset()
        for leaf in example.leaves():
            leaf.data.normal_()
        traced = dataclasses.replace(example, kernel=dataclasses.replace(example.kernel, function=_whole(example)))
        try:
            pairs = zip(run(example), run(traced), strict=True)
            random = example.options.get("p", 0.0) > 0  # other elements are kept
            found[f"{example.kernel.name}: {example.label}"] = random or all(torch.allclose(a, b) for a, b in pairs)
        except Exception:
            found[f"{example.kernel.name}: {example.label}"] = traceback.format_exc(limit=-2)
    return found


def _whole(example: Any) -> Any:
    """The function of an example, compiled for its tensors; what else it takes is a constant."""
    given = [one for one in example.inputs if not isinstance(one, torch.Tensor)]
    options = {key: value for key, value in example.options.items() if key != "seed"}
    compiled = torch.compile(
        lambda *tensors: example.kernel.function(*given, *tensors, **options), backend="aot_eager", fullgraph=True
    )
    return lambda *inputs, **_: compiled(*inputs[len(given) :])


def _dropout() -> dict[str, Any]:
    from probe.kernels.fused.bias_activation import bias_activation

    def drawn(rows: int, columns: int, **options: Any) -> torch.Tensor:
        return bias_activation(torch.ones(rows, columns), activation="none", **options)

    one = drawn(64, 1000, p=0.25, seed=3)
    torch.manual_seed(1)
    first = drawn(4, 100, p=0.5)
    torch.manual_seed(1)
    return {
        "share": float((one == 0).float().mean()),
        "kept": float(one.max()),
        "same_seed": bool(one.equal(drawn(64, 1000, p=0.25, seed=3))),
        "other_seed": bool(one.equal(drawn(64, 1000, p=0.25, seed=4))),
        "other_tiles": bool(one[:5, :100].equal(drawn(5, 100, p=0.25, seed=3))),
        "torchs_seed": bool(first.equal(drawn(4, 100, p=0.5))),
        "all": float(drawn(4, 100, p=1.0).abs().max()),
        "rows_differ": not bool(one[0].equal(one[1])),
    }


if __name__ == "__main__":
    if not loops_run():
        sys.exit(NO_LOOPS)
    warnings.simplefilter("ignore")  # numpy's, of numbers that the kernels mask afterwards
    answer = seen_by_torch() if sys.argv[1] == "seen" else found(sys.argv[1])
    sys.stdout.write(json.dumps(answer))
